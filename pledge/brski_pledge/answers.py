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
from brski_pledge.actions import Moment, Response
from brski_pledge.discovery import Offer, is_usable
from brski_pledge.settings import PledgeSettings

MAX_WAIT = 60.0  # seconds: "the pledge MUST limit the Retry-After time to 60 seconds" (RFC 8995, 5.6)
MIN_WAIT = 1.0  # seconds, so that Retry-After: 0 is no busy loop
DEFAULT_WAIT = 10.0  # seconds, where the registrar names no time
MAX_LOCATION_CHARACTERS = 1024
MAX_EXPLANATION = 160  # characters of a registrar's own words
MAX_REDIRECTS = 4  # within one origin; to another origin there is one at most
MAX_OUTAGES = 5  # times in a row that a registrar which asked for patience may be out of reach
HTTPS_PORT = 443
# Of the standard library's reader: no date at all, a year or an offset that no date holds, a number without end.
_NO_DATE = (ArithmeticError, LookupError, TypeError, ValueError)
REPEATABLE = frozenset((301, 302, 307, 308))  # 303 and others ask for something that is no voucher request


@dataclass(frozen=True, slots=True)
class Target:
    """Where a redirection leads."""

    host: str
    port: int
    path: str


class Patience:
    """How long one registrar has let us wait, and until when we do."""

    def __init__(self, settings: PledgeSettings) -> None:
        self.until: float | None = None
        self.outages = 0  # connections in a row that could not be had
        self._settings = settings
        self._since: float | None = None  # the first 202

    def is_over(self, now: Moment) -> bool:
        """Whether it is time to ask again."""
        return self.until is not None and self.until <= now.seconds

    def postpone(self, response: Response, now: Moment) -> float:
        """A 202: wait, for the seconds returned. After four days of it raises PeerFailed (RFC 8995, 5.6)."""
        delay = wait_after(response, self._settings.retry_after, now.utc)
        self._since = now.seconds if self._since is None else self._since
        if now.seconds + delay - self._since > self._settings.keep_asking:
            raise PeerFailed("registrar-never-ready", f"still 202 after {self._settings.keep_asking:g} s")
        self.until = now.seconds + delay
        return delay

    def sit_out(self, error: BrskiError, now: Moment) -> bool:
        """Whether a registrar that asked for patience is only out of reach, and is asked again in a minute."""
        until, since = now.seconds + MAX_WAIT, self._since
        if since is None or self.outages >= MAX_OUTAGES or error.reason == "registrar-certificate-changed":
            return False
        if until - since > self._settings.keep_asking:
            return False
        self.until, self.outages = until, self.outages + 1
        return True


class Redirects:
    """How often one attempt was sent elsewhere."""

    def __init__(self) -> None:
        self._count, self._has_crossed = 0, False

    def follow(self, response: Response, host: str, port: int, path: str) -> Target:
        """Where to go; raises PeerFailed for one redirection too many.

        "The pledge MUST NOT follow more than one redirection to another web origin" (RFC 8995, 5.6).
        """
        target = redirection(response, host, port, path)
        crosses = (target.host, target.port) != (host, port)
        self._count += 1
        if self._count > MAX_REDIRECTS or (crosses and self._has_crossed):
            raise PeerFailed("redirect-loop", "one redirection too many")
        self._has_crossed = self._has_crossed or crosses
        return target


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
        target = Offer(url.hostname or "", HTTPS_PORT if url.port is None else url.port)
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
    except _NO_DATE:
        return DEFAULT_WAIT
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - now.timestamp()
