"""JSON from a peer: bounded, unambiguous, and never a surprise (RFC 8995, 11)."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import strictjson
from brski_common.errors import BrskiError, Malformed

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_what_is_written_is_read_again(value: strictjson.JsonValue) -> None:
    assert strictjson.loads(strictjson.dumps(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    with suppress(BrskiError):
        strictjson.loads(data)


@pytest.mark.req("AT-10")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":1,"a":2}', "json-duplicate-member"),
        (b'{"x":{"a":1,"a":1}}', "json-duplicate-member"),
        (b"[" * 100_000, "json-too-deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "json-too-deep"),
        (b"NaN", "json-malformed"),
        (b"-Infinity", "json-malformed"),
        (b"[1e999]", "json-malformed"),
        (b'{"a":"\\ud800"}', "json-malformed"),
        (b'{"\\udc00":1}', "json-malformed"),
        (b"1" * 5000, "json-number-too-long"),
        (b"\xff\xfe{}", "json-not-utf-8"),
        ('{"a":1}'.encode("utf-16"), "json-not-utf-8"),
        (b"", "json-malformed"),
        (b"{} {}", "json-malformed"),
        (b" " * (strictjson.MAX_JSON_BYTES + 1), "json-too-large"),
    ],
)
def test_hostile_json_is_refused_with_a_clear_reason(text: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        strictjson.loads(text)
    assert refused.value.reason == reason


def test_brackets_inside_strings_are_no_depth() -> None:
    text = '{"a":"' + "[" * 100 + '\\"' + "{" * 100 + '"}'
    assert strictjson.load_object(text)["a"] == "[" * 100 + '"' + "{" * 100


def test_a_backslash_before_the_closing_quote_ends_the_string() -> None:
    deep = '{"a":"\\\\",' + '"b":' + "[" * 40 + "]" * 40 + "}"
    with pytest.raises(Malformed, match="json-too-deep"):
        strictjson.loads(deep)


def test_an_object_is_demanded_where_one_is_needed() -> None:
    with pytest.raises(Malformed, match="json-not-an-object"):
        strictjson.load_object(b"[]")


def test_what_was_read_can_be_written() -> None:
    text = b'{"a":"\\ud83d\\ude00","b":1.5e300}'
    assert strictjson.dumps(strictjson.loads(text)) == '{"a":"\U0001f600","b":1.5e+300}'.encode()


def test_a_text_of_half_pairs_is_refused_also_where_it_comes_as_text() -> None:
    with pytest.raises(Malformed, match="json-malformed"):
        strictjson.loads('["\ud800"]')
    assert strictjson.loads('["\ud800"]', half_pairs=True) == ["\ud800"]
