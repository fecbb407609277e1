"""A pledge: the device that has an IDevID and looks for its owner, as firmware embeds it.

Only order lives here: load, have the machine run, tell how it ended. `driver` carries out what `bootstrap` decides.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.x509.oid import ObjectIdentifier

from brski_common.certificates import Credential, PrivateKey
from brski_common.errors import Misconfigured, Refused
from brski_common.paths import Anchors
from brski_pledge import actions, enrolling, vouchering
from brski_pledge.discovery import Offer
from brski_pledge.driver import Clock, Driver, Means, Observer, Outcome
from brski_pledge.line import Surroundings
from brski_pledge.settings import PledgeSettings
from brski_pledge.state import Enrollment, Folder
from brski_pledge.transport import MakeTransport

__all__ = ["Outcome", "Pledge"]


class Pledge:
    """A device that has an IDevID and looks for its owner.

    `credential` is the IDevID with its chain, `anchors` are the maker's voucher anchors. `state` is
    a folder that survives reboots. `clock` gives the time of day if it can be trusted; without it no
    date is judged (RFC 8995, 2.6.1). `observer` is called with every event, in the event loop.
    `make_key` makes the LDevID's key; `transport` brings a TLS of the device's own (see `transport`).
    Raises Misconfigured or Untrusted for what could never be safe.
    """

    def __init__(
        self,
        settings: PledgeSettings,
        credential: Credential,
        anchors: Anchors,
        *,
        state: Path | Folder,
        clock: Clock | None = None,
        cloud_anchors: Anchors | None = None,
        observer: Observer | None = None,
        make_key: Callable[[str], PrivateKey] = enrolling.make_key,
        transport: MakeTransport | None = None,
    ) -> None:
        self.settings = settings
        self._device = vouchering.Device(credential, anchors, _policy(settings))
        vouchering.check_device(self._device)
        self._cloud_anchors = cloud_anchors or Anchors()
        if settings.cloud_registrar is not None and not self._cloud_anchors:
            raise Misconfigured("cloud-anchors-missing", "cloud_registrar needs anchors that vouch for it")
        self._folder = state if isinstance(state, Folder) else Folder(state)
        self._means = Means(self._folder, clock, observer, make_key, transport)
        self._driver: Driver | None = None

    @property
    def serial_number(self) -> str:
        """The product serial number in the IDevID."""
        return self._device.serial_number

    @property
    def enrollment(self) -> Enrollment | None:
        """What onboarding left on the disk, None in the factory state; raises Misconfigured if it is damaged."""
        return self._folder.load()

    async def onboard(self) -> Outcome:
        """Find the owner and enroll. Returns at once, without a packet, if that has happened (RFC 8995, 5).

        Without `once` in the settings this goes on until it succeeds; cancel it to stop. Raises Misconfigured, before
        anything is sent, if the state folder cannot take a state or has a damaged one.
        """
        self._check_idle()  # else what is tidied up might be what the other run is writing
        enrollment = self._folder.load()
        self._folder.tidy()
        if enrollment is not None and not enrollment.confirmed:
            # Power was lost between enrolling and telling of it.
            around = self._surroundings(replace(self.settings, once=True))
            await self._run(replace(around, renewing=enrollment, only_confirm=True))
            enrollment = self._folder.load()  # none after a reset meanwhile
        if enrollment is None:
            return await self._run(self._surroundings(self.settings))
        return Outcome("operational", enrollment=enrollment)

    async def renew(self, *, rekey: bool = True) -> Outcome:
        """Get a new LDevID, with a fresh key unless told otherwise (RFC 7030, 4.2.2).

        It comes from `renewal_registrar` of the settings, else from where the device was onboarded, which may have been
        a join proxy. Any server will do that the domain's anchors vouch for and that has id-kp-cmcRA or the name it was
        asked under (RFC 7030, 3.6.1); the one that worked is remembered.
        A failure leaves the present LDevID in use; a reset meanwhile ends it with `factory-reset`. Raises Refused in
        the factory state.
        """
        enrollment = self._folder.load()
        if enrollment is None:
            raise Refused("not-enrolled", "there is nothing to renew")
        around, server = self._surroundings(replace(self.settings, once=True)), self.settings.renewal_offer
        renewing = enrollment if server is None else replace(enrollment, host=server.host, port=server.port)
        outcome = await self._run(replace(around, renewing=renewing, rekey=rekey))
        return outcome if outcome.is_operational else replace(outcome, enrollment=self._folder.load())

    async def enroll_at(self, registrar: Offer, fingerprint: bytes) -> Outcome:
        """Enroll at an EST server without any voucher: for somebody at the device, never for the network.

        `fingerprint` is the SHA-256 of the server's certificate, compared by a person (RFC 8995, 7.2). Only in the
        factory state. It needs no server of the maker, so it works when there is none any more.
        """
        if self._folder.load() is not None:
            raise Refused("already-enrolled", "reset the device first")
        host = f"[{registrar.host}]" if ":" in registrar.host else registrar.host
        local = replace(self.settings, mdns=False, grasp=False, cloud_registrar=None, once=True)
        around = self._surroundings(replace(local, registrars=(f"{host}:{registrar.port}",)))
        return await self._run(replace(around, fingerprint=fingerprint))

    def reset(self) -> None:
        """Back to the factory state: erase the LDevID, its key and the anchors. The IDevID stays.

        During an onboarding that begins anew; a renewal ends.
        """
        if self._driver is None:
            self._folder.reset()
        else:
            self._driver.report(actions.FactoryReset())

    def export(self) -> None:
        """Write `ldevid.pem`, `anchors.pem` and `voucher` into the state folder, for programs that want them so.

        The key is in `identity.pem` alone, with the chain: that file serves for both. Nothing happens in the factory
        state. Blocks; raises OSError, and Misconfigured for a damaged state.
        """
        enrollment = self._folder.load()
        if enrollment is not None:
            self._folder.export(enrollment)

    def link_up(self) -> None:
        """A network link came up: end all back-offs (RFC 8995, 4.1)."""
        if self._driver is not None:
            self._driver.report(actions.LinkUp())

    def found(self, offer: Offer) -> None:
        """A way to a registrar that the device learnt by means of its own."""
        if self._driver is not None:
            self._driver.report(actions.Found(offer))

    def _surroundings(self, settings: PledgeSettings) -> Surroundings:
        observed = self._means.observer is not None
        return Surroundings(self._device, settings, secrets.token_bytes, self._cloud_anchors, observed=observed)

    def _check_idle(self) -> None:
        if self._driver is not None:
            raise Refused("onboarding-under-way", "this device is being configured")

    async def _run(self, around: Surroundings) -> Outcome:
        self._check_idle()
        if not around.only_confirm:
            self._folder.try_out()  # else a voucher would be in the maker's log, and a certificate issued, for nothing
        self._driver = Driver(around, self._means)
        try:
            return await self._driver.run()
        finally:
            self._driver = None


def _policy(settings: PledgeSettings) -> vouchering.VoucherPolicy:
    oid = settings.voucher_signer_oid
    return vouchering.VoucherPolicy(
        assertions=settings.accepted_assertions,
        nonceless=settings.nonceless_vouchers,
        signer_oid=None if oid is None else ObjectIdentifier(oid),
    )
