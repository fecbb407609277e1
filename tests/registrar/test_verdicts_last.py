"""A verdict against a device lasts: over real TLS, nothing but a verdict for it or an operator gives renewals back."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from cryptography import x509

from brski_common.certificates import Credential
from brski_common.errors import PeerFailed, Refused
from brski_common.voucher import new_nonce
from brski_registrar import operating
from brski_registrar.ca import LocalAuthority
from brski_registrar.enrolling import Profile
from brski_registrar.lifecycle import State
from brski_registrar.policy import Admit, AuditPolicy
from brski_registrar.records import Device
from tests.support.plant import EST, Line, Plant, csr_with, reason_of
from tests.support.world import key_for

ROGUE = b"\x66" * 20
DENIED = (403, "device-denied")


@dataclass
class Member:
    """A device in operation: its line by the IDevID, and the one by the certificate it got."""

    plant: Plant
    line: Line
    ldevid: Credential
    own: Line

    async def renewal(self) -> tuple[int, str]:
        """What a renewal comes to, as status and slug."""
        names = [(each.oid, str(each.value)) for each in self.ldevid.certificate.subject]
        response = await self.own.enroll(csr_with(*names, key=self.ldevid.key), "simplereenroll")
        return response.status, "" if response.status == 200 else reason_of(response)

    async def judged(self, *, against: bool = True) -> Device:
        """Its log read again, with another's voucher in it or not."""
        if against:
            self.plant.masa.remember(self.line.serial, ROGUE)
        return await self.plant.service.recheck(await self.device())

    async def asks_anew(self) -> tuple[int, str]:
        """What a new voucher request comes to."""
        response = await self.line.request_voucher(self.line.pvr(nonce=new_nonce()))
        return response.status, "" if response.status == 200 else reason_of(response)

    async def device(self) -> Device:
        return await self.plant.device(self.line.serial)

    async def approved(self) -> Device:
        now = self.plant.clock()
        return await operating.approve(
            self.plant.store, self.plant.policies, await self.device(), by="operator", now=now
        )

    async def blocked(self) -> Device:
        now = self.plant.clock()
        return await operating.block(self.plant.store, await self.device(), reason="", by="operator", now=now)

    async def unblocked(self) -> Device:
        now = self.plant.clock()
        return await operating.unblock(self.plant.store, await self.device(), by="operator", now=now)


@asynccontextmanager
async def member(plant: Plant) -> AsyncIterator[Member]:
    async with plant.vouched() as line:
        ldevid = await line.enrolled()
        async with plant.connect(ldevid) as own:
            assert (await own.enroll_status(success=True)).status == 200
            yield Member(plant, line, ldevid, own)


async def asks_and_gets(of: Member) -> State:
    assert await of.asks_anew() == (200, "")
    return State.VOUCHERED


async def asks_and_says_it_is_well(of: Member) -> State:
    await asks_and_gets(of)
    assert (await of.line.status(success=True)).status == 200
    return State.DENIED


async def asks_and_rejects_it(of: Member) -> State:
    await asks_and_gets(of)
    assert (await of.line.status(success=False)).status == 200
    return State.FAILED


async def asks_a_masa_that_refuses(of: Member) -> State:
    of.plant.masa.fails.append(Refused("masa-refused"))
    assert await of.asks_anew() == (403, "masa-refused")
    return State.DECLINED


async def asks_a_masa_that_is_away(of: Member) -> State:
    await of.plant.change_maker(wait_for_masa=True)
    of.plant.masa.fails.append(PeerFailed("peer-unreachable"))
    assert (await of.asks_anew())[0] == 202
    return State.REQUESTED


async def asks_and_is_held(of: Member) -> State:
    await of.plant.policies.disallow(of.plant.maker.name, of.line.serial)
    await of.plant.change_maker(admit=Admit.ASK)
    assert (await of.asks_anew())[0] == 202
    return State.HELD


async def is_blocked_and_unblocked(of: Member) -> State:
    assert (await of.blocked()).state is State.BLOCKED
    assert await of.renewal() == (406, "device-blocked")
    return (await of.unblocked()).state


async def asks_is_blocked_and_unblocked_and_asks(of: Member) -> State:
    await asks_and_rejects_it(of)
    await is_blocked_and_unblocked(of)
    return await asks_and_gets(of)


Way = Callable[[Member], Awaitable[State]]
WAYS = (
    asks_and_gets,
    asks_and_says_it_is_well,
    asks_and_rejects_it,
    asks_a_masa_that_refuses,
    asks_a_masa_that_is_away,
    asks_and_is_held,
    is_blocked_and_unblocked,
    asks_is_blocked_and_unblocked_and_asks,
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.req("AL-14", "E-16")
async def test_a_denied_device_gets_its_renewals_back_from_the_operator_and_by_no_way_of_its_own(
    plant: Plant, way: Way
) -> None:
    async with member(plant) as of:
        assert await of.renewal() == (200, "")
        assert (await of.judged()).state is State.DENIED
        assert await of.renewal() == DENIED
        state = await way(of)
        device = await of.device()
        assert (device.state, device.is_barred) == (state, True)
        assert await of.renewal() == DENIED
        assert reason_of(await of.own.get(f"{EST}/csrattrs")) == "device-denied"
        assert (await of.line.enroll(csr_with())).status == 403, "nor does the IDevID bring a certificate"
        if state is State.HELD:
            assert (await of.approved()).is_barred, "to admit it is not to overrule its log"
            assert await of.renewal() == DENIED
        assert not (await of.approved()).is_barred
        assert await of.renewal() == (200, "")
        assert ("approved", "overrule") in await plant.told(of.line.serial)


@pytest.mark.req("AL-14")
async def test_an_overruled_log_opens_est_to_the_idevid_where_it_was_read_for_this_voucher_only(plant: Plant) -> None:
    async with member(plant) as of:
        await of.judged()
        await is_blocked_and_unblocked(of)
        assert (await of.approved()).state is State.NEW
        response = await of.line.enroll(csr_with())
        assert (response.status, reason_of(response)) == (403, "voucher-missing")
        await asks_and_says_it_is_well(of)
        assert await of.renewal() == DENIED, "the same log again, and nobody has overruled this verdict"
        assert (await of.approved()).state is State.APPROVED
        assert (await of.line.enroll()).status == 200


@pytest.mark.req("AL-14")
async def test_a_new_verdict_gives_renewals_back(plant: Plant) -> None:
    async with member(plant) as of:
        await of.judged()
        await plant.change_maker(audit=AuditPolicy(known_domains=(ROGUE.hex(),)))
        await of.judged(against=False)
        assert await of.renewal() == DENIED, "a log that is read again only speaks against a device"
        assert await of.asks_anew() == (200, "")
        assert await of.renewal() == DENIED
        assert (await of.line.status(success=True)).status == 200
        device = await of.device()
        assert (device.state, device.is_barred) == (State.APPROVED, False)
        assert await of.renewal() == (200, "")


@pytest.mark.req("AL-14")
async def test_a_device_that_is_blocked_in_operation_is_judged_all_the_same(plant: Plant) -> None:
    async with member(plant) as of:
        assert (await of.blocked()).state is State.SUSPENDED
        device = await of.judged()
        assert (device.state, device.is_barred) == (State.BLOCKED, True)
        assert await of.renewal() == (406, "device-blocked")
        assert (await of.unblocked()).state is State.NEW
        assert await of.renewal() == DENIED
        await of.approved()
        assert await of.renewal() == (200, "")


@pytest.mark.parametrize("way", [asks_a_masa_that_refuses, asks_a_masa_that_is_away, asks_and_is_held])
@pytest.mark.req("AL-14")
async def test_nobody_asks_himself_out_of_a_verdicts_reach(plant: Plant, way: Way) -> None:
    """Its certificate is in use while it asks for another voucher, so its log counts meanwhile."""
    async with member(plant) as of:
        state = await way(of)
        assert await of.renewal() == (200, "")
        assert (await of.judged()).state is state
        assert await of.renewal() == DENIED


@pytest.mark.req("AL-14", "E-16")
async def test_a_verdict_during_a_renewal_counts(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    async with member(plant) as of:
        issue = LocalAuthority.issue

        async def meanwhile(
            authority: LocalAuthority, csr: x509.CertificateSigningRequest, profile: Profile
        ) -> x509.Certificate:
            await of.judged()
            await is_blocked_and_unblocked(of)
            return await issue(authority, csr, profile)

        with monkeypatch.context() as patched:
            patched.setattr(LocalAuthority, "issue", meanwhile)
            names = [(each.oid, str(each.value)) for each in of.ldevid.certificate.subject]
            response = await of.own.enroll(csr_with(*names, key=key_for("next")), "simplereenroll")
        assert (response.status, reason_of(response)) == DENIED
        assert len(await plant.store.issued_to((await of.device()).id)) == 1
