"""One attempt to join through one offer: the conversation with one registrar, without any I/O.

The laws of this file:

1. `phases.TRANSITIONS` holds every change of phase there is; nothing else changes `phase`.
2. Whether a connection stands is another matter than the phase (`line`): a phase that wants to ask something has
   the connection opened first.
3. Nothing of EST is sent before the voucher and the registrar have passed every check (RFC 8995, 5.6.2).
4. A request that is repeated after 202 is the very bytes of the first (RFC 8995, 5.6).
5. Whatever the other side does ends in a phase of the table, never in an exception.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import replace

from brski_common import cms, csrplan
from brski_common.certificates import Credential, Peer, PrivateKey, common_name, is_ca
from brski_common.errors import BrskiError, PeerFailed, Refused
from brski_common.voucher import new_nonce
from brski_pledge import actions, enrolling, events, requests, revocation, vouchering
from brski_pledge.actions import Action, Moment, Response
from brski_pledge.answers import Patience, Redirects, refusal
from brski_pledge.discovery import Offer
from brski_pledge.line import Line, Status, Surroundings
from brski_pledge.phases import TERMINAL, TRANSITIONS, Phase, Turn
from brski_pledge.requests import Request
from brski_pledge.state import Enrollment

MAX_CONFIRMATIONS = 3  # connections tried to tell of the success


class Attempt:
    """A conversation. `emit` takes the actions; `now` comes with every call."""

    def __init__(
        self, number: int, offer: Offer, around: Surroundings, emit: Callable[[Action], None], *, first: Phase
    ) -> None:
        self.number, self.offer, self.phase = number, offer, first
        self.failure: BrskiError | None = None
        self.enrollment = around.renewing
        self.progressed = 0.0  # when the other side, or the device, last did something
        self.confirmed = False
        self._around, self._emit = around, emit
        self._line = Line(number, offer, around, emit)
        self._renews = around.renewing is not None
        self._path, self._label = requests.REQUEST_VOUCHER, around.settings.est_label
        self._patience, self._redirects, self._confirmations = Patience(around.settings), Redirects(), 1
        self._request, self._nonce = b"", ""
        self._judged: vouchering.Imprint | None = None  # the voucher held, revocation may still be open
        self._imprint: vouchering.Imprint | None = None
        self._domain: enrolling.Domain | None = None
        self._plan: csrplan.Plan | None = None
        self._key: PrivateKey | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.phase in TERMINAL

    @property
    def is_connected(self) -> bool:
        """Whether it holds a connection or has one opened."""
        return self._line.status is not Status.DOWN

    @property
    def is_patient(self) -> bool:
        """Whether it waits for the time to ask again."""
        return self._patience.until is not None

    @property
    def is_imprinted(self) -> bool:
        """Whether a voucher held: then it is this attempt that counts."""
        return self._imprint is not None or self._around.skips_voucher

    @property
    def timer(self) -> float | None:
        """When `due` wants to be called."""
        deadline, until = self._line.deadline, self._patience.until
        return until if deadline is None else deadline if until is None else min(deadline, until)

    def is_due(self, now: Moment) -> bool:
        """Whether a timer has run out."""
        timer = self.timer
        return timer is not None and timer <= now.seconds

    def wants_line(self, now: Moment) -> bool:
        """Whether `due` would open a connection now."""
        return self._patience.is_over(now) and not self.is_connected

    # What Bootstrap calls

    def start(self, now: Moment) -> None:
        """Begin."""
        self.progressed = now.seconds
        self._ask(now)

    def due(self, now: Moment) -> None:
        """A timer ran out, maybe."""
        deadline = self._line.deadline
        if self._patience.is_over(now):
            self._patience.until, self.progressed = None, now.seconds
            self._ask(now)
        elif deadline is not None and deadline <= now.seconds:
            if self.phase is Phase.CHECK:
                self._line.deadline = None
                self._lists_came(actions.RevocationLists(self.number, {}), now)
            else:
                self._line.close()
                self._lost(now, PeerFailed("peer-timeout", "no answer in time"), worked=False)

    def close(self) -> None:
        """End it from our side; another attempt won, or a reset."""
        if not self.is_over:
            self._turn(Turn.CLOSED)
        self._line.close()

    def park(self) -> None:
        """Give up the connection while waiting for the time to ask again."""
        self._line.close()

    def feed(self, told: actions.Input, now: Moment) -> None:
        """Take in what happened; what does not belong to the present phase is ignored."""
        if self.is_over:
            return
        self.progressed = now.seconds
        try:
            self._take(told, now)
        except BrskiError as error:
            self._fail(error, now)

    def _take(self, told: actions.Input, now: Moment) -> None:
        line = self._line
        match told:
            case actions.Connected() if line.status is Status.OPENING:
                self._connected(told, now)
            case Response() if line.status is Status.UP and line.deadline is not None and self.phase in _ANSWERS:
                line.answer()
                self._patience.outages = 0
                _ANSWERS[self.phase](self, told, now)
            case actions.Lost() if line.status is not Status.DOWN:
                self._lost(now, PeerFailed(told.reason, told.detail), worked=line.lost())
            case actions.RevocationLists() if self.phase is Phase.CHECK:
                self._lists_came(told, now)
            case actions.KeyMade() if self.phase is Phase.KEY:
                self._key_made(told.key, now)
            case actions.Saved() if self.phase is Phase.SAVE:
                self._saved(now)
            case actions.NotDone() if self.phase in {Phase.KEY, Phase.SAVE}:
                self._fail(Refused(told.reason, told.detail), now)
            case _:
                pass

    # Connection

    def _ask(self, now: Moment) -> None:
        """Have the request of this phase sent, over the connection that stands or a new one."""
        if self._line.status is Status.UP:
            self._line.send(_REQUESTS[self.phase](self), now)
        elif self._line.status is Status.DOWN:
            self._line.open(now)

    def _connected(self, told: actions.Connected, now: Moment) -> None:
        if self._line.connected(told, now):
            shown, provisional = told.peer.certificate, self._line.is_provisional
            self._tell(lambda: events.RegistrarSeen.of(str(self.offer), shown, provisional=provisional))
        if self.phase is Phase.IDENTIFY:
            self._compose_request(told.peer, now)
            self._turn(Turn.DONE)
        self._ask(now)

    def _compose_request(self, peer: Peer, now: Moment) -> None:
        """A request with a nonce of its own for each connection that begins anew (RFC 8995, 5.2)."""
        settings, device = self._around.settings, self._around.device
        content_type = cms.ID_DATA if settings.compatible_content_type else cms.ID_CT_ANIMA_JSON_VOUCHER
        self._nonce = new_nonce(self._around.random)
        self._request = vouchering.compose(device, peer, self._nonce, now.utc, content_type=content_type)
        self._tell(lambda: events.VoucherRequested(str(self.offer), device.serial_number))

    def _lost(self, now: Moment, error: BrskiError, *, worked: bool) -> None:
        """The connection is gone: harmless while waiting, repaired between two requests, else the end."""
        if self.is_patient or self.phase in {Phase.CHECK, Phase.KEY, Phase.SAVE}:
            return
        if self.phase is Phase.IMPRINT:
            self._turn(Turn.FAILED)
            self._ask(now)
        elif self.phase is Phase.CONFIRM and self._confirmations < MAX_CONFIRMATIONS:
            self._confirmations += 1
            self._ask(now)
        elif worked and self.phase not in {Phase.REFUSE, Phase.COMPLAIN}:
            self._ask(now)
        elif self.phase in {Phase.REQUEST, Phase.ENROLL} and self._patience.sit_out(error, now):
            pass  # until asks again by itself
        else:
            self._fail(error, now)

    # Answers: what each phase makes of them

    def _voucher_came(self, response: Response, now: Moment) -> None:
        if response.status == 202:
            self._postpone(response, now, "voucher")
        elif 300 <= response.status < 400:
            self._redirect(response, now)
        elif response.status != 200:
            raise refusal("voucher-request-refused", response)
        else:
            self._judge_voucher(response, now)

    def _judge_voucher(self, response: Response, now: Moment) -> None:
        device, registrar = self._around.device, self._line.registrar
        assert registrar is not None
        try:
            voucher = vouchering.check_voucher(device, response.body, response.media_type, self._nonce, now.utc)
            imprint = vouchering.judge_registrar(voucher, registrar, now.utc)
            urls = revocation.lists_wanted(imprint)
        except BrskiError as error:
            self._refuse(error, now)
            return
        if not urls:
            self._imprinted(imprint, now)
            return
        self._judged = imprint
        self._turn(Turn.LISTS_WANTED)
        self._line.deadline = now.seconds + self._around.settings.response_timeout
        self._emit(actions.FetchRevocationLists(self.number, urls))

    def _lists_came(self, told: actions.RevocationLists, now: Moment) -> None:
        assert self._judged is not None
        self._line.deadline = None
        try:
            revocation.check_revocation(self._judged, told.lists, now.utc)
        except BrskiError as error:
            self._refuse(error, now)
        else:
            self._imprinted(self._judged, now)

    def _refuse(self, error: BrskiError, now: Moment) -> None:
        self.failure = error
        self._tell(lambda: events.VoucherRefused(str(self.offer), error.reason, error.detail))
        self._turn(Turn.REFUSED)
        self._ask(now)

    def _imprinted(self, imprint: vouchering.Imprint, now: Moment) -> None:
        self._imprint, self._patience = imprint, Patience(self._around.settings)
        self._tell(lambda: events.Imprinted.of(str(self.offer), imprint, now.utc))
        self._turn(Turn.DONE)
        self._ask(now)

    def _voucher_reported(self, _response: Response, now: Moment) -> None:
        # "The client ignores any response" (RFC 8995, 5.7).
        self._turn(Turn.DONE)
        if self.is_over:
            self._line.close()
        else:
            self._ask(now)

    def _anchors_came(self, response: Response, now: Moment) -> None:
        domain = self._domain = self._read_domain(response)
        self._tell(lambda: events.AnchorsReceived(tuple(map(common_name, domain.anchors))))
        self._turn(Turn.DONE)
        self._ask(now)

    def _read_domain(self, response: Response) -> enrolling.Domain:
        if response.status == 200:
            return enrolling.read_ca_certificates(response.body)
        if self._around.renewing is not None:
            return enrolling.Domain(self._around.renewing.anchors)
        if self._imprint is not None and is_ca(self._imprint.pinned):
            # "The pinned-domain-cert MAY be installed as a trust anchor" (RFC 8995, 5.6.2).
            return enrolling.Domain((self._imprint.pinned,))
        raise refusal("cacerts-refused", response)

    def _attributes_came(self, response: Response, now: Moment) -> None:
        if response.status not in {200, 204, 404}:
            raise refusal("csrattrs-refused", response)
        body, renewing = response.body if response.status == 200 else None, self._around.renewing
        if renewing is None:
            self._plan = enrolling.plan_request(body, self._around.device.idevid.certificate)
        else:
            self._plan = enrolling.plan_renewal(body, renewing.credential.certificate)
        kind = enrolling.key_kind(self._plan.key, self._around.settings.ldevid_key)
        self._turn(Turn.DONE)
        if renewing is not None and not self._around.rekey:
            self._key_made(renewing.credential.key, now)
        else:
            self._emit(actions.MakeKey(self.number, kind))
            self._tell(lambda: events.KeyMade(kind))

    def _key_made(self, key: PrivateKey, now: Moment) -> None:
        assert self._plan is not None
        binding = self._line.binding
        challenge = None if binding is None else base64.b64encode(binding).decode()
        self._key, self._request = key, enrolling.compose_request(self._plan, key, challenge)
        self._turn(Turn.DONE)
        self._ask(now)

    def _certificate_came(self, response: Response, now: Moment) -> None:
        if response.status == 202:
            self._postpone(response, now, "certificate")
            return
        if response.status != 200:
            raise refusal("enrollment-refused", response)
        assert self._key is not None
        assert self._domain is not None
        credential = enrolling.check_issued(response.body, self._key, self._domain, now.utc)
        self._tell(lambda: events.CertificateReceived.of(credential.certificate))
        self.enrollment = self._new_enrollment(credential, self._domain, now)
        self._turn(Turn.DONE)
        self._emit(actions.Persist(self.number, self.enrollment))

    def _new_enrollment(self, credential: Credential, domain: enrolling.Domain, now: Moment) -> Enrollment:
        if self._around.renewing is not None:
            return replace(self._around.renewing, credential=credential, anchors=domain.anchors)
        assert self._line.registrar is not None
        where = (self._line.host, self._line.port)
        return enrolling.new_enrollment(
            self._imprint, self._line.registrar.certificate, credential, domain, where=where, now=now.utc
        )

    def _saved(self, now: Moment) -> None:
        self._tell(events.EnrollmentSaved)
        self._line.close()
        if self._around.skips_voucher:
            self._turn(Turn.SKIPPED)
            return
        assert self.enrollment is not None
        # "the pledge SHOULD first re-establish the TLS connection" with its new certificate (RFC 8995, 5.9.4).
        self._line.credential = self.enrollment.credential
        self._turn(Turn.DONE)
        self._ask(now)

    def _enrollment_reported(self, _response: Response, _now: Moment) -> None:
        self.confirmed = self.phase is Phase.CONFIRM
        self._turn(Turn.DONE)
        self._line.close()

    # Waiting, redirection, failure

    def _postpone(self, response: Response, now: Moment, what: str) -> None:
        delay = self._patience.postpone(response, now)
        self._turn(Turn.NOT_YET)
        self._tell(lambda: events.Waiting(str(self.offer), delay, what))

    def _redirect(self, response: Response, now: Moment) -> None:
        target = self._redirects.follow(response, self._line.host, self._line.port, self._path)
        self._path = target.path
        if (target.host, target.port) != (self._line.host, self._line.port):
            self._patience = Patience(self._around.settings)
            self._tell(lambda: events.Redirected(str(self.offer), f"{target.host}:{target.port}"))
            self._turn(Turn.REDIRECTED)
            self._line.turn_to(target.host, target.port)
        self._ask(now)

    def _fail(self, error: BrskiError, now: Moment) -> None:
        if self.failure is None:
            self.failure = error
        self._patience.until = self._line.deadline = None
        self._turn(self._turn_of_failure())
        # "the pledge MUST send … over the TLS connection used for the failed enrollment" (RFC 8995, 5.9.4).
        if self.phase is Phase.COMPLAIN and self._line.status is Status.UP:
            self._ask(now)
            return
        if self.phase is Phase.COMPLAIN:
            self._turn(Turn.FAILED)
        self._line.close()

    def _turn_of_failure(self) -> Turn:
        """A plain EST server hears no complaints, nor does a registrar that changed after the voucher."""
        silent = self._around.skips_voucher and self.phase is not Phase.CONFIRM
        return Turn.CLOSED if silent or self.phase is Phase.IMPRINT else Turn.FAILED

    def _turn(self, turn: Turn) -> None:
        self.phase = TRANSITIONS[self.phase, turn]

    def _tell(self, make: Callable[[], events.Event]) -> None:
        if self._around.observed:
            self._emit(actions.Notify(make()))


_REQUESTS: Mapping[Phase, Callable[[Attempt], Request]] = {
    Phase.REQUEST: lambda attempt: requests.voucher(attempt._path, attempt._request),
    Phase.REFUSE: lambda _: requests.voucher_status(accepted=False),
    Phase.IMPRINT: lambda _: requests.voucher_status(accepted=True),
    Phase.ANCHORS: lambda attempt: requests.ca_certificates(attempt._label),
    Phase.ATTRIBUTES: lambda attempt: requests.csr_attributes(attempt._label),
    Phase.ENROLL: lambda attempt: requests.certificate(attempt._label, attempt._request, renewing=attempt._renews),
    Phase.CONFIRM: lambda _: requests.enroll_status(None),
    Phase.COMPLAIN: lambda attempt: requests.enroll_status(attempt.failure),
}
_ANSWERS: Mapping[Phase, Callable[[Attempt, Response, Moment], None]] = {
    Phase.REQUEST: Attempt._voucher_came,
    Phase.REFUSE: Attempt._voucher_reported,
    Phase.IMPRINT: Attempt._voucher_reported,
    Phase.ANCHORS: Attempt._anchors_came,
    Phase.ATTRIBUTES: Attempt._attributes_came,
    Phase.ENROLL: Attempt._certificate_came,
    Phase.CONFIRM: Attempt._enrollment_reported,
    Phase.COMPLAIN: Attempt._enrollment_reported,
}
