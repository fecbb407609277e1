"""Networks and hosts as the operator writes them."""

import ipaddress
import re
from typing import Final

from brski_common.errors import Misconfigured

# A host, or *.host for all under it, or an address; perhaps a port, or * for all.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_MASA_HOST: Final = re.compile(
    rf"(?:(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?|\[(?P<address>[0-9a-f:.]+)\])(?::(?:\*|(?P<port>[0-9]{{1,5}})))?",
    re.IGNORECASE | re.ASCII,
)
_URL_WITHOUT_PATH: Final = re.compile(r"https://([^/]+)/?", re.IGNORECASE)
MAX_PORT: Final = 65535


def network(text: str) -> str:
    """A network that requests may come from; raises Misconfigured."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError as error:
        raise Misconfigured("policy-malformed", f"--source {text[:80]!a}: a network is wanted, 10.1.0.0/16") from error


def masa_host_of(text: str) -> str:
    """What a device's MASA is compared with; an https URL without a path says it too; raises Misconfigured."""
    url = _URL_WITHOUT_PATH.fullmatch(text)
    rule = url[1] if url else text
    if not _is_masa_host(rule):
        wanted = "HOST or HOST:PORT is wanted, masa.example:9443"
        raise Misconfigured("policy-malformed", f"--masa-host {text[:80]!a}: {wanted}")
    return rule


def _is_masa_host(rule: str) -> bool:
    found = _MASA_HOST.fullmatch(rule)
    if found is None or not 1 <= int(found["port"] or 1) <= MAX_PORT:
        return False
    try:
        ipaddress.IPv6Address(found["address"] or "::")
    except ValueError:
        return False
    return True
