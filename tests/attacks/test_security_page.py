"""docs/security.md names tests that exist, of this room every one, and every attack of the matrix."""

import re
from pathlib import Path

ROOM = Path(__file__).parent
PAGE = (ROOM.parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
FILES = [path for path in ROOM.glob("test_*.py") if path != Path(__file__)]
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
EVERYWHERE = "\n".join(path.read_text(encoding="utf-8") for path in ROOM.parent.rglob("test_*.py"))


def test_every_test_that_is_named_exists_and_every_test_is_named() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    there = set(re.findall(r"def (test_\w+)\(", SOURCE))
    assert named - set(re.findall(r"def (test_\w+)\(", EVERYWHERE)) == set(), "named, but not there"
    assert there - named == set(), "there, but not named"


def test_every_attack_of_the_matrix_is_on_the_page_and_carried_out() -> None:
    attacks = {f"AT-{number:02}" for number in range(1, 28)}
    assert attacks - set(re.findall(r"AT-\d\d", PAGE)) == set()
    assert attacks - set(re.findall(r'"(AT-\d\d)"', SOURCE)) == set()
