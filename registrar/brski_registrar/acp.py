"""Names for devices of an Autonomic Control Plane (RFC 8994): an address, and the acp-node-name that holds it.

The ACP Zone Addressing Sub-Scheme (RFC 8994, 6.11.4) in zone 0: what the domain is called gives the prefix, the
registrar's identifier and a number of the device the rest. Pure; the same device always gets the same address.
"""

import hashlib
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from brski_common.csrwishes import acp_name
from brski_common.errors import Refused

REGISTRAR_ID_BITS: Final = 48
MAX_NODE_NUMBER: Final = 0x7FFF  # 15 bits (RFC 8994, 6.11.4)

_ULA: Final = 0xFD  # RFC 4193, 3.1: locally assigned
_ZONE_SCHEME: Final = 0b00  # RFC 8994, 6.11.2: ACP Zone
_HASH_BYTES: Final = 5  # 40 bits of the SHA-256 of the routing subdomain (RFC 8994, 6.11.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addressing:
    """How addresses are made. `registrar_id` has 48 bits and is unique in the domain, as a MAC address is."""

    domain: str
    registrar_id: int
    routing_subdomain: str = ""

    @property
    def prefix(self) -> int:
        """The first 64 bits of every address: ULA, hash of the routing subdomain, scheme, zone 0."""
        named = f"{self.routing_subdomain}.{self.domain}" if self.routing_subdomain else self.domain
        digest = hashlib.sha256(named.encode("ascii")).digest()[:_HASH_BYTES]
        return (_ULA << 40 | int.from_bytes(digest, "big")) << 16 | _ZONE_SCHEME << 14

    def address(self, node_number: int) -> IPv6Address:
        """The address of a device (V bit 0); raises Refused when the numbers of this registrar are used up."""
        if not 0 < node_number <= MAX_NODE_NUMBER:
            raise Refused("acp-addresses-exhausted", f"device {node_number}: one registrar numbers {MAX_NODE_NUMBER}")
        return IPv6Address(self.prefix << 64 | self.registrar_id << 16 | node_number << 1)

    def node_name(self, node_number: int) -> str:
        """The acp-node-name of a device (RFC 8994, 6.2.2)."""
        return acp_name(self.domain, self.address(node_number), self.routing_subdomain)
