"""Reading answers that are no success: how long to wait, where to go instead, why not.

Everything here comes from a party that may be nobody's friend yet (RFC 8995, 5.1): text is cut and
made harmless, times have a floor and a ceiling, addresses have to be https.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urljoin, urlsplit

from brski_common.errors import BrskiError, Malformed, PeerFailed, Refused
from brski_common.telemetry import printable
from brski_pledge.actions import Response
from brski_pledge.discovery import Offer, is_usable

MAX_WAIT = 60.0  # seconds: "the pledge MUST limit the Retry-After time to 60 seconds" (RFC 8995, 5.6)
MIN_WAIT = 1.0  # seconds, so that Retry-After: 0 is no busy loop
DEFAULT_WAIT = 10.0  # seconds, where the registrar names no time
MAX_LOCATION_CHARACTERS = 1024
MAX_EXPLANATION = 160  # characters of a registrar's own words
HTTPS_PORT = 443
REPEATABLE = frozenset((301, 302, 307, 308))  # 303 and others ask for something that is no voucher request


@dataclass(frozen=True, slots=True)
class Target:
    """Where a redirection leads."""

    host: str
    port: int
    path: str


def wait_after(response: Response, fixed: float | None, now: datetime | None) -> float:
    """Seconds to wait after a 202: the registrar's wish or a `fixed` time, never above 60 (RFC 8995, 5.6)."""
    wanted = _retry_after(response.header("retry-after"), now) if fixed is None else fixed
    return min(MAX_WAIT, max(MIN_WAIT, wanted))


def redirection(response: Response, host: str, port: int, path: str) -> Target:
    """Where a 3xx leads, seen from `https://host:port/path`; raises PeerFailed, Malformed."""
    location = response.header("location")
    if response.status not in REPEATABLE or not location:
        raise PeerFailed("redirect-unusable", f"HTTP {response.status} without a place to repeat the request")
    if len(location) > MAX_LOCATION_CHARACTERS or not location.isascii() or not location.isprintable():
        raise Malformed("redirect-malformed", "Location")
    origin = f"https://[{host.partition('%')[0]}]" if ":" in host else f"https://{host}"
    try:
        url = urlsplit(urljoin(f"{origin}:{port}{path}", location))
        target = Offer(url.hostname or "", url.port or HTTPS_PORT)
    except ValueError as error:
        raise Malformed("redirect-malformed", str(error)) from error
    if url.scheme != "https" or url.username is not None or not is_usable(target):
        raise PeerFailed("redirect-unusable", printable(location, MAX_EXPLANATION))
    if target.host == host.partition("%")[0].lower() and target.port == port:
        target = Offer(host, port)  # the same origin: keep the zone of a link-local address
    return Target(target.host, target.port, (url.path or "/") + (f"?{url.query}" if url.query else ""))


def refusal(reason: str, response: Response) -> BrskiError:
    """What a 4xx or 5xx means to us; the registrar's own words only if they are plain text."""
    words = ""
    if response.media_type in {"text/plain", ""}:
        words = printable(response.body[: 4 * MAX_EXPLANATION].decode("utf-8", "replace").strip(), MAX_EXPLANATION)
    said = f"HTTP {response.status}: {words}" if words else f"HTTP {response.status}"
    return PeerFailed(reason, said) if response.status >= 500 else Refused(reason, said)


def _retry_after(text: str | None, now: datetime | None) -> float:
    """Seconds from a Retry-After header: a number, or a date where there is a clock to compare it with."""
    if text is None:
        return DEFAULT_WAIT
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    if now is None:
        return DEFAULT_WAIT
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return DEFAULT_WAIT
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - now.timestamp()
