"""GRASP floods: the bytes of RFC 8995's examples, and what anybody on the link may send instead."""

from dataclasses import replace
from ipaddress import IPv6Address

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brski_common.errors import BrskiError, Malformed
from brski_common.grasp import (
    AN_PROXY,
    MAX_FLOOD_BYTES,
    Flood,
    Locator,
    Objective,
    proxy_flood,
    read_flood,
    registrar_flood,
    write_flood,
)

# The two examples of RFC 8995, 4.1.1 and 4.3 in diagnostic notation, encoded.
PROXY = bytes.fromhex(
    "85091a00bc4e4f50fe8000000000000000000000000000011a0002bf20"
    "828468414e5f50726f787904016084186750fe8000000000000000000000000000010619115b"
)
REGISTRAR = bytes.fromhex(
    "85091a031678a150fda379a6f6ee000002000000640000011a0002bf20"
    "828471414e5f6a6f696e5f7265676973747261720418ff674553542d544c53"
    "84186750fda379a6f6ee00000200000064000001061920fb"
)
LINK_LOCAL = IPv6Address("fe80::1")


@pytest.mark.req("DS-18", "D-13")
def test_a_proxy_floods_the_bytes_of_the_standard() -> None:
    flood = proxy_flood(12340815, LINK_LOCAL, 4443)
    assert write_flood(flood) == PROXY
    assert read_flood(PROXY) == flood


@pytest.mark.req("DS-19", "D-13")
def test_a_registrar_floods_the_bytes_of_the_standard() -> None:
    flood = registrar_flood(51804321, IPv6Address("fda3:79a6:f6ee:0:200:0:6400:1"), 8443)
    assert write_flood(flood) == REGISTRAR
    assert read_flood(REGISTRAR) == flood


def with_locator(*locator: object) -> bytes:
    return cbor2.dumps([9, 1, bytes(16), 180000, [["AN_Proxy", 4, 1, ""], list(locator)]])


def test_a_locator_of_another_kind_is_not_for_us() -> None:
    for locator in ([], [104, b"\0" * 4, 6, 80], [105, "host", 6, 80], [103, bytes(16), 41, None]):
        assert read_flood(with_locator(*locator)).objectives[0].locator is None


def test_several_objectives_may_share_a_message() -> None:
    """As the ACP's own does (RFC 8995, 4.1.1)."""
    both = Flood(1, LINK_LOCAL, (Objective("AN_ACP", 1, "IKEv2"), *proxy_flood(1, LINK_LOCAL, 4443).objectives))
    assert read_flood(write_flood(both)) == both


def test_the_objective_value_may_be_absent_or_anything() -> None:
    for value in ([], [17], [[1, 2]], ["EST-TLS"]):
        data = cbor2.dumps([9, 1, bytes(16), 0, [["AN_Proxy", 4, 1, *value], []]])
        assert read_flood(data).objectives[0].name == AN_PROXY


BAD = {
    "nothing": b"",
    "text": b"hello",
    "a number": b"\x09",
    "another message": cbor2.dumps([1, 1, bytes(16), 0, [["AN_Proxy", 4, 1, ""], []]]),
    "no objective": cbor2.dumps([9, 1, bytes(16), 0]),
    "short address": cbor2.dumps([9, 1, bytes(4), 0, [["AN_Proxy", 4, 1, ""], []]]),
    "negative session": cbor2.dumps([9, -1, bytes(16), 0, [["AN_Proxy", 4, 1, ""], []]]),
    "large session": cbor2.dumps([9, 2**32, bytes(16), 0, [["AN_Proxy", 4, 1, ""], []]]),
    "true as a number": cbor2.dumps([9, True, bytes(16), 0, [["AN_Proxy", 4, 1, ""], []]]),
    "no locator": cbor2.dumps([9, 1, bytes(16), 0, [["AN_Proxy", 4, 1, ""]]]),
    "objective is a map": cbor2.dumps([9, 1, bytes(16), 0, [{}, []]]),
    "name is a number": cbor2.dumps([9, 1, bytes(16), 0, [[1, 4, 1, ""], []]]),
    "long name": cbor2.dumps([9, 1, bytes(16), 0, [["A" * 500, 4, 1, ""], []]]),
    "large port": with_locator(103, bytes(16), 6, 65536),
    "address as text": with_locator(103, "fe80::1", 6, 80),
    "locator is a text": cbor2.dumps([9, 1, bytes(16), 0, [["AN_Proxy", 4, 1, ""], "x"]]),
    "many objectives": cbor2.dumps([9, 1, bytes(16), 0, *[[["AN_Proxy", 4, 1, ""], []]] * 40]),
    "trailing bytes": PROXY + b"\0",
    "truncated": PROXY[:-1],
    "deep": b"\x81" * 1000,
    "huge": PROXY + bytes(MAX_FLOOD_BYTES),
}


@pytest.mark.parametrize("story", BAD)
def test_what_is_no_flood_is_malformed(story: str) -> None:
    with pytest.raises(Malformed):
        read_flood(BAD[story])


@given(st.binary(max_size=300))
def test_any_bytes_are_a_flood_or_malformed(data: bytes) -> None:
    try:
        read_flood(data)
    except BrskiError as error:
        assert error.reason  # noqa: PT017 -- any bytes may also be a flood


@given(st.integers(0, len(PROXY) - 1), st.integers(1, 255))
def test_a_changed_byte_is_read_or_malformed(index: int, change: int) -> None:
    data = bytearray(PROXY)
    data[index] ^= change
    try:
        flood = read_flood(bytes(data))
    except BrskiError:
        return
    assert flood.objectives


addresses = st.integers(0, 2**128 - 1).map(IPv6Address)
locators = st.builds(Locator, addresses, st.integers(0, 255), st.integers(0, 65535))
objectives = st.builds(
    Objective,
    st.text(max_size=20),
    st.integers(0, 255),
    st.text(max_size=20),
    st.none() | locators,
    st.integers(0, 255),
)


@given(
    st.builds(
        Flood,
        st.integers(0, 2**32 - 1),
        addresses,
        st.lists(objectives, min_size=1, max_size=5).map(tuple),
        st.integers(0, 2**32 - 1),
    )
)
def test_what_is_written_is_read_again(flood: Flood) -> None:
    assert read_flood(write_flood(flood)) == flood
    assert replace(flood, ttl=1) != flood or flood.ttl == 1
