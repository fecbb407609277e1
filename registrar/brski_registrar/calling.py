"""What holds for every server that the registrar calls, a MASA or a CA: who it must be, and what becomes of its words.

Pure. Such a server is judged by the anchors that the operator named for it and never by those of the system, and its
text is for our own log, cut and cleaned.
"""

from datetime import datetime
from typing import Final

from brski_common.certificates import ID_KP_SERVER_AUTH, Peer, extended_key_usages
from brski_common.errors import Untrusted
from brski_common.http_client import HttpResponse
from brski_common.paths import Anchors, build_path, verify_host
from brski_common.telemetry import printable

MAX_EXPLANATION: Final = 500  # characters of a server's text that reach our log
MAX_RETRY_AFTER_SECONDS: Final = 3600.0
DEFAULT_RETRY_AFTER_SECONDS: Final = 10.0


def check_server(peer: Peer, anchors: Anchors, host: str, now: datetime) -> None:
    """Raise Untrusted unless the server's certificate leads to `anchors`, names `host` and is for servers (RFC 9525).

    `host` is a DNS name or an IP address, as it stands in the URL.
    """
    build_path(peer.certificate, peer.chain[1:], anchors, now)
    verify_host(peer.certificate, host)
    usages = extended_key_usages(peer.certificate)
    if usages and ID_KP_SERVER_AUTH not in usages:
        raise Untrusted("usage-not-server", "the certificate is not for a TLS server")


def explanation(response: HttpResponse, operation: str) -> str:
    """What a server said in place of an answer, as one line for the log."""
    text = printable(response.body[: 4 * MAX_EXPLANATION].decode("utf-8", "replace"), MAX_EXPLANATION).strip()
    return f"{operation}: {response.status} {text}".rstrip()


def retry_after(response: HttpResponse, default: float = DEFAULT_RETRY_AFTER_SECONDS) -> float:
    """The seconds in Retry-After, within bounds; a date is not read."""
    value = response.headers.get("Retry-After", "").strip()
    if not value.isascii() or not value.isdecimal() or len(value) > 9:
        return default
    return min(float(value), MAX_RETRY_AFTER_SECONDS)
