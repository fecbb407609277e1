"""Whole onboardings where the CA is elsewhere: the product's pledge, MASA and registrar, and a careless CA."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from brski_common.certificates import ID_KP_CMC_RA, extended_key_usages
from brski_common.csr import read_csr
from brski_common.csrattrs import ask
from brski_common.csrwishes import Wishes, subject_wish
from brski_common.paths import build_path
from brski_registrar.lifecycle import State
from brski_registrar.upstream import UpstreamAuthority
from tests.support import ca_fake
from tests.support.ca_fake import CaFake
from tests.support.forgeries import serial_of
from tests.support.rogues import Scene, open_plant


@dataclass
class Stage:
    """The scene, and the CA of its plant."""

    scene: Scene
    ca: CaFake

    async def state(self, serial: str) -> State:
        """Where a device stands."""
        (device,) = await self.scene.plant.store.find(serial)
        return device.state


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    async with Scene.open(folder) as scene, CaFake.open(scene.clock, scene.plant.domain) as ca:
        domain = scene.plant.domain
        authority = UpstreamAuthority(ca.server.url, domain.anchors, domain.registrar, clock=scene.clock)
        (folder / "ra").mkdir()
        opened = open_plant(folder / "ra", scene.clock, domain, scene.factory.maker, authority=authority)
        try:
            async with opened as plant:
                scene.plant = plant
                yield Stage(scene, ca)
        finally:
            await authority.close()


@pytest.mark.req("E-24", "E-11", "EI-13")
async def test_a_pledge_becomes_operational_with_a_certificate_from_elsewhere_and_renews_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.ca.attributes = ask(Wishes(subject=subject_wish(("2.5.4.10", "Example Plant"), ("2.5.4.3", None))))
        device = await at.scene.device()
        pledge = at.scene.pledge(device, clock=at.scene.clock)
        outcome = await pledge.onboard()
        assert outcome.is_operational, f"{outcome.reason}: {outcome.detail}"
        assert await at.state(serial_of(device)) is State.OPERATIONAL
        enrollment = pledge.enrollment
        assert enrollment is not None
        assert enrollment.credential.certificate == at.ca.issued[-1]
        anchors = at.scene.plant.domain.anchors
        build_path(enrollment.credential.certificate, at.scene.plant.domain.issuing.chain, anchors, at.scene.clock())

        at.scene.clock.advance(86400 * 60)
        renewed = await pledge.renew()
        assert renewed.is_operational, f"{renewed.reason}: {renewed.detail}"
        assert renewed.enrollment is not None
        assert renewed.enrollment.credential.certificate == at.ca.issued[-1] != enrollment.credential.certificate
        assert [path.rpartition("/")[2] for path, _ in at.ca.requests] == ["simpleenroll", "simpleenroll"]
        for _, raw in at.ca.requests:
            assert read_csr(raw).subject == enrollment.credential.certificate.subject
        assert all(peer and ID_KP_CMC_RA in extended_key_usages(peer.certificate) for peer in at.ca.peers)


@pytest.mark.req("E-24", "E-14")
async def test_a_pledge_waits_as_long_as_the_ca_lets_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.ca.answers.append(ca_fake.status(202, "an officer looks at it", "0"))
        device = await at.scene.device()
        pledge = at.scene.pledge(device)
        outcome = await pledge.onboard()
        assert outcome.is_operational, f"{outcome.reason}: {outcome.detail}"
        (_, first), (_, second) = at.ca.requests
        assert first == second


@pytest.mark.req("E-24")
async def test_a_pledge_that_the_ca_refuses_is_told_so_and_the_operator_why(tmp_path: Path) -> None:
    async with stage(tmp_path) as at:
        at.ca.answers.append(ca_fake.status(403, "not one of ours"))
        device = await at.scene.device()
        outcome = await at.scene.onboard(device)
        assert not outcome.is_operational
        assert at.ca.issued == []
        told = [(entry.event, entry.reason, entry.detail) for entry in await at.scene.plant.store.journal()]
        assert ("enroll-refused", "upstream-refused", "simpleenroll: 403 not one of ours") in told
        await at.scene.still_works(await at.scene.device())
