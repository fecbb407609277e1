"""Voucher status and enroll status: strict out, liberal in, harmless in a log."""

import contextlib
import json
import math
from collections.abc import Sequence

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import telemetry
from brski_common.errors import BrskiError, Malformed
from brski_common.telemetry import Context, Telemetry
from tests.support.vectors import vector

# RFC 8995, 5.7, "Example Status Telemetry".
RFC_EXAMPLE = b"""{
    "version": 1,
    "status":false,
    "reason":"Informative human-readable message",
    "reason-context": { "additional" : "JSON" }
}"""


@pytest.mark.req("VS-02", "VS-03", "VS-04", "EI-07")
def test_the_example_of_rfc_8995_is_read() -> None:
    report = telemetry.read(RFC_EXAMPLE)

    assert report == telemetry.failure("Informative human-readable message", {"additional": "JSON"})
    assert not report.from_the_future


@pytest.mark.req("VS-02", "EI-07")
def test_success_is_written_with_two_lower_case_members() -> None:
    assert telemetry.write(telemetry.success()) == b'{"version":1,"status":true}'


@pytest.mark.req("VS-02", "VS-03", "VS-04")
def test_failure_is_written_with_its_reason_and_context() -> None:
    data = telemetry.write(telemetry.failure("nonce-mismatch", [1, "two", None, {"three": 3.5}]))

    assert json.loads(data) == {
        "version": 1,
        "status": False,
        "reason": "nonce-mismatch",
        "reason-context": [1, "two", None, {"three": 3.5}],
    }


@pytest.mark.req("VS-02")
@pytest.mark.parametrize(
    "data",
    [
        b'{"version":"1","status":true}',
        b'{"Version":1,"Status":true}',
        b'{"VERSION":"01","status":true,"Reason":null,"Reason-Context":null}',
    ],
)
def test_other_spellings_of_a_success_are_read(data: bytes) -> None:
    assert telemetry.read(data) == telemetry.success()


@pytest.mark.req("VS-07")
def test_a_newer_version_is_read_and_says_so() -> None:
    report = telemetry.read(b'{"version":2,"status":false,"reason":"x"}')

    assert report.version == 2
    assert report.from_the_future


@pytest.mark.req("VS-08")
def test_unknown_members_are_kept_by_name_and_not_repeated() -> None:
    report = telemetry.read(b'{"version":1,"status":true,"mood":"fine","evil\\u001b[2J":{"x":1}}')

    assert report.unknown == ("mood", "evil\ufffd[2J")
    assert telemetry.write(report) == telemetry.write(telemetry.success())


def test_hundreds_of_unknown_members_do_not_flood_the_log() -> None:
    members = {f"member-{number}": number for number in range(300)}

    report = telemetry.read(json.dumps({"x" * 5000: 1, **members, "version": 1, "status": True}).encode())

    assert len(report.unknown) == telemetry.MAX_UNKNOWN
    assert max(map(len, report.unknown)) <= telemetry.MAX_UNKNOWN_NAME


@pytest.mark.req("VS-04")
@pytest.mark.parametrize("context", [7, "text", True, 1.5, [1, [2]], {"a": {"b": None}}, {}, []])
def test_any_json_value_is_a_reason_context(context: Context) -> None:
    report = telemetry.read(json.dumps({"version": 1, "status": False, "reason-context": context}).encode())

    assert report.reason_context == context


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "json-malformed"),
        (b"[]", "json-not-an-object"),
        (b"{}", "telemetry-version-malformed"),
        (b'{"version":true,"status":true}', "telemetry-version-malformed"),
        (b'{"version":0,"status":true}', "telemetry-version-malformed"),
        (b'{"version":1.0,"status":true}', "telemetry-version-malformed"),
        (b'{"version":"one","status":true}', "telemetry-version-malformed"),
        (b'{"version":"\xc2\xb2","status":true}', "telemetry-version-malformed"),
        (b'{"version":1}', "telemetry-status-malformed"),
        (b'{"version":1,"status":"true"}', "telemetry-status-malformed"),
        (b'{"version":1,"status":1}', "telemetry-status-malformed"),
        (b'{"version":1,"status":false,"reason":5}', "telemetry-reason-malformed"),
        (b'{"version":1,"status":true,"Status":false}', "telemetry-member-ambiguous"),
        (b'{"version":1,"status":true,"status":false}', "json-duplicate-member"),
        (b'{"version":1,"status":true,"reason-context":1e999}', "json-malformed"),
        (b'{"version":1,"status":true,"reason-context":' + b"[" * 20 + b"]" * 20 + b"}", "telemetry-context-malformed"),
        (b" " * (telemetry.MAX_TELEMETRY_BYTES + 1), "json-too-large"),
    ],
)
def test_what_is_no_report_is_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        telemetry.read(data)

    assert caught.value.reason == reason


def test_a_reason_cannot_forge_log_lines_or_steer_a_terminal() -> None:
    data = json.dumps({"version": 1, "status": False, "reason": "a\r\nINFO all well\x1b[1m\u202e\u2028\ud800"})

    assert telemetry.read(data.encode()).reason == "a  INFO all well\ufffd[1m\ufffd\ufffd\ufffd"


def test_a_reason_context_cannot_either() -> None:
    data = json.dumps({"version": 1, "status": False, "reason-context": {"k\x00": ["v\x07"]}})

    assert telemetry.read(data.encode()).reason_context == {"k\ufffd": ["v\ufffd"]}


def test_a_long_reason_is_cut_on_both_ways() -> None:
    report = telemetry.read(telemetry.write(telemetry.failure("x" * 5000)))

    assert report.reason == "x" * (telemetry.MAX_REASON - 1) + "…"


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**64, {(1, 2): 3}])
def test_a_context_without_json_form_is_not_written(value: Context) -> None:
    with pytest.raises(Malformed):
        telemetry.write(telemetry.failure("x", value))


# CBOR (draft-ietf-anima-constrained-voucher).


@pytest.mark.parametrize("name", ["voucher_status", "enrollstatus-success", "enrollstatus-failure"])
def test_the_cbor_examples_are_read_and_written_to_the_byte(name: str) -> None:
    data = bytes.fromhex(vector(f"cbrski/{name}.hex").decode())

    assert telemetry.write_cbor(telemetry.read_cbor(data)) == data


def test_an_integer_key_of_a_cbor_context_becomes_text_in_json() -> None:
    report = telemetry.read_cbor(bytes.fromhex(vector("cbrski/voucher_status.hex").decode()))

    assert report.reason_context == {0: "Additional information"}
    assert json.loads(telemetry.write(report))["reason-context"] == {"0": "Additional information"}


def test_binary_and_tags_of_a_cbor_context_become_plain_data() -> None:
    context = {"hash": b"\x00\xff", "tag": cbor2.CBORTag(1, 0), "list": (1, cbor2.CBORTag(99999, "x"))}
    context |= {"set": cbor2.CBORTag(258, [1])}

    report = telemetry.read_cbor(cbor2.dumps({"version": 1, "status": False, "reason-context": context}))

    assert report.reason_context == {"hash": "AP8=", "tag": 0, "list": [1, "x"], "set": [1]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        b"\xff",
        cbor2.dumps({"version": 1, "status": True}) + b"\x00",
        cbor2.dumps({1: 1, 2: True}),
        bytes.fromhex("a3 6776657273696f6e 01 66737461747573 f5 66737461747573 f4"),  # status twice
    ],
)
def test_cbor_that_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        telemetry.read_cbor(data)


def test_a_reference_of_cbor_to_itself_is_not_followed() -> None:
    members = (
        b"\xa3" + cbor2.dumps("version") + b"\x01" + cbor2.dumps("status") + b"\xf4" + cbor2.dumps("reason-context")
    )
    cycle = b"\xd8\x1c\x81\xd8\x1d\x00"  # 28([29(0)]): a list that holds itself

    assert telemetry.read_cbor(members + cycle).reason_context == [0]


texts = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=40)
contexts: st.SearchStrategy[Context] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
reports = st.builds(
    Telemetry, status=st.booleans(), version=st.integers(1, 99), reason=st.none() | texts, reason_context=contexts
)


def _plain(value: Context) -> Context:
    return [_plain(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


@given(reports)
def test_a_report_comes_back_as_it_was(report: Telemetry) -> None:
    assert telemetry.read(telemetry.write(report)) == report
    assert telemetry.read_cbor(telemetry.write_cbor(report)) == report


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    for read in (telemetry.read, telemetry.read_cbor):
        try:
            report = read(data)
        except BrskiError:
            continue
        assert isinstance(report, Telemetry)


@given(
    st.dictionaries(st.sampled_from(["version", "status", "reason", "reason-context", "x", 1]), contexts, max_size=6)
)
def test_any_map_raises_only_our_error(document: dict[str | int, Context]) -> None:
    with contextlib.suppress(BrskiError):
        telemetry.read_cbor(cbor2.dumps({"version": 1, "status": True} | document))
