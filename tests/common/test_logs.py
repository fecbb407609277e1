"""The log: one form for everything, and no secret in it by whatever way it comes."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import keys, logs
from brski_common.errors import Untrusted

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA==\n-----END EC PRIVATE KEY-----\n"


@pytest.fixture(autouse=True)
def log_as_json() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    logs.configure(json=True, level="info")
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_an_event_is_one_json_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.logger("registrar").info("voucher asked for", serial="A-1", count=2, at=datetime(2026, 1, 1, tzinfo=UTC))
    found = told(capsys)
    assert datetime.fromisoformat(found.pop("time")).tzinfo
    assert found == {
        "event": "voucher asked for",
        "level": "info",
        "logger": "registrar",
        "serial": "A-1",
        "count": 2,
        "at": "2026-01-01T00:00:00+00:00",
    }


def test_what_libraries_log_has_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("library").warning("a thing with pin-value=1234 in %s", PEM)
    found = told(capsys)
    assert found["logger"] == "library"
    assert found["level"] == "warning"
    assert found["event"] == "a thing with pin-value=[hidden] in [hidden]\N{REPLACEMENT CHARACTER}"


def test_below_the_level_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    logs.logger("a").debug("quiet")
    logging.getLogger("b").debug("quiet")
    assert capsys.readouterr() == ("", "")


def test_to_configure_twice_does_not_log_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=True, level="warning")
    logging.getLogger("library").info("quiet")
    logging.getLogger("library").warning("once")
    assert told(capsys)["event"] == "once"


def test_a_logger_follows_what_is_configured_after_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    log = logs.logger("registrar")
    logs.configure(json=True, level="warning")
    log.info("quiet")
    logs.configure(json=True, level="debug")
    log.debug("loud")
    assert told(capsys)["event"] == "loud"


def test_a_library_s_error_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        int("x")
    except ValueError:
        logging.getLogger("library").exception("a thing failed at %d", 7, stack_info=True)
    found = told(capsys)
    assert list(found) == ["event", "stack_info", "logger", "level", "time", "exception"]
    assert (found["event"], found["level"]) == ("a thing failed at 7", "error")
    assert found["exception"].endswith("invalid literal for int() with base 10: 'x'")


@pytest.mark.parametrize("as_json", [True, False])
def test_both_entrances_lead_to_the_same_line(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    logs.configure(json=as_json)
    tokens = logs.bind(request="r-1")
    logs.logger("part").warning("a thing")
    logging.getLogger("part").warning("a %s", "thing")
    logs.unbind(tokens)
    first, second = (re.sub(r"\d{4}-\S+Z", "", line) for line in capsys.readouterr().err.splitlines())
    assert first == second
    assert "r-1" in first


SECRET_NAMES = ("password", "console_password", "passphrase", "pin", "user-pin", "client_secret", "private_key")
HEADER_NAMES = ("Authorization", "cookie", "set-cookie", "api_key", "access_token", "credential")


@pytest.mark.parametrize("name", SECRET_NAMES + HEADER_NAMES)
def test_a_value_with_a_secret_name_is_hidden(capsys: pytest.CaptureFixture[str], name: str) -> None:
    logs.logger("a").info("event", **{name: "hunter2", "nested": {name: "hunter2"}})
    found = told(capsys)
    assert found[name] == found["nested"][name] == "[hidden]"


@pytest.mark.parametrize("name", ["pinned_domain_cert", "serial", "spinning", "tokens_issued", "nonce", "passed"])
def test_other_names_are_not(capsys: pytest.CaptureFixture[str], name: str) -> None:
    logs.logger("a").info("event", **{name: "seen"})
    assert told(capsys)[name] == "seen"


@pytest.mark.parametrize(
    "text",
    [
        f"key: {PEM}",
        PEM[:40],  # cut off
        "pkcs11:token=a?pin-value=hunter2&module-path=/x",
        "postgresql://me:hunter2@host/name",
        "Authorization: Basic aHVudGVyMjpodW50ZXIy",
        "bearer aHVudGVyMi5odW50ZXIy",
    ],
)
def test_a_secret_inside_a_text_is_hidden(capsys: pytest.CaptureFixture[str], text: str) -> None:
    logs.logger("a").info("event", found=text, inside=[text], error=ValueError(text))
    out = capsys.readouterr().err
    assert out.count("[hidden]") == 3
    for secret in ("hunter2", "MHcC", "aHVudGVy"):
        assert secret not in out


PIECES = st.sampled_from(
    ["BASIC ", "beARER ", "abcdefgh", "://", "me:pw@", "pin-value=", "PIN-VALUE=", "-----BEGIN ", "PRIVATE KEY-----"]
)


@given(st.lists(PIECES | st.text(max_size=4)).map("".join))
def test_a_text_that_looks_harmless_at_a_glance_is(text: str) -> None:
    """Behind a letter that is not ASCII the same text is always looked at thoroughly."""
    assert cleaned(f"é {text}") == f"é {cleaned(text)}"


def cleaned(value: object) -> object:
    return logs.clean(None, "info", {"value": value})["value"]


def test_of_an_object_only_its_type_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    class Leaky:
        def __repr__(self) -> str:
            return "hunter2"

    logs.logger("a").info(
        "event", one=Leaky(), key=keys.generate("P-256"), raw=b"hunter2", several=(Leaky(), {1: Leaky()})
    )
    found = told(capsys)
    assert found["one"] == "<Leaky>"
    assert found["key"].endswith("PrivateKey>")
    assert found["raw"] == "<7 bytes>"
    assert found["several"] == ["<Leaky>", {"1": "<Leaky>"}]


def test_paths_errors_and_collections_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.logger("a").info("event", path=Path("/a"), error=Untrusted("path-not-found", "x"), items=[1, None, True])
    found = told(capsys)
    assert (found["path"], found["error"], found["items"]) == ("/a", "path-not-found: x", [1, None, True])


def test_a_peer_cannot_forge_lines_nor_fill_the_disk(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)
    logs.logger("a").info("event", said="first\nsecond \x1b[31m red", much="x" * 100_000)
    out = capsys.readouterr().err
    assert out.count("\n") == 1
    assert "\x1b[31m red" not in out
    assert len(out) < 6000


def test_deep_and_circular_values_end(capsys: pytest.CaptureFixture[str]) -> None:
    circle: list[object] = []
    circle.append(circle)
    logs.logger("a").info("event", circle=circle)
    assert "<list>" in json.dumps(told(capsys))


def test_a_traceback_is_told_without_variables_and_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    secret = "hunter" + "2"
    try:
        int(f"postgresql://me:{secret}@host/name")
    except ValueError:
        logs.logger("a").exception("failed")
    found = told(capsys)
    assert found["exception"].startswith("Traceback")
    assert "ValueError" in found["exception"]
    assert "postgresql://[hidden]@host/name" in found["exception"]
    assert secret not in json.dumps(found)


def test_for_people_it_is_one_line_without_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)
    logs.logger("a").info("listening", url="https://127.0.0.1")
    out = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \[info\] a: listening  url=https://127.0.0.1\n", out)


def test_for_people_a_line_without_values_ends_with_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(json=False)
    logs.logger("a").warning("stopping")
    assert capsys.readouterr().err.endswith("Z [warning] a: stopping\n")


def test_for_machines_the_time_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    logs.logger("a").info("stopping")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", told(capsys)["time"])


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2)


@given(
    st.dictionaries(st.sampled_from(["serial", "a_b", "time", "Zone", "stack_info"]), VALUES),
    st.sampled_from(["debug", "info", "warning", "error", "critical", "odd"]),
    st.text() | st.integers(),
    st.none() | st.text(),
)
def test_for_people_it_is_structlogs_own_form(
    values: dict[str, object], level: str, said: object, exception: str | None
) -> None:
    event = values | {"event": said, "logger": "a", "level": level}
    if exception is not None:
        event["exception"] = exception
    expected = logs.console_renderer(colors=False)(None, level, dict(event))
    assert logs.render_plain(None, level, event) == expected


def test_colours_are_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, coloured in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        logs.configure(json=False)
        logs.logger("a").info("event", url="x")
        assert ("\x1b[" in stream.getvalue()) is coloured


class Broken(io.StringIO):
    """Standard error whose reader is gone."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError(text)


@pytest.mark.parametrize("stream", [Broken(), None])
def test_a_line_that_cannot_be_written_fails_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(json=False)
    logs.logger("a").info("event")
    logging.getLogger("b").warning("event")


def test_an_event_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str, /) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Recorder())
    logs.logger("a").info("event")
    logging.getLogger("b").warning("event")
    assert [text.count("\n") for text in written] == [1, 1]


def test_values_bound_to_a_task_go_with_its_events(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = logs.bind(request="r-1")
    logs.logger("a").bind(peer="p").info("inside")
    assert told(capsys).items() >= {"request": "r-1", "peer": "p"}.items()
    logs.unbind(tokens)
    logs.logger("a").info("outside")
    assert "request" not in told(capsys)


def test_a_level_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        logs.configure(json=True, level="loud")
