"""What carries out the machine's actions: in order, one thing at a time, and nothing left behind."""

import asyncio
import errno
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from brski_common.errors import Misconfigured
from brski_pledge import Enrollment, Event, Pledge, PledgeSettings, actions
from brski_pledge.discovery import parse_offer
from brski_pledge.disk import Disk
from brski_pledge.events import AttemptFailed
from brski_pledge.state import IDENTITY, NEW, Folder
from tests.support.registrar_fake import Answer, FakeRegistrar, Reply, Stage, folder_of, serve
from tests.support.world import NOW, Manufacturer

MAKER = Manufacturer()


class WatchedFolder(Folder):
    """A folder that notes what is done to it, and lets a test have a say before a save."""

    def __init__(self, path: Path, before_save: Callable[[], None] = lambda: None, *, disk: Disk | None = None) -> None:
        super().__init__(path, disk)
        self.done: list[tuple[str, bool]] = []  # what, and whether in the main thread
        self._before_save = before_save

    def _note(self, what: str) -> None:
        self.done.append((what, threading.current_thread() is threading.main_thread()))

    def save(self, enrollment: Enrollment) -> Enrollment:
        self._before_save()
        saved = super().save(enrollment)
        self._note("save")
        return saved

    def reset(self) -> None:
        super().reset()
        self._note("reset")


def pledge(address: str, folder: Folder) -> Pledge:
    settings = PledgeSettings(mdns=False, registrars=(address,), once=True)
    return Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=folder, clock=lambda: NOW)


async def onboarded(folder: Folder, registrar: FakeRegistrar | None = None) -> bool:
    server = await serve(registrar or FakeRegistrar(maker=MAKER))
    try:
        return (await pledge(server.url.removeprefix("https://"), folder).onboard()).is_operational
    finally:
        await server.close(0.1)


async def test_what_waits_for_the_disk_is_done_in_a_thread(tmp_path: Path) -> None:
    folder = WatchedFolder(tmp_path / "state")
    assert await onboarded(folder)
    assert folder.done == [("save", False)]


@pytest.mark.parametrize(("seconds", "at_once"), [(0.001, True), (0.1, False)])
async def test_a_disk_that_was_quick_is_waited_for(tmp_path: Path, seconds: float, at_once: bool) -> None:
    disk = Disk()
    disk.save_seconds = seconds
    folder = WatchedFolder(tmp_path / "state", disk=disk)
    assert await onboarded(folder)
    assert folder.done == [("save", at_once)]
    assert disk.save_seconds != seconds, "every save tells anew how quick the disk is"


async def test_a_quick_disk_that_fails_is_a_clean_failure(tmp_path: Path) -> None:
    disk = FailingDisk(1)
    disk.save_seconds = 0.001
    server = await serve(FakeRegistrar(maker=MAKER))
    outcome = await pledge(server.url.removeprefix("https://"), Folder(tmp_path / "state", disk)).onboard()
    await server.close(0.1)
    assert (outcome.state, outcome.reason) == ("refused", "disk-failed")


async def test_what_onboard_returns_is_what_is_kept(tmp_path: Path) -> None:
    server = await serve(FakeRegistrar(maker=MAKER))
    outcome = await pledge(server.url.removeprefix("https://"), Folder(tmp_path / "state")).onboard()
    await server.close(0.1)
    kept = Folder(tmp_path / "state").load()
    assert kept is not None
    assert outcome.enrollment is not None
    assert (kept.confirmed, kept.folder, kept.voucher) == (True, tmp_path / "state", outcome.enrollment.voucher)
    assert outcome.enrollment.confirmed
    assert outcome.enrollment.folder == kept.folder
    assert list(folder_of(tmp_path / "state")) == [IDENTITY]


@pytest.mark.req("AR-06")
async def test_a_reset_waits_for_the_save_that_is_under_way(tmp_path: Path) -> None:
    loop, pressed = asyncio.get_running_loop(), list[bool]()

    def press_button() -> None:
        if not pressed:
            pressed.append(True)
            asyncio.run_coroutine_threadsafe(_call(device.reset), loop).result()

    registrar = FakeRegistrar(maker=MAKER)
    server = await serve(registrar)
    folder = WatchedFolder(tmp_path / "state", press_button)
    device = pledge(server.url.removeprefix("https://"), folder)
    outcome = await device.onboard()
    await server.close(0.1)
    assert outcome.is_operational
    assert [what for what, _ in folder.done] == ["save", "reset", "save"]
    assert len(registrar.asked("requestvoucher")) == 2


@pytest.mark.req("AR-06", "ST-03")
async def test_a_reset_during_a_renewal_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    def press_button(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        device.reset()
        return Answer(202, b"", {"Retry-After": "60"})

    registrar = FakeRegistrar(maker=MAKER)
    registrar.script("simplereenroll", press_button)
    server = await serve(registrar)
    device = pledge(server.url.removeprefix("https://"), Folder(tmp_path / "state"))
    await device.onboard()
    outcome = await device.renew()
    await server.close(0.1)
    assert (outcome.state, outcome.reason, outcome.enrollment) == ("refused", "factory-reset", None)
    assert folder_of(tmp_path) == {}


@pytest.mark.req("AR-06", "ST-03")
async def test_a_reset_during_a_late_report_has_the_device_onboard_anew(tmp_path: Path) -> None:
    def press_button(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        device.reset()
        return Answer()

    registrar = FakeRegistrar(maker=MAKER)
    server = await serve(registrar)
    folder = Folder(tmp_path / "state")
    device = pledge(server.url.removeprefix("https://"), folder)
    first = (await device.onboard()).enrollment
    assert first is not None
    folder.save(replace(first, confirmed=False))
    registrar.script("enrollstatus", press_button)
    second = (await device.onboard()).enrollment
    await server.close(0.1)
    assert second is not None
    assert second.credential.certificate != first.credential.certificate
    assert len(registrar.asked("requestvoucher")) == 2


async def test_a_reset_that_the_disk_refuses_is_told_to_who_runs_the_onboarding(tmp_path: Path) -> None:
    class WornFolder(Folder):
        def reset(self) -> None:
            raise OSError(5, "Input/output error")

    def press_button(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        device.reset()
        return Answer(202, b"", {"Retry-After": "60"})

    registrar = FakeRegistrar(maker=MAKER)
    registrar.script("requestvoucher", press_button)
    server = await serve(registrar)
    device = pledge(server.url.removeprefix("https://"), WornFolder(tmp_path / "state"))
    with pytest.raises(OSError, match="Input/output"):
        await device.onboard()
    await server.close(0.1)


async def test_a_cancelled_onboarding_leaves_no_task(tmp_path: Path) -> None:
    asked = asyncio.Event()

    def patience(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        asked.set()
        return Answer(202, b"", {"Retry-After": "60"})

    server = await serve(FakeRegistrar(maker=MAKER, always={"requestvoucher": patience}))
    before = asyncio.all_tasks()
    onboarding = asyncio.ensure_future(
        pledge(server.url.removeprefix("https://"), Folder(tmp_path / "state")).onboard()
    )
    await asked.wait()
    onboarding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await onboarding
    await server.close(0.1)
    assert asyncio.all_tasks() <= before


def test_events_are_made_for_an_observer_alone() -> None:
    for observed in (True, False):
        stage = Stage(observed=observed)
        stage.add()
        stage.find()
        assert isinstance(stage.run(), actions.Done)
        assert bool(stage.did(actions.Notify)) is observed


async def _call(work: Callable[[], None]) -> None:
    work()


# A disk that keeps nothing


class FailingDisk(Disk):
    """A real disk that is full for so many writes of a state, whatever it said when it was tried out."""

    def __init__(self, failures: int) -> None:
        self.failures, self.is_full = failures, False

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        if self.is_full or (durable and self.failures):
            self.failures, self.is_full = self.failures - durable, True
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        super().write(path, data, durable=durable)


@pytest.mark.parametrize("verb", ["onboard", "enroll_at"])
async def test_a_folder_that_takes_no_state_is_told_before_a_packet_is_sent(verb: str, tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    server = await serve(registrar)
    address = server.url.removeprefix("https://")
    (tmp_path / "dangling").symlink_to("/nowhere/x")
    device = pledge(address, Folder(tmp_path / "dangling" / "state"))
    with pytest.raises(Misconfigured, match=r"state-unusable: .*/dangling/state: No such file"):
        await (device.onboard() if verb == "onboard" else device.enroll_at(parse_offer(address), bytes(32)))
    await server.close(0.1)
    assert registrar.seen == []
    assert registrar.clients == []


async def test_a_renewal_that_could_not_be_kept_is_not_asked_for(tmp_path: Path) -> None:
    registrar, disk = FakeRegistrar(maker=MAKER), FailingDisk(0)
    server = await serve(registrar)
    device = pledge(server.url.removeprefix("https://"), Folder(tmp_path, disk))
    assert (await device.onboard()).is_operational
    seen, disk.is_full = len(registrar.seen), True
    with pytest.raises(Misconfigured, match="No space left"):
        await device.renew()
    assert len(registrar.seen) == seen
    disk.is_full = False
    assert (await device.renew()).is_operational
    await server.close(0.1)


async def test_a_disk_that_fails_costs_one_voucher_until_it_works_again(tmp_path: Path) -> None:
    registrar, disk, failed = FakeRegistrar(maker=MAKER), FailingDisk(1), list[tuple[str, str]]()
    server = await serve(registrar)

    def lamp(event: Event) -> None:
        if isinstance(event, AttemptFailed):
            failed.append((event.reason, event.explanation))
            disk.is_full = len(failed) < 3
            device.link_up()  # ends the back-off

    address = server.url.removeprefix("https://")
    settings = PledgeSettings(mdns=False, registrars=(address,))
    folder = Folder(tmp_path / "state", disk)
    device = Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=folder, observer=lamp)
    assert (await device.onboard()).is_operational
    await server.close(0.1)
    full = f"{tmp_path / 'state' / NEW}: No space left on device"
    assert failed == [("disk-failed", full), ("state-unusable", full), ("state-unusable", full)]
    assert len(registrar.asked("requestvoucher")) == 2


async def test_a_confirmation_that_cannot_be_noted_is_made_again_at_the_next_boot(tmp_path: Path) -> None:
    class ReadOnlyDisk(Disk):
        def write_byte(self, path: Path, at: int, value: bytes) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    registrar = FakeRegistrar(maker=MAKER)
    server = await serve(registrar)
    address = server.url.removeprefix("https://")
    outcome = await pledge(address, Folder(tmp_path, ReadOnlyDisk())).onboard()
    assert outcome.is_operational
    assert outcome.enrollment is not None
    assert not outcome.enrollment.confirmed
    again = await pledge(address, Folder(tmp_path)).onboard()
    await server.close(0.1)
    assert again.enrollment is not None
    assert again.enrollment.confirmed
    assert len(registrar.reports("enrollstatus")) == 2
