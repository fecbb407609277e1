"""Voucher data as YANG-JSON and YANG-CBOR from one table (RFC 8366, 5.3; RFC 8995, 3.4; RFC 9254)."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common import encoding, strictjson
from brski_common.encoding import read_cbor, read_json, write_cbor, write_json
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat
from brski_common.voucher import (
    LEAVES,
    REQUEST_NAME,
    VOUCHER_LEAVES,
    VOUCHER_NAME,
    Assertion,
    Kind,
    Leaf,
    Voucher,
    VoucherData,
    VoucherRequest,
    new_nonce,
)
from tests.support.vectors import vector

texts = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=40)
times = st.datetimes(datetime(2000, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - given by timezones
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
of_kind: dict[Kind, st.SearchStrategy[object]] = {
    Kind.TEXT: texts,
    Kind.TIME: times,
    Kind.BINARY: st.binary(max_size=64),
    Kind.BINARY_LIST: st.lists(st.binary(max_size=16), min_size=1, max_size=3).map(tuple),
    Kind.NONCE: st.binary(min_size=8, max_size=32).map(lambda value: base64.b64encode(value).decode()),
    Kind.BOOLEAN: st.booleans(),
    Kind.ASSERTION: st.sampled_from(Assertion),
    Kind.NAMES: st.lists(texts | st.integers(0, 2**32), max_size=3).map(tuple),
}


def models(kind: type[VoucherData], leaves: tuple[Leaf, ...]) -> st.SearchStrategy[VoucherData]:
    optional = {leaf.attribute: st.none() | of_kind[leaf.kind] for leaf in leaves if leaf.yang != "serial-number"}
    return st.builds(kind, serial_number=texts, **optional)


any_model = models(Voucher, VOUCHER_LEAVES) | models(VoucherRequest, LEAVES)


@pytest.mark.req("BIS-06", "D-1")
@given(any_model)
def test_what_is_written_is_read_again_in_both_encodings(model: VoucherData) -> None:
    assert read_json(write_json(model)) == model
    assert read_cbor(write_cbor(model)) == model


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    for read in (read_json, read_cbor):
        try:
            read(data)
        except BrskiError:
            continue


@given(st.dictionaries(st.sampled_from([leaf.yang for leaf in LEAVES]), st.one_of(*of_kind.values()) | st.none()))
def test_values_of_the_wrong_kind_raise_only_the_suites_errors(members: dict[str, object]) -> None:
    for top in (VOUCHER_NAME, REQUEST_NAME):
        try:
            read_cbor(cbor2.dumps({top: members}))
        except BrskiError:
            continue


@pytest.mark.req("VA-01")
def test_a_voucher_without_serial_number_is_malformed() -> None:
    with pytest.raises(Malformed, match="serial-number-missing"):
        read_json(strictjson.dumps({VOUCHER_NAME: {"nonce": "x"}}))


@pytest.mark.req("PV-17")
def test_a_request_is_never_a_voucher() -> None:
    request = read_json(write_json(VoucherRequest(serial_number="A")))
    assert isinstance(request, VoucherRequest)
    assert not isinstance(request, Voucher)


@pytest.mark.req("PV-17")
@pytest.mark.parametrize("top", ["ietf-voucher:vouchers", "voucher", "", "ietf-voucher-request:voucher2"])
def test_another_top_member_is_no_voucher(top: str) -> None:
    with pytest.raises(UnsupportedFormat, match="voucher-kind-unknown"):
        read_json(strictjson.dumps({top: {"serial-number": "A"}}))


def test_two_top_members_are_ambiguous() -> None:
    members = {"serial-number": "A"}
    with pytest.raises(Malformed):
        read_json(strictjson.dumps({VOUCHER_NAME: members, REQUEST_NAME: members}))


@pytest.mark.req("PV-09")
def test_unknown_members_are_ignored() -> None:
    text = strictjson.dumps({VOUCHER_NAME: {"serial-number": "A", "est-later": {"deep": [1]}, "expire-on": "never"}})
    assert read_json(text) == Voucher(serial_number="A")


@pytest.mark.req("VR-15")
@pytest.mark.parametrize("nonce", ["-_XE9zK9q8Ll1qylMtLKeg", "TauvK+Y/cc2RfIFvpZzfKQ==", "abc"])
def test_a_nonce_stays_the_text_that_came(nonce: str) -> None:
    request = read_json(strictjson.dumps({REQUEST_NAME: {"serial-number": "A", "nonce": nonce}}))
    assert request.nonce == nonce
    assert strictjson.load_object(write_json(request))[REQUEST_NAME] == {"serial-number": "A", "nonce": nonce}


@pytest.mark.req("VR-16")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2021-04-13T17:43:23.747-04:00", datetime(2021, 4, 13, 21, 43, 23, 747000, tzinfo=UTC)),
        ("2021-04-13T21:43:23Z", datetime(2021, 4, 13, 21, 43, 23, tzinfo=UTC)),
        ("2021-04-13T21:43:23.5+05:30", datetime(2021, 4, 13, 21, 43, 23, 500000, timezone(timedelta(hours=5.5)))),
        ("2021-04-13", datetime(2021, 4, 13, tzinfo=UTC)),
    ],
)
def test_any_offset_fraction_or_bare_date_is_read(text: str, moment: datetime) -> None:
    assert encoding.decode_time(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2021-13-01T00:00:00Z", "0001-01-01T00:00:00+23:59"])
def test_what_is_no_time_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        encoding.decode_time(text)


def test_times_are_written_in_utc_with_z() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    assert encoding.encode_time(moment) == "2026-01-02T01:04:05Z"
    assert encoding.encode_time(moment.replace(microsecond=7000)) == "2026-01-02T01:04:05.007Z"
    assert encoding.encode_time(moment.replace(microsecond=999)) == "2026-01-02T01:04:05Z"


@pytest.mark.parametrize(
    "members",
    [
        {"assertion": "believed"},
        {"created-on": 5},
        {"pinned-domain-cert": "%%%"},
        {"pinned-domain-cert": 7},
        {"nonce": "x" * 65},
        {"nonce": "a\nb"},
        {"domain-cert-revocation-checks": "false"},
        {"serial-number": "A\x00B"},
        {"serial-number": "x" * 2000},
    ],
)
def test_a_leaf_of_the_wrong_shape_is_malformed_and_named(members: dict[str, strictjson.JsonValue]) -> None:
    (name,) = members
    with pytest.raises(Malformed, match=name):
        read_json(strictjson.dumps({VOUCHER_NAME: {"serial-number": "A"} | members}))


@pytest.mark.req("CB-02")
def test_cbor_keys_may_be_names_deltas_or_tagged_sids() -> None:
    wanted = VoucherRequest(serial_number="JADA123456789", assertion=Assertion.PROXIMITY, nonce="gx1RmKbKLH8=")
    nonce = bytes.fromhex("831D5198A6CA2C7F")
    deltas = bytes.fromhex("a11909c5a301020748831d5198a6ca2c7f0d6d4a414441313233343536373839")
    names = cbor2.dumps({REQUEST_NAME: {"assertion": "proximity", "nonce": nonce, "serial-number": "JADA123456789"}})
    mixed = cbor2.dumps({2501: {cbor2.CBORTag(47, 2502): 2, "nonce": nonce, 13: "JADA123456789"}})
    assert [read_cbor(data) for data in (deltas, names, mixed)] == [wanted] * 3
    assert write_cbor(wanted) == deltas


@pytest.mark.req("CB-26")
def test_a_vouchers_serial_number_has_another_key_than_a_requests() -> None:
    assert read_cbor(cbor2.dumps({2451: {11: "A"}})) == Voucher(serial_number="A")
    with pytest.raises(Malformed, match="serial-number-missing"):
        read_cbor(cbor2.dumps({2451: {13: "A"}}))


@pytest.mark.req("CB-26")
def test_nonce_and_pins_have_other_numbers_in_a_voucher_than_in_a_request() -> None:
    pins = {"pinned_domain_cert": b"c", "pinned_domain_pubk": b"k", "pinned_domain_pubk_sha256": b"h"}
    leaves = {"serial_number": "A", "nonce": "AQIDBAUGBwg=", **pins}
    nonce = bytes(range(1, 9))
    voucher, request = Voucher(**leaves), VoucherRequest(**leaves)  # type: ignore[arg-type] # names of leaves
    in_voucher = cbor2.dumps({2451: {7: nonce, 8: b"c", 9: b"k", 10: b"h", 11: "A"}})
    in_request = cbor2.dumps({2501: {7: nonce, 8: b"c", 13: "A", 17: b"k", 18: b"h"}})
    assert (write_cbor(voucher), write_cbor(request)) == (in_voucher, in_request)
    assert (read_cbor(in_voucher), read_cbor(in_request)) == (voucher, request)
    assert read_cbor(cbor2.dumps({2451: {11: "A", 17: b"k"}})) == Voucher(serial_number="A")


@pytest.mark.req("BIS-06")
def test_extensions_are_named_and_what_an_unknown_one_brings_is_passed_over() -> None:
    wanted = Voucher(serial_number="A", extensions=("example-later", 60099))
    members: dict[str, strictjson.JsonValue] = {
        "serial-number": "A",
        "extensions": ["example-later", 60099],
        "extension:example-later": {"deep": [1]},
    }
    assert read_json(strictjson.dumps({VOUCHER_NAME: members})) == wanted
    by_sid = {11: "A", 15: ["example-later", 60099], cbor2.CBORTag(47, 60099): {1: b"x"}}
    assert read_cbor(cbor2.dumps({2451: by_sid})) == wanted
    assert b'"extensions":["example-later",60099]' in write_json(wanted)


@pytest.mark.req("BIS-07")
def test_what_only_the_maker_understands_is_carried_along() -> None:
    inside = cbor2.dumps({"colour": "red"})
    wanted = Voucher(serial_number="A", manufacturer_proprietary=inside)
    url_safe = base64.urlsafe_b64encode(inside).decode().rstrip("=")
    assert (
        read_json(strictjson.dumps({VOUCHER_NAME: {"serial-number": "A", "manufacturer-proprietary": url_safe}}))
        == wanted
    )
    assert read_cbor(write_cbor(wanted)) == wanted
    assert inside in write_cbor(wanted)


@pytest.mark.req("BIS-08")
@pytest.mark.parametrize(("number", "name"), list(enumerate(("verified", "logged", "proximity", "agent-proximity"))))
def test_in_cbor_an_assertion_is_a_number(number: int, name: str) -> None:
    voucher = Voucher(serial_number="A", assertion=Assertion(name))
    data = cbor2.dumps({2451: {1: number, 11: "A"}})
    assert write_cbor(voucher) == data
    assert read_cbor(data) == voucher
    assert read_cbor(cbor2.dumps({2451: {1: name, 11: "A"}})) == voucher


@pytest.mark.req("BIS-08")
@pytest.mark.parametrize("value", [4, -1, True, 1.0, "believed", None, b"\x00"])
def test_another_number_is_no_assertion(value: object) -> None:
    data = cbor2.dumps({2451: {1: value, 11: "A"}})
    if value is None:
        assert read_cbor(data).assertion is None
    else:
        with pytest.raises(Malformed, match="assertion"):
            read_cbor(data)


@pytest.mark.req("D-12")
@pytest.mark.parametrize("top", ["ietf-voucher-request:voucher", "ietf-voucher-request-prm:voucher"])
@pytest.mark.parametrize("listed", [True, False])
def test_both_readings_of_prm_are_read_and_the_one_of_its_text_is_written(top: str, listed: bool) -> None:
    text = base64.b64encode(b"certificate").decode()
    members: dict[str, strictjson.JsonValue] = {"serial-number": "A", "agent-sign-cert": [text] if listed else text}
    request = read_json(strictjson.dumps({top: members}))
    assert request == VoucherRequest(serial_number="A", agent_sign_cert=(b"certificate",))
    written = {"serial-number": "A", "agent-sign-cert": [text]}
    assert strictjson.load_object(write_json(request)) == {REQUEST_NAME: written}


def test_one_leaf_twice_under_two_keys_is_refused() -> None:
    with pytest.raises(Malformed, match="voucher-duplicate-leaf"):
        read_cbor(cbor2.dumps({2501: {13: "A", "serial-number": "B"}}))


@pytest.mark.parametrize("data", [b"", b"\x81" * 500, b"\xa1\x19\x09\xc5\xa0\x00", cbor2.dumps([1]), cbor2.dumps({})])
def test_hostile_cbor_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_cbor(data)


def test_the_published_request_reads_as_its_manifest_says() -> None:
    request = read_json(vector("rfc8995/pledge_voucher_request.payload.json"))
    assert isinstance(request, VoucherRequest)
    assert request.assertion is Assertion.PROXIMITY
    assert request.serial_number == "00-D0-E5-F2-00-02"
    assert request.nonce == "-_XE9zK9q8Ll1qylMtLKeg"


@pytest.mark.req("VR-04", "AT-11")
def test_nonces_do_not_repeat_and_are_long_enough() -> None:
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(base64.b64decode(nonce)) for nonce in nonces} == {16}
