"""What the machine wants done, and what it is told: the vocabulary between `bootstrap` and a transport.

The laws of this file:

1. An action asks; the transport carries it out in its own time and reports with an input.
2. Both are frozen values. They hold no socket, no task and no clock.
3. Everything of one conversation carries its number, `attempt`; an input for an attempt that is over is ignored.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from brski_common.certificates import Credential, Peer, PrivateKey
from brski_pledge.discovery import Offer
from brski_pledge.events import Event
from brski_pledge.state import Enrollment

Judge = Callable[[Peer], None]


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: `seconds` of a monotonic clock, and the time of day if there is a clock to trust (RFC 8995, 2.6.1)."""

    seconds: float
    utc: datetime | None = None


# Actions


@dataclass(frozen=True, slots=True)
class Discover:
    """Send one round of queries by the active methods; passive ones never stop listening (RFC 8995, 4.1).

    `fresh`: the links may be others than before, so listen on them anew.
    """

    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """Open one TLS connection for `attempt` with `credential`; `judge` sees the server before anything is sent.

    `server_name=False`: send no SNI. Answer with Connected, or with Lost, whose reason is what `judge` raised.
    """

    attempt: int
    host: str
    port: int
    credential: Credential
    judge: Judge = field(compare=False)
    server_name: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send one request over the connection of `attempt`, never over another. Answer with Response or Lost."""

    attempt: int
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close the connection of `attempt`, and forget what is under way on it."""

    attempt: int


@dataclass(frozen=True, slots=True)
class MakeKey:
    """Make a fresh key pair ("P-256", "RSA-2048" …) on this device. Answer with KeyMade or NotDone."""

    attempt: int
    kind: str


@dataclass(frozen=True, slots=True)
class FetchRevocationLists:
    """Fetch these CRLs (http URLs). Answer with RevocationLists; one that cannot be had is left out."""

    attempt: int
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Keep `enrollment` for good. Answer with Saved only when no power loss can undo it, or with NotDone."""

    attempt: int
    enrollment: Enrollment


@dataclass(frozen=True, slots=True)
class Erase:
    """Erase everything that onboarding left: a factory reset. The IDevID stays."""


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the observer."""

    event: Event


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (seconds of the monotonic clock) or the next input; None: only an input helps."""

    until: float | None


@dataclass(frozen=True, slots=True)
class Done:
    """The device is operational. `confirmed`: the registrar heard of it over the new identity."""

    enrollment: Enrollment
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up, as the settings allow: every offer failed, or there was none."""

    reason: str
    detail: str = ""
    refused: bool = False  # a registrar said no, or we did; else something did not work


Action = (
    Discover
    | Connect
    | Send
    | CloseConnection
    | MakeKey
    | FetchRevocationLists
    | Persist
    | Erase
    | Notify
    | Wait
    | Done
    | Failed
)

# Inputs


@dataclass(frozen=True, slots=True)
class Found:
    """A way to a registrar was discovered, or heard of again."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Connected:
    """The handshake of `attempt` ended. `binding` is the channel binding, where the transport can tell it."""

    attempt: int
    peer: Peer
    binding: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """The whole answer to the last Send of `attempt`."""

    attempt: int
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """A header's value, whatever case its name came in."""
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case."""
        return (self.header("content-type") or "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection of `attempt` is gone, or never came to be."""

    attempt: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class KeyMade:
    """The key pair is made."""

    attempt: int
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The CRLs that could be fetched, by URL."""

    attempt: int
    lists: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Saved:
    """What Persist asked for is durable."""

    attempt: int


@dataclass(frozen=True, slots=True)
class NotDone:
    """MakeKey or Persist failed on this device."""

    attempt: int
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; nothing else."""


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A network link came up: what backed off may try again (RFC 8995, 4.1)."""


@dataclass(frozen=True, slots=True)
class FactoryReset:
    """Forget everything and begin anew (RFC 8995, 2.1)."""


Input = Found | Connected | Response | Lost | KeyMade | RevocationLists | Saved | NotDone | Tick | LinkUp | FactoryReset
