"""Settings: a TOML file, the environment above it, and errors an operator can act upon."""

import subprocess
import sys
import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, SecretStr, model_validator

from brski_common import settings
from brski_common.errors import Misconfigured
from brski_common.settings import DatabaseUrl, KeyUri, Section

FORMS = "sqlite:///FILE or postgresql://USER@HOST/NAME"


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Listen(Section):
    host: str = Field(default="127.0.0.1", description="The address to listen on")
    port: int = Field(default=8443, ge=0, le=65535, description="The TCP port; 0 takes a free one")


class Rule(Section):
    name: str
    anchors: Path


class Example(Section):
    name: str = Field(description="What the plant is called")
    colour: Colour = Field(default=Colour.RED, description="The colour of the door.")
    mode: Literal["open", "shut"] = "open"
    strict: bool = True
    seconds: float | None = Field(default=None, gt=0, description="How long to wait")
    serials: tuple[str, ...] = ()
    anchors: tuple[Path, ...] = ()
    folder: Path = Path("state")
    key: KeyUri = "file:keys/a.pem"
    database: DatabaseUrl = "sqlite:///example.db"
    password: SecretStr | None = None
    listen: Listen = Field(default=Listen(), description="Where the service listens")
    rules: tuple[Rule, ...] = ()


def load(folder: Path, text: str = "", **environment: str) -> Example:
    path = folder / "example.toml"
    path.write_text('name = "Plant"\n' + text)
    return settings.load(Example, path, "BRSKI_EXAMPLE_", environment)


def refusal(folder: Path, text: str = "", **environment: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(folder, text, **environment)
    assert caught.value.reason == "settings-invalid"
    return caught.value.detail


def test_the_file_is_read(tmp_path: Path) -> None:
    found = load(tmp_path, 'colour = "green"\n[listen]\nport = 1\n[[rules]]\nname = "r"\nanchors = "a.pem"\n')
    assert (found.name, found.colour, found.listen.port, found.rules[0].name) == ("Plant", Colour.GREEN, 1, "r")


def test_the_environment_wins(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        "[listen]\nport = 1\n",
        BRSKI_EXAMPLE_NAME="From outside",
        BRSKI_EXAMPLE_LISTEN__PORT="2",
        BRSKI_EXAMPLE_STRICT="false",
        BRSKI_EXAMPLE_SERIALS='["a", "b"]',
        BRSKI_OTHER_NAME="not ours",
    )
    assert (found.name, found.listen.port, found.strict, found.serials) == ("From outside", 2, False, ("a", "b"))


def test_the_environment_may_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = settings.load(Example, None, "BRSKI_EXAMPLE_", {"BRSKI_EXAMPLE_NAME": "[Plant]"})
    assert (found.name, found.folder) == ("[Plant]", tmp_path / "state")


def test_relative_places_are_relative_to_the_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    found = load(tmp_path, 'anchors = ["a.pem", "/abs/b.pem"]\n[[rules]]\nname = "r"\nanchors = "c.pem"\n')
    assert found.anchors == (tmp_path / "a.pem", Path("/abs/b.pem"))
    assert found.rules[0].anchors == tmp_path / "c.pem"
    assert found.folder == tmp_path / "state"
    assert found.key == f"file:{tmp_path}/keys/a.pem"
    assert found.database == f"sqlite:///{tmp_path}/example.db"


def test_the_defaults_of_a_table_are_relative_to_the_file_too(tmp_path: Path) -> None:
    class Table(Section):
        folder: Path = Path("inner")

    class Outer(Section):
        table: Table = Table()

    (tmp_path / "a.toml").touch()
    assert settings.load(Outer, tmp_path / "a.toml", "BRSKI_A_", {}).table.folder == tmp_path / "inner"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key", "pkcs11:token=a;object=b"),
        ("key", "file:/abs/a.pem"),
        ("database", "sqlite:////abs/a.db"),
        ("database", "postgresql://me@host/name"),
    ],
)
def test_absolute_places_stay(tmp_path: Path, key: str, value: str) -> None:
    assert getattr(load(tmp_path, f'{key} = "{value}"\n'), key) == value


def test_an_unknown_key_is_named_with_its_file_and_the_keys_there_are(tmp_path: Path) -> None:
    assert refusal(tmp_path, "[listen]\nprot = 1\n") == (
        f"{tmp_path}/example.toml: listen.prot: unknown key (allowed: host, port)"
    )
    assert "rules.0.nmae: unknown key (allowed: name, anchors)" in refusal(
        tmp_path, '[[rules]]\nname = "r"\nanchors = "a"\nnmae = "r"\n'
    )


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, BRSKI_EXAMPLE_LISTEN__PROT="1").startswith(
        "BRSKI_EXAMPLE_LISTEN__PROT: listen.prot: unknown key"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('colour = "blue"\n', "allowed: red, green"),
        ('mode = "ajar"\n', "allowed: open, shut"),
        ('strict = "perhaps"\n', "allowed: true, false"),
        ("seconds = 0\n", "greater than 0 (How long to wait)"),
        ("[listen]\nport = 70000\n", "less than or equal to 65535 (The TCP port; 0 takes a free one)"),
        ('key = ""\n', "file:PATH or pkcs11:"),
        ('database = "mysql://x"\n', "sqlite:///FILE or postgresql://"),
    ],
)
def test_a_bad_value_is_told_with_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(tmp_path, text)


def test_what_the_fault_says_is_not_said_twice(tmp_path: Path) -> None:
    class Store(settings.Section):
        database: settings.DatabaseUrl = Field(default="sqlite:///a", description=FORMS)

    with pytest.raises(Misconfigured) as refused:
        settings.load(Store, None, "BRSKI_EXAMPLE_", {"BRSKI_EXAMPLE_DATABASE": "mysql://x"})
    assert refused.value.detail == f"BRSKI_EXAMPLE_DATABASE: database: must be {FORMS}"


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    told = refusal(tmp_path, 'colour = "blue"\nnothing = 1\n')
    assert "colour" in told
    assert "nothing" in told


def test_a_missing_key_is_told_with_its_purpose(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"name: must be set \(What the plant is called\)"):
        settings.load(Example, None, "BRSKI_EXAMPLE_", {})


def test_a_fault_in_the_environment_names_the_variable_and_not_its_value(tmp_path: Path) -> None:
    told = refusal(tmp_path, BRSKI_EXAMPLE_LISTEN__PORT="hunter2")
    assert told.startswith("BRSKI_EXAMPLE_LISTEN__PORT: listen.port: ")
    assert "hunter2" not in told


def test_a_secret_is_in_no_error(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, 'password = ["hunter2"]\n')
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"a = 1\n" * 100_000], ids=["syntax", "utf-8", "size"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(Misconfigured, match=rf"settings-unreadable: {path}"):
        settings.load(Example, path, "BRSKI_EXAMPLE_", {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.toml: No such file"):
        settings.load(Example, tmp_path / "none.toml", "BRSKI_EXAMPLE_", {})


def test_settings_do_not_change(tmp_path: Path) -> None:
    found = load(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        found.name = "other"


WRITTEN = """\
# The settings of the example.

# What the plant is called
name = "Plant \\"A\\""

# The colour of the door. allowed: red, green
# colour = "red"

# allowed: open, shut
# mode = "open"

# allowed: true, false
# strict = true

# How long to wait
# seconds =

serials = ["a"]

# anchors = []

# folder = "state"

# key = "file:keys/a.pem"

# database = "sqlite:///example.db"

# password =

# Where the service listens
[listen]

# The address to listen on
# host = "127.0.0.1"

# The TCP port; 0 takes a free one
port = 1

[[rules]]

name = "r"

anchors = "a.pem"
"""


def test_the_file_of_init_is_commented_and_complete(tmp_path: Path) -> None:
    made = Example(
        name='Plant "A"', serials=("a",), listen=Listen(port=1), rules=(Rule(name="r", anchors=Path("a.pem")),)
    )
    text = settings.render(made, "The settings of the example.")
    assert text == WRITTEN
    (tmp_path / "example.toml").write_text(text)
    found = settings.load(Example, tmp_path / "example.toml", "BRSKI_EXAMPLE_", {})
    assert (found.name, found.serials, found.listen, found.rules[0].anchors) == (
        made.name,
        made.serials,
        made.listen,
        tmp_path / "a.pem",
    )


def test_long_comments_are_wrapped_and_odd_texts_are_quoted() -> None:
    class Odd(Section):
        text: str = Field(description="word " * 60)
        table: dict[str, int] = Field(default_factory=dict)

    text = settings.render(Odd(text='a\n"b"\\ü\x7f', table={"x y": 1}))
    assert max(map(len, text.splitlines())) <= 102
    assert tomllib.loads(text) == {"text": 'a\n"b"\\ü\x7f', "table": {"x y": 1}}


def test_the_settings_cost_no_more_than_pydantic() -> None:
    script = "import sys, brski_common.settings; print('pydantic_settings' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "False\n"


class Pair(Section):
    key: str | None = None
    chain: str | None = None

    @model_validator(mode="after")
    def _belong_together(self) -> "Pair":
        if (self.key is None) != (self.chain is None):
            raise ValueError("key and chain belong together")
        return self


def test_a_rule_over_the_whole_file_is_told_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "pair.toml").write_text('key = "k"')
    with pytest.raises(Misconfigured, match=r"pair\.toml: key and chain belong together"):
        settings.load(Pair, tmp_path / "pair.toml", "PAIR_", {})
