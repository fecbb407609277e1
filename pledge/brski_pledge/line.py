"""The connection of an attempt: who may be at its other end, and whether it stands.

1. At most one connection at a time, opened anew only on purpose (RFC 8995, 5: the provisional state occurs once).
2. The first one is provisional: any registrar will do, and the chain it shows is kept (RFC 8995, 5.1).
   A cloud registrar and the registrar of a renewal are verified at once instead.
3. Each further one has to show the end-entity certificate of the first (RFC 8995, 5).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from hmac import compare_digest

from brski_common.certificates import Credential, Peer, common_name, fingerprint
from brski_common.errors import Untrusted
from brski_common.paths import Anchors, build_path, verify_host
from brski_pledge import actions, enrolling, vouchering
from brski_pledge.actions import Action, Moment
from brski_pledge.discovery import Offer, is_address
from brski_pledge.requests import Request
from brski_pledge.settings import PledgeSettings
from brski_pledge.state import Enrollment


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all attempts of a device share. `renewing` makes a renewal of it, or only a late report of success."""

    device: vouchering.Device
    settings: PledgeSettings
    random: Callable[[int], bytes]
    cloud_anchors: Anchors = field(default_factory=Anchors)
    renewing: Enrollment | None = None
    rekey: bool = True
    only_confirm: bool = False
    fingerprint: bytes | None = None  # SHA-256 of the server's certificate, which a person compared (RFC 8995, 7.2)
    observed: bool = True  # whether anybody wants events; they are not made for nobody

    @property
    def skips_voucher(self) -> bool:
        """Whether the server is known by other means than a voucher: it vouched once, or a person compared it."""
        return self.renewing is not None or self.fingerprint is not None


class Status(Enum):
    """Whether the connection stands."""

    DOWN = auto()
    OPENING = auto()
    UP = auto()


class Line:
    """One connection, or none. `deadline` is when patience with whatever is under way ends."""

    def __init__(self, number: int, offer: Offer, around: Surroundings, emit: Callable[[Action], None]) -> None:
        self.host, self.port = offer.host, offer.port
        renewing = around.renewing
        self.credential: Credential = around.device.idevid if renewing is None else renewing.credential
        self.registrar: Peer | None = None  # as the first connection showed it
        self.binding: bytes | None = None
        self.status = Status.DOWN
        self.answered = False  # whether this connection has carried an answer
        self.deadline: float | None = None
        self._number, self._around, self._emit, self._is_cloud = number, around, emit, offer.is_cloud

    @property
    def is_provisional(self) -> bool:
        """Whether a first connection is accepted from anybody (RFC 8995, 5.1)."""
        return not self._around.skips_voucher and not self._is_cloud

    def open(self, now: Moment) -> None:
        """Have the connection opened."""
        self.status, self.answered = Status.OPENING, False
        self.deadline = now.seconds + self._around.settings.connect_timeout
        # SNI is for names only (draft-ietf-anima-constrained-voucher, 6.3).
        name, judge = not is_address(self.host), self._judge(now)
        self._emit(actions.Connect(self._number, self.host, self.port, self.credential, judge, server_name=name))

    def connected(self, told: actions.Connected, now: Moment) -> bool:
        """It stands; True the first time. Raises Untrusted, though a driver has asked `judge` before."""
        self._judge(now)(told.peer)
        self.status, self.deadline, self.binding = Status.UP, None, told.binding
        is_first = self.registrar is None
        self.registrar = self.registrar or told.peer
        return is_first

    def send(self, request: Request, now: Moment) -> None:
        """Have a request sent."""
        self.deadline = now.seconds + self._around.settings.response_timeout
        self._emit(actions.Send(self._number, request.method, request.path, request.headers, request.body))

    def answer(self) -> None:
        """The answer to the request came."""
        self.answered, self.deadline = True, None

    def close(self) -> None:
        """Have it closed."""
        if self.status is not Status.DOWN:
            self._emit(actions.CloseConnection(self._number))
        self.status, self.deadline = Status.DOWN, None

    def lost(self) -> bool:
        """It is gone; True if it had carried answers, so that only the pause between two requests was too long."""
        worked = self.status is Status.UP and self.answered
        self.status, self.deadline = Status.DOWN, None
        return worked

    def turn_to(self, host: str, port: int) -> None:
        """Another registrar, of which nothing is known yet."""
        self.close()
        self.host, self.port, self.registrar, self._is_cloud = host, port, None, False

    def _judge(self, now: Moment) -> actions.Judge:
        """Who may be at the other end of the connection about to be opened."""
        if self._around.renewing is not None:
            anchors, host = self._around.renewing.anchors, self.host
            return lambda peer: enrolling.judge_est_server(peer, host, anchors, now.utc)
        if self._around.fingerprint is not None:
            return _is_compared(self._around.fingerprint)
        return self._cloud_judge(now) if self._is_cloud else _same_as(self.registrar)

    def _cloud_judge(self, now: Moment) -> actions.Judge:
        same, host, anchors = _same_as(self.registrar), self.host, self._around.cloud_anchors

        def judge(peer: Peer) -> None:
            # RFC 8995, 2.7: not provisional, but verified by the maker's own anchors and by name.
            build_path(peer.certificate, peer.chain[1:], anchors, now.utc)
            verify_host(peer.certificate, host)
            same(peer)

        return judge


def _is_compared(wanted: bytes) -> actions.Judge:
    def judge(peer: Peer) -> None:
        if not compare_digest(fingerprint(peer.certificate), wanted):
            raise Untrusted("fingerprint-mismatch", f"sha256 {fingerprint(peer.certificate).hex()}")

    return judge


def _same_as(first: Peer | None) -> actions.Judge:
    def judge(peer: Peer) -> None:
        # "They MUST check each subsequent connection for the same certificates" (RFC 8995, 5).
        if first is not None and peer.certificate != first.certificate:
            raise Untrusted("registrar-certificate-changed", common_name(peer.certificate))

    return judge
