"""GRASP M_FLOOD messages, the one kind BRSKI uses (RFC 8990, 2.8.11; RFC 8995, 4.1.1 and 4.3).

A join proxy floods `AN_Proxy` one hop far on its link (DULL), a registrar floods `AN_join_registrar` through the ACP.
Writing gives the very bytes of the standard's examples. Reading takes what anybody on the link may have sent: it is
bounded, knows locators other than IPv6 addresses only as "not for us", and raises Malformed for all that is no flood.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address

import cbor2

from brski_common import strictcbor
from brski_common.errors import Malformed

PORT = 7017  # UDP (RFC 8990, 2.5)
GROUP = IPv6Address("ff02::13")  # ALL_GRASP_NEIGHBORS
M_FLOOD = 9
O_IPV6_LOCATOR = 103
F_SYNCH = 4  # objective-flags: bit 2, the objective supports synchronization
IPPROTO_TCP = 6
IPPROTO_UDP = 17

AN_PROXY = "AN_Proxy"
AN_JOIN_REGISTRAR = "AN_join_registrar"
EST_TLS = "EST-TLS"  # the objective-value of a registrar that speaks RFC 7030
PROXY_LOOP_COUNT = 1  # one hop only
REGISTRAR_LOOP_COUNT = 255
TTL = 180_000  # milliseconds

MAX_FLOOD_BYTES = 2048  # RFC 8990, 2.7.3: a message is not larger
MAX_OBJECTIVES = 16
MAX_NAME = 128  # characters


@dataclass(frozen=True, slots=True)
class Locator:
    """Where an objective is to be had."""

    address: IPv6Address
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Objective:
    """One announced objective. `locator` is None where it is absent or of a kind not read here."""

    name: str
    loop_count: int
    value: str = ""
    locator: Locator | None = None
    flags: int = F_SYNCH


@dataclass(frozen=True, slots=True)
class Flood:
    """An M_FLOOD. `session_id` is random, 32 bits; `ttl` is in milliseconds, 0 means unlimited."""

    session_id: int
    initiator: IPv6Address
    objectives: tuple[Objective, ...]
    ttl: int = TTL


def proxy_flood(session_id: int, address: IPv6Address, port: int) -> Flood:
    """What a join proxy announces on a link: its own link-local address there (RFC 8995, 4.1.1)."""
    objective = Objective(AN_PROXY, PROXY_LOOP_COUNT, "", Locator(address, IPPROTO_TCP, port))
    return Flood(session_id, address, (objective,))


def registrar_flood(session_id: int, address: IPv6Address, port: int) -> Flood:
    """What a registrar announces to join proxies (RFC 8995, 4.3)."""
    objective = Objective(AN_JOIN_REGISTRAR, REGISTRAR_LOOP_COUNT, EST_TLS, Locator(address, IPPROTO_TCP, port))
    return Flood(session_id, address, (objective,))


def write_flood(flood: Flood) -> bytes:
    """The message as CBOR."""
    objectives = [
        [[each.name, each.flags, each.loop_count, each.value], _write_locator(each.locator)]
        for each in flood.objectives
    ]
    return cbor2.dumps([M_FLOOD, flood.session_id, flood.initiator.packed, flood.ttl, *objectives])


def read_flood(data: bytes) -> Flood:
    """Read an M_FLOOD; raises Malformed."""
    message = strictcbor.loads(data, limit=MAX_FLOOD_BYTES)
    if not isinstance(message, list) or len(message) < 5 or message[0] != M_FLOOD:
        raise Malformed("grasp-not-a-flood", "no M_FLOOD with an objective")
    if len(message) - 4 > MAX_OBJECTIVES:
        raise Malformed("grasp-malformed", f"more than {MAX_OBJECTIVES} objectives")
    return Flood(
        session_id=_number(message[1], 2**32),
        initiator=_address(message[2]),
        objectives=tuple(map(_objective, message[4:])),
        ttl=_number(message[3], 2**32),
    )


def _objective(item: object) -> Objective:
    if not isinstance(item, list) or len(item) != 2:
        raise Malformed("grasp-malformed", "not an objective with a locator")
    objective, locator = item
    if not isinstance(objective, list) or len(objective) not in (3, 4):
        raise Malformed("grasp-malformed", "an objective has a name, flags, a loop count and maybe a value")
    name, value = objective[0], objective[3] if len(objective) == 4 else ""
    if not isinstance(name, str) or len(name) > MAX_NAME:
        raise Malformed("grasp-malformed", "an objective's name is a short text")
    return Objective(
        name=name,
        loop_count=_number(objective[2], 256),
        # "objective-value = any" (RFC 8995, 4.1.1): what is no text says nothing to us.
        value=value if isinstance(value, str) else "",
        locator=_locator(locator),
        flags=_number(objective[1], 256),
    )


def _locator(item: object) -> Locator | None:
    if not isinstance(item, list):
        raise Malformed("grasp-malformed", "a locator is a list")
    if len(item) != 4 or item[0] != O_IPV6_LOCATOR or item[3] is None:
        return None
    return Locator(_address(item[1]), _number(item[2], 256), _number(item[3], 2**16))


def _write_locator(locator: Locator | None) -> list[object]:
    if locator is None:
        return []
    return [O_IPV6_LOCATOR, locator.address.packed, locator.protocol, locator.port]


def _address(item: object) -> IPv6Address:
    if not isinstance(item, bytes) or len(item) != 16:
        raise Malformed("grasp-malformed", "not an IPv6 address")
    return IPv6Address(item)


def _number(item: object, limit: int) -> int:
    if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < limit:
        raise Malformed("grasp-malformed", f"not a number below {limit}")
    return item
