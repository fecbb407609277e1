"""Object identifiers: the dotted text that is spoken here, and the octets of the wire (ITU-T X.690, 8.19).

The same few come in every message, so that both ways are remembered.
"""

from functools import lru_cache

from brski_common.errors import Malformed

MAX_OID_BYTES = 128
REMEMBERED_OIDS = 512


@lru_cache(maxsize=REMEMBERED_OIDS)
def read(content: bytes) -> str:
    """Dotted, from the content octets; raises Malformed."""
    if not content or len(content) > MAX_OID_BYTES or content[-1] & 0x80:
        raise Malformed("der-oid", "empty, too long or cut off")
    arcs: list[int] = []
    value, fresh = 0, True
    for octet in content:
        if fresh and octet == 0x80:
            raise Malformed("der-oid", "superfluous leading octet")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def write(dotted: str) -> bytes:
    """The content octets; raises Malformed."""
    try:
        first, second, *rest = (int(arc) for arc in dotted.split(".") if arc.isascii() and arc.isdigit())
    except ValueError as error:
        raise Malformed("oid-malformed", dotted[:80]) from error
    if len(rest) != dotted.count(".") - 1 or first > 2 or (first < 2 and second > 39):
        raise Malformed("oid-malformed", dotted[:80])
    return b"".join(map(_base128, (40 * first + second, *rest)))


def _base128(value: int) -> bytes:
    octets = [value & 0x7F]
    while value := value >> 7:
        octets.append(value & 0x7F | 0x80)
    return bytes(reversed(octets))
