"""The state folder: complete or as before, whenever the power goes (RFC 8995, 1.3.4)."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brski_common.certificates import Credential
from brski_common.errors import Misconfigured
from brski_pledge.state import CONFIRMED, CURRENT, ENROLLMENT, KEY, LDEVID, Disk, Enrollment, Folder
from tests.support.registrar_fake import folder_of
from tests.support.world import NOW, Domain, key_for

DOMAIN = Domain()
ROOT = Path("/device/state")


def enrollment(serial: str = "SN-1") -> Enrollment:
    return Enrollment(
        credential=DOMAIN.ldevid(serial),
        anchors=(DOMAIN.root.certificate,),
        voucher=b"0\x03abc",
        pinned=DOMAIN.root.certificate,
        registrar=DOMAIN.registrar.certificate,
        host="fe80::1%eth0",
        port=8443,
        enrolled_on=NOW + timedelta(microseconds=1),
    )


FIRST, SECOND = enrollment("SN-1"), enrollment("SN-2")


def same(kept: Enrollment | None, wanted: Enrollment | None) -> bool:
    if kept is None or wanted is None:
        return kept is wanted
    return kept.credential.chain == wanted.credential.chain and kept.host == wanted.host


# On a real disk


@pytest.mark.req("ST-04")
def test_what_is_saved_is_read_after_a_reboot(tmp_path: Path) -> None:
    Folder(tmp_path / "state").save(FIRST)
    kept = Folder(tmp_path / "state").load()
    assert kept is not None
    assert replace(kept, folder=None, credential=FIRST.credential) == FIRST
    assert kept.credential.chain == FIRST.credential.chain
    assert kept.credential.key.private_numbers() == FIRST.credential.key.private_numbers()  # type: ignore[union-attr] # an elliptic curve key
    assert kept.folder is not None
    assert (kept.folder / LDEVID).is_file()


@pytest.mark.req("EI-16")
def test_renewal_is_due_long_before_the_end() -> None:
    certificate = FIRST.credential.certificate
    left = certificate.not_valid_after_utc - FIRST.renew_at
    assert left * 3 == certificate.not_valid_after_utc - certificate.not_valid_before_utc


def test_only_the_owner_may_read_the_key(tmp_path: Path) -> None:
    kept = Folder(tmp_path / "state").save(FIRST)
    assert kept.folder is not None
    assert stat.S_IMODE((kept.folder / KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.folder.stat().st_mode) == 0o700


def test_a_renewal_replaces_the_generation_and_erases_the_old_key(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    old, new = folder.save(FIRST), folder.save(SECOND)
    assert same(folder.load(), SECOND)
    assert old.folder is not None
    assert not old.folder.exists()
    assert new.folder != old.folder


@pytest.mark.req("AR-06")
def test_a_reset_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.reset()
    assert folder.load() is None
    assert folder_of(tmp_path) == {}
    folder.reset()


def test_that_the_registrar_heard_of_it_is_kept_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.confirm()
    saved = folder.save(FIRST)
    assert not saved.confirmed
    folder.confirm()
    kept = folder.load()
    assert kept is not None
    assert kept.confirmed
    again = folder.save(kept)
    assert again.folder is not None
    assert (again.folder / CONFIRMED).exists()


@pytest.mark.req("ST-02")
@pytest.mark.parametrize("name", [KEY, LDEVID, ENROLLMENT, "anchors.pem", "pinned.pem", "voucher"])
@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_a_damaged_state_is_no_factory_state(tmp_path: Path, name: str, damage: bytes | None) -> None:
    folder = Folder(tmp_path / "state")
    saved = folder.save(FIRST)
    assert saved.folder is not None
    if damage is None:
        (saved.folder / name).unlink()
    else:
        (saved.folder / name).write_bytes(damage)
    if name == "voucher" and damage is not None:
        return  # kept for the record, never read
    with pytest.raises(Misconfigured) as caught:
        folder.load()
    assert caught.value.reason == "state-damaged"
    assert "PRIVATE" not in str(caught.value)
    folder.reset()
    assert folder.load() is None


@pytest.mark.parametrize("content", [b"", b"../../etc", b"generation-", b"generation-9", b"\xff", b"x" * 100])
def test_a_damaged_pointer_is_no_factory_state(tmp_path: Path, content: bytes) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    (tmp_path / "state" / CURRENT).write_bytes(content)
    with pytest.raises(Misconfigured):
        folder.load()
    folder.reset()
    assert folder.load() is None


def test_a_key_of_another_certificate_is_never_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    with pytest.raises(Misconfigured):
        folder.save(replace(SECOND, credential=Credential(key_for("another"), SECOND.credential.chain)))
    assert same(folder.load(), FIRST)


def test_a_state_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    saved = folder.save(FIRST)
    assert saved.folder is not None
    about = saved.folder / ENROLLMENT
    about.write_bytes(about.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(Misconfigured):
        folder.load()


# On a disk whose power goes


class PowerLostError(Exception):
    """The lights went out."""


@dataclass
class _Node:
    """A file or folder: what the disk holds for sure, and what only memory holds."""

    durable: bytes = b""
    volatile: bytes = b""


@dataclass
class ForgetfulDisk(Disk):
    """A file system in memory that keeps only what was synced, plus whatever of the rest `keeps` says.

    A rename, a new name and a removal are durable once their folder was synced; before that each may
    or may not have reached the disk, independently of all others.
    """

    power: int = 10**9  # how many operations until it goes
    keeps: Callable[[], bool] = lambda: False
    done: int = 0
    now: dict[Path, _Node | None] = field(default_factory=dict)  # None: a folder
    kept: dict[Path, _Node | None] = field(default_factory=dict)

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in self.now if path.parent == folder)

    def read(self, path: Path) -> bytes:
        node = self.now.get(path)
        if node is None:
            raise FileNotFoundError(path)
        return node.volatile

    def make_folder(self, path: Path) -> None:
        for each in [*reversed(path.parents), path]:
            if each not in self.now:
                self._step()
                self.now[each] = None

    def write(self, path: Path, data: bytes) -> None:
        node = self.now.get(path) or _Node()
        self.now[path] = node
        self._step()
        node.volatile = data[: len(data) // 2]
        self._step()
        node.volatile = data

    def sync(self, path: Path) -> None:
        self._step()
        node = self.now.get(path)
        if node is not None:
            node.durable = node.volatile
            return
        for each in [each for each in self.kept if each.parent == path and each not in self.now]:
            del self.kept[each]
        self.kept |= {each: node for each, node in self.now.items() if each.parent == path}

    def replace(self, source: Path, target: Path) -> None:
        self._step()
        self.now[target] = self.now.pop(source)

    def remove(self, path: Path) -> None:
        self._step()
        self.now.pop(path, None)

    def after_power_loss(self) -> "ForgetfulDisk":
        """What is found at the next boot."""
        names = dict(self.kept)
        for path in self.now.keys() ^ self.kept.keys():
            if self.keeps():
                if path in self.now:
                    names[path] = self.now[path]
                else:
                    del names[path]
        for path in self.now.keys() & self.kept.keys():
            if self.now[path] is not self.kept[path] and self.keeps():
                names[path] = self.now[path]
        rebooted = ForgetfulDisk()
        for path, node in sorted(names.items()):
            if path.parent != path and path.parent not in rebooted.now and path.parent != Path("/"):
                continue  # its folder never reached the disk
            content = None
            if node is not None:
                data = node.volatile if self.keeps() else node.durable
                content = _Node(data, data)
            rebooted.now[path] = rebooted.kept[path] = content
        return rebooted

    def _step(self) -> None:
        if self.done >= self.power:
            raise PowerLostError
        self.done += 1


def prepared(*saved: Enrollment) -> ForgetfulDisk:
    """A device as it was before: its folders exist for sure."""
    disk = ForgetfulDisk()
    disk.make_folder(ROOT.parent)
    disk.kept = dict(disk.now)
    for each in saved:
        Folder(ROOT, disk).save(each)
    return disk.after_power_loss()


def crashes(work: Callable[[Folder], object], *saved: Enrollment, keeps: Callable[[], bool]) -> Iterator[ForgetfulDisk]:
    """The disk as it is found after a power loss at each step of `work`, and at last after the whole of it."""
    power = 0
    while True:
        disk = prepared(*saved)
        disk.power, disk.keeps = power, keeps
        try:
            work(Folder(ROOT, disk))
        except PowerLostError:
            yield disk.after_power_loss()
            power += 1
        else:
            yield disk.after_power_loss()
            return


@pytest.mark.req("ST-04")
@pytest.mark.parametrize("keeps", [lambda: False, lambda: True], ids=["nothing unsynced", "everything unsynced"])
@pytest.mark.parametrize("before", [None, FIRST], ids=["factory", "enrolled"])
def test_saving_is_all_or_nothing_whenever_the_power_goes(before: Enrollment | None, keeps: Callable[[], bool]) -> None:
    found = []
    for disk in crashes(lambda folder: folder.save(SECOND), *([before] if before else []), keeps=keeps):
        folder = Folder(ROOT, disk)
        kept = folder.load()
        assert same(kept, before) or same(kept, SECOND)
        found.append(kept)
        folder.tidy()
        folder.save(FIRST)
        assert same(folder.load(), FIRST), "a device that lost power can be enrolled again"
    assert same(found[0], before)
    assert same(found[-1], SECOND)
    assert len(found) > 30


@pytest.mark.req("ST-04", "AR-06")
@pytest.mark.parametrize("keeps", [lambda: False, lambda: True], ids=["nothing unsynced", "everything unsynced"])
def test_a_reset_is_all_or_nothing_too_and_is_finished_at_the_next_chance(keeps: Callable[[], bool]) -> None:
    for disk in crashes(lambda folder: folder.reset(), FIRST, keeps=keeps):
        folder = Folder(ROOT, disk)
        kept = folder.load()
        assert same(kept, None) or same(kept, FIRST)
        if kept is None:
            folder.tidy()
            assert [path.name for path in disk.now if path.name == KEY] == []


@given(data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_part_of_the_unsynced_survives(data: st.DataObject) -> None:
    work = data.draw(st.sampled_from(["save", "reset", "confirm"]))
    power = data.draw(st.integers(0, 60))
    disk = prepared(FIRST)
    disk.power, disk.keeps = power, lambda: data.draw(st.booleans())
    folder = Folder(ROOT, disk)
    try:
        {"save": lambda: folder.save(SECOND), "reset": folder.reset, "confirm": folder.confirm}[work]()
    except PowerLostError:
        whole = False
    else:
        whole = True
    kept = Folder(ROOT, disk.after_power_loss()).load()
    wanted = {"save": SECOND, "reset": None, "confirm": FIRST}[work]
    assert same(kept, wanted) or (not whole and same(kept, FIRST))
