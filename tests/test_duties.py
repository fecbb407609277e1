"""What the standard wants somebody to be told, or decided in writing, stands in a page (RFC 8995, 7, 9 and 10)."""

import re

import pytest

from tests.support import documents

PLANT, MAKER = "operations-plant-networks.md", "operations-device-makers.md"


def section(page: str, heading: str) -> str:
    """The text under a heading, its lines joined."""
    text = (documents.ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page} has no section {heading!r}"
    return " ".join(found[1].split())


@pytest.mark.parametrize(
    ("page", "heading", "said"),
    [
        pytest.param(
            PLANT, "Who learns what", ("serial number, maker, name of the MASA", "TLS 1.3 hides it", "false registrar"),
            marks=pytest.mark.req("OP-01"),
        ),
        pytest.param(
            PLANT, "Who learns what", ("which of its devices join", "when", "from which address", "domainID", "`init`"),
            marks=pytest.mark.req("OP-02"),
        ),
        pytest.param(
            MAKER, "A sale", ("**stolen**", "**resold, or of unknown origin**", "**at the end of its life**", "policy"),
            marks=pytest.mark.req("OP-03"),
        ),
        pytest.param(
            MAKER, "When a key leaks, or you close", ("sealed copy of the root keys", "moved to another company"),
            marks=pytest.mark.req("OP-04"),
        ),
        pytest.param(PLANT, "What `init` makes", ("two copies", "token"), marks=pytest.mark.req("OP-05")),
        pytest.param(
            MAKER, "When a key leaks, or you close", ("firmware update that replaces the anchor",),
            marks=pytest.mark.req("OP-07"),
        ),
        pytest.param(
            MAKER, "When a key leaks, or you close", ("a last firmware whose voucher anchor", "--masa-url"),
            marks=pytest.mark.req("RS-13"),
        ),
        pytest.param(
            "applicability.md", "Where this suite applies", ("mDNS", "GRASP", "**Proximity.**", "**Reduced security**"),
            marks=pytest.mark.req("OP-08"),
        ),
    ],
)  # fmt: skip
def test_a_page_says_what_people_have_to_know(page: str, heading: str, said: tuple[str, ...]) -> None:
    text = section(page, heading)
    assert [words for words in said if words not in text] == []
