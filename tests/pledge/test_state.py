"""The state folder: complete or as before, whenever the power goes (RFC 8995, 1.3.4)."""

import errno
import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brski_common import keys
from brski_common.certificates import Credential, load_pem, to_pem
from brski_common.errors import Misconfigured
from brski_pledge.disk import MAX_FILE_BYTES, Disk, UnsafeFileError, refuse_unsafe, refuse_unsafe_folder
from brski_pledge.state import ANCHORS, IDENTITY, LDEVID, NEW, OLD, VOUCHER, Enrollment, Folder
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
    assert kept.folder == tmp_path / "state"


@pytest.mark.req("EI-16")
def test_renewal_is_due_long_before_the_end() -> None:
    certificate = FIRST.credential.certificate
    left = certificate.not_valid_after_utc - FIRST.renew_at
    assert left * 3 == certificate.not_valid_after_utc - certificate.not_valid_before_utc


def test_only_the_owner_may_read_what_is_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "deep" / "state")
    folder.save(FIRST)
    folder.confirm()
    folder.export(FIRST)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {path.name for path in folder.path.iterdir()} == {IDENTITY, LDEVID, ANCHORS, VOUCHER}
    for path in folder.path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_one_file_holds_all_that_counts(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.confirm()
    assert list(folder_of(folder.path)) == [IDENTITY]


def test_other_programs_take_the_identity_as_key_and_chain(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    identity = folder.path / IDENTITY
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(identity)
    credential = keys.load_credential(str(identity), identity)
    assert credential.chain == FIRST.credential.chain, "no anchor passes for a part of the chain"


def test_an_export_holds_the_rest_and_no_secret(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.export(FIRST)
    assert load_pem((folder.path / LDEVID).read_bytes()) == FIRST.credential.chain
    assert load_pem((folder.path / ANCHORS).read_bytes()) == FIRST.anchors
    assert (folder.path / VOUCHER).read_bytes() == FIRST.voucher
    assert [name for name, content in folder_of(folder.path).items() if b"PRIVATE" in content] == [IDENTITY]


def test_what_somebody_did_to_an_export_changes_nothing_and_is_mended(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.export(FIRST)
    whole = folder_of(folder.path)
    (folder.path / LDEVID).write_bytes(to_pem(*SECOND.credential.chain))
    (folder.path / ANCHORS).unlink()
    kept = folder.load()
    assert kept is not None
    assert same(kept, FIRST)
    folder.export(kept)
    assert folder_of(folder.path) == whole


def test_who_has_exports_gets_those_of_the_renewed_identity(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.export(FIRST)
    folder.save(SECOND)
    assert load_pem((folder.path / LDEVID).read_bytes()) == SECOND.credential.chain


def test_a_disk_that_takes_no_export_keeps_the_identity_all_the_same(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.path.mkdir(mode=0o700)
    (folder.path / LDEVID).mkdir()
    folder.save(FIRST)
    assert same(folder.load(), FIRST)
    with pytest.raises(OSError, match="directory"):
        folder.export(FIRST)


@pytest.mark.parametrize("name", [LDEVID, ANCHORS, VOUCHER])
def test_a_device_that_starts_touches_no_file_of_another_program(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("another program's")
    folder = Folder(tmp_path)
    assert folder.strangers() == (tmp_path / name,)
    folder.tidy()
    assert (tmp_path / name).exists()


def test_exports_of_a_reset_that_was_cut_short_are_erased_at_the_next_boot(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(FIRST)
    folder.export(FIRST)
    assert folder.strangers() == ()
    (tmp_path / IDENTITY).rename(tmp_path / OLD)
    assert folder.strangers() == ()
    folder.tidy()
    assert folder_of(tmp_path) == {}


class SmallDisk(Disk):
    """A real disk on which no file may be larger than `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        super().write(path, data[: self.room], durable=durable)
        if len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_an_export_that_fails_leaves_nothing_unfinished(tmp_path: Path) -> None:
    disk = SmallDisk(10_000)
    folder = Folder(tmp_path, disk)
    folder.save(FIRST)
    disk.room = 10
    with pytest.raises(OSError, match="No space left"):
        folder.export(FIRST)
    assert list(folder_of(tmp_path)) == [IDENTITY]


def test_a_state_that_does_not_fit_leaves_no_half_of_a_secret(tmp_path: Path) -> None:
    folder = Folder(tmp_path, SmallDisk(1000))
    with pytest.raises(OSError, match="No space left"):
        folder.save(FIRST)
    assert folder_of(tmp_path) == {}
    folder = Folder(tmp_path)
    folder.save(FIRST)
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path, SmallDisk(1000)).save(SECOND)
    assert same(folder.load(), FIRST)
    assert list(folder_of(tmp_path)) == [IDENTITY]


def test_trying_a_folder_out_makes_it_and_leaves_nothing_in_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "state"
    Folder(path).try_out()
    Folder(path).try_out()
    assert list(path.iterdir()) == []
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_takes_no_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("/nowhere/x")
    (tmp_path / "file").write_text("")
    for path, named in (
        ("dangling/state", "dangling/state: No such file"),
        ("dangling", f"dangling/{NEW}: No such file"),
        ("file", "file: Not a directory"),
        ("file/state", "file/state: Not a directory"),
        ("/proc/ro", "/proc/ro: No such file"),
        ("/proc/ro/state", "/proc/ro: No such file"),
    ):
        with pytest.raises(Misconfigured) as caught:
            Folder(tmp_path / path).try_out()
        assert caught.value.reason == "state-unusable"
        assert named in caught.value.detail
    with pytest.raises(Misconfigured, match=f"{NEW}: No space left"):
        Folder(tmp_path / "state", SmallDisk(1000)).try_out()
    assert folder_of(tmp_path / "state") == {}


def test_what_the_disk_does_not_give_is_neither_damaged_nor_the_factory_state(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured) as caught:
        Folder(tmp_path / "file").load()
    assert caught.value.reason == "state-unusable"
    assert caught.value.detail.count(str(tmp_path)) == 1
    (tmp_path / IDENTITY).mkdir()
    with pytest.raises(Misconfigured) as caught:
        Folder(tmp_path).load()
    assert (caught.value.reason, caught.value.detail) == (
        "state-unreadable",
        f"{tmp_path / IDENTITY}: Is a directory",
    )


UNSAFE_MODES = {0o620: "may write to it", 0o602: "may write to it", 0o666: "may write to it", 0o604: "may read the key"}


@pytest.mark.req("ST-02")
@pytest.mark.parametrize("mode", UNSAFE_MODES)
def test_an_identity_that_others_could_have_written_or_everybody_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    folder = Folder(tmp_path)
    folder.save(FIRST)
    (tmp_path / IDENTITY).chmod(mode)
    with pytest.raises(Misconfigured) as caught:
        folder.load()
    assert caught.value.reason == "state-unsafe"
    assert str(tmp_path / IDENTITY) in caught.value.detail
    assert f"{UNSAFE_MODES[mode]}" in caught.value.detail
    assert f"(mode {mode:04o}); use chmod 600" in caught.value.detail
    (tmp_path / IDENTITY).chmod(0o600)
    assert same(folder.load(), FIRST), "that mends it"
    folder.reset()


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_an_identity_that_its_group_may_read_is_taken(tmp_path: Path, mode: int) -> None:
    folder = Folder(tmp_path)
    folder.save(FIRST)
    (tmp_path / IDENTITY).chmod(mode)
    assert same(folder.load(), FIRST)


PLEDGE_USER, OTHER_USER = 990, 1000


def test_an_identity_is_taken_from_its_user_or_root_and_from_nobody_else(tmp_path: Path) -> None:
    def owned_by(user: int) -> os.stat_result:
        return os.stat_result((stat.S_IFREG | 0o640, 1, 1, 1, user, user, 1, 0, 0, 0))

    for owner, user in ((PLEDGE_USER, PLEDGE_USER), (0, PLEDGE_USER), (0, 0)):
        refuse_unsafe(owned_by(owner), user)
    for owner, user in ((OTHER_USER, PLEDGE_USER), (OTHER_USER, 0)):
        with pytest.raises(UnsafeFileError, match=f"belongs to user {owner}, and this runs as user {user}"):
            refuse_unsafe(owned_by(owner), user)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_identity_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(FIRST)
    os.chown(tmp_path / IDENTITY, OTHER_USER, OTHER_USER)
    with pytest.raises(Misconfigured, match=f"state-unsafe: .*{IDENTITY}: it belongs to user {OTHER_USER}"):
        folder.load()
    folder.reset()


# Where others may write


UNSAFE_FOLDERS = [0o777, 0o770, 0o720, 0o702, 0o2775]


@pytest.mark.req("ST-02")
@pytest.mark.parametrize("mode", UNSAFE_FOLDERS)
def test_a_folder_into_which_others_may_write_is_no_place_for_a_state(tmp_path: Path, mode: int) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    (folder.path / IDENTITY).rename(tmp_path / "kept")
    folder.path.chmod(mode)
    words = re.escape(f"state-unsafe: {folder.path}: others than its owner may write into the folder (mode {mode:04o})")
    for work in (folder.load, folder.try_out, lambda: folder.save(SECOND)):
        with pytest.raises(Misconfigured, match=f"{words}; use chmod 700"):
            work()
    assert folder_of(folder.path) == {}, "an absent identity says nothing there, and nothing is written"
    (tmp_path / "kept").rename(folder.path / IDENTITY)
    with pytest.raises(Misconfigured, match=words):
        folder.load()
    folder.path.chmod(0o700)
    assert same(folder.load(), FIRST), "that mends it"
    folder.path.chmod(mode)
    folder.reset()
    assert folder_of(folder.path) == {}, "a reset is possible all the same"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o500, 0o1777, 0o1770, 0o3775])
def test_a_folder_in_which_nobody_may_touch_anothers_files_is_taken(tmp_path: Path, mode: int) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.path.chmod(mode)
    assert same(folder.load(), FIRST)
    if mode & 0o200:
        folder.try_out()
        folder.save(SECOND)
        assert same(folder.load(), SECOND)
    folder.path.chmod(0o700)


def test_a_folder_behind_a_link_is_judged_itself(tmp_path: Path) -> None:
    real = Folder(tmp_path / "real")
    real.save(FIRST)
    (tmp_path / "state").symlink_to(real.path)
    assert same(Folder(tmp_path / "state").load(), FIRST)
    real.path.chmod(0o777)
    with pytest.raises(Misconfigured, match="state-unsafe"):
        Folder(tmp_path / "state").load()


def test_a_folder_is_taken_from_its_user_or_root_and_from_nobody_else() -> None:
    def folder_with(user: int, mode: int) -> os.stat_result:
        return os.stat_result((stat.S_IFDIR | mode, 1, 1, 1, user, user, 1, 0, 0, 0))

    for owner, user in ((PLEDGE_USER, PLEDGE_USER), (0, PLEDGE_USER), (0, 0)):
        refuse_unsafe_folder(folder_with(owner, 0o755), user, ROOT)
    for owner, user in ((OTHER_USER, PLEDGE_USER), (OTHER_USER, 0)):
        with pytest.raises(UnsafeFileError, match=f"belongs to user {owner}, and this runs as user {user}"):
            refuse_unsafe_folder(folder_with(owner, 0o1777), user, ROOT)
    with pytest.raises(UnsafeFileError, match=f"use chown {PLEDGE_USER} and chmod 700"):
        refuse_unsafe_folder(folder_with(0, 0o770), PLEDGE_USER, ROOT)


def test_a_secret_is_written_into_a_file_of_its_own_whatever_has_its_name(tmp_path: Path) -> None:
    mine, elsewhere = tmp_path / NEW, tmp_path / "elsewhere"

    def link() -> None:
        elsewhere.write_bytes(b"another's")
        mine.symlink_to(elsewhere)

    def second_name() -> None:
        elsewhere.write_bytes(b"another's")
        mine.hardlink_to(elsewhere)

    def open_to_all() -> None:
        mine.write_bytes(b"another's")
        mine.chmod(0o666)

    def dangling() -> None:
        mine.symlink_to("/nowhere/x")

    def nothing() -> None: ...

    for make in (link, second_name, open_to_all, dangling, nothing):
        make()
        Disk().write(mine, b"secret", durable=True)
        status = mine.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert (stat.S_IMODE(status.st_mode), status.st_nlink, mine.read_bytes()) == (0o600, 1, b"secret")
        assert not elsewhere.exists() or elsewhere.read_bytes() == b"another's"
        mine.unlink()
        elsewhere.unlink(missing_ok=True)


def test_who_had_a_file_or_pipe_open_under_the_name_of_a_secret_reads_nothing(tmp_path: Path) -> None:
    mine = tmp_path / NEW

    def pipe() -> None:
        os.mkfifo(mine, 0o666)

    for make in (pipe, mine.touch):
        make()
        reader = os.open(mine, os.O_RDONLY | os.O_NONBLOCK)
        try:
            Disk().write(mine, b"secret", durable=True)
            assert os.read(reader, 100) == b""
        finally:
            os.close(reader)
        assert mine.read_bytes() == b"secret"
        mine.unlink()


def test_what_keeps_coming_back_under_the_name_of_a_secret_is_an_error(tmp_path: Path) -> None:
    class Haunted(Disk):
        def remove(self, path: Path) -> None:
            super().remove(path)
            path.symlink_to(tmp_path / "elsewhere")

    (tmp_path / NEW).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError, match=NEW):
        Haunted().write(tmp_path / NEW, b"secret", durable=True)
    assert not (tmp_path / "elsewhere").exists()


def test_where_a_link_leads_is_neither_overwritten_nor_changed(tmp_path: Path) -> None:
    elsewhere, disk = tmp_path / "elsewhere", Disk()
    Folder(elsewhere).save(FIRST)
    whole = folder_of(elsewhere)
    folder = Folder(tmp_path / "state")
    folder.path.mkdir(mode=0o700)
    (folder.path / IDENTITY).symlink_to(elsewhere / IDENTITY)
    with pytest.raises(OSError, match="symbolic links"):
        folder.confirm()
    disk.blank(folder.path / IDENTITY)
    folder.save(SECOND)
    assert folder_of(elsewhere) == whole
    assert same(folder.load(), SECOND)
    assert not (folder.path / IDENTITY).is_symlink()


@pytest.mark.parametrize("name", [IDENTITY, NEW, OLD, LDEVID])
def test_a_file_larger_than_any_state_is_not_read_in_part(tmp_path: Path, name: str) -> None:
    disk, folder = Disk(), Folder(tmp_path)
    folder.save(FIRST)
    folder.export(FIRST)
    with (tmp_path / name).open("ab") as file:
        file.truncate(MAX_FILE_BYTES)
    (tmp_path / name).chmod(0o600)
    assert len(disk.read(tmp_path / name)) == len(disk.read_secret(tmp_path / name)) == MAX_FILE_BYTES
    os.truncate(tmp_path / name, 1 << 32)
    for read in (disk.read, disk.read_secret):
        with pytest.raises(OSError, match="File too large") as caught:
            read(tmp_path / name)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / name))
    if name == IDENTITY:
        with pytest.raises(Misconfigured, match=f"state-damaged: .*{IDENTITY}: File too large"):
            folder.load()
        assert folder.strangers() == (tmp_path / IDENTITY,)
    else:
        folder.tidy()
        folder.export(FIRST)
        assert same(folder.load(), FIRST)
        assert (tmp_path / LDEVID).read_bytes() == to_pem(*FIRST.credential.chain)
    folder.reset()
    assert folder_of(tmp_path) == {}


def test_what_is_no_file_is_refused_at_once_and_can_be_reset(tmp_path: Path) -> None:
    def pipe(path: Path) -> None:
        os.mkfifo(path, 0o600)

    def link(path: Path) -> None:
        Folder(tmp_path / "elsewhere").save(FIRST)
        path.symlink_to(tmp_path / "elsewhere" / IDENTITY)

    def device(path: Path) -> None:
        path.symlink_to("/dev/zero")

    for make, words in ((pipe, "it is a pipe, device or socket"), (link, "it is a link"), (device, "it is a link")):
        folder = Folder(tmp_path / make.__name__)
        folder.path.mkdir(mode=0o700)
        make(folder.path / IDENTITY)
        with pytest.raises(Misconfigured, match=f"state-unsafe: .*{IDENTITY}: {words}"):
            folder.load()
        folder.reset()
        assert list(folder.path.iterdir()) == []
    assert same(Folder(tmp_path / "elsewhere").load(), FIRST), "where a link leads is no business of a reset"


@pytest.mark.parametrize("name", [IDENTITY, NEW, OLD, LDEVID])
def test_a_pipe_of_any_name_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name, 0o600)
    folder = Folder(tmp_path)
    for work in (folder.load, folder.strangers, folder.try_out, lambda: folder.save(FIRST), folder.tidy, folder.reset):
        with suppress(OSError, Misconfigured):
            work()


def test_a_renewal_replaces_the_identity_and_overwrites_the_old_key(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    with (folder.path / IDENTITY).open("rb") as old:
        folder.save(SECOND)
        assert not any(old.read()), "nothing but zeros"
    assert same(folder.load(), SECOND)


@pytest.mark.req("AR-06")
def test_a_reset_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    folder.export(FIRST)
    with (folder.path / IDENTITY).open("rb") as old:
        folder.reset()
        assert not any(old.read()), "nothing but zeros"
    assert folder.load() is None
    assert folder_of(tmp_path) == {}
    folder.reset()


def test_that_the_registrar_heard_of_it_is_kept_too(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.confirm()
    assert folder_of(tmp_path) == {}, "there is nothing to confirm"
    saved = folder.save(FIRST)
    assert not saved.confirmed
    folder.confirm()
    kept = folder.load()
    assert kept is not None
    assert kept.confirmed
    folder.save(kept)
    again = folder.load()
    assert again is not None
    assert again.confirmed
    folder.save(SECOND)
    anew = folder.load()
    assert anew is not None
    assert not anew.confirmed, "nobody heard of this one yet"


@pytest.mark.req("ST-02")
@pytest.mark.parametrize("damage", [b"", b"junk", b"\0" * 4096])
def test_a_damaged_state_is_no_factory_state(tmp_path: Path, damage: bytes) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    (folder.path / IDENTITY).write_bytes(damage)
    with pytest.raises(Misconfigured) as caught:
        folder.load()
    assert caught.value.reason == "state-damaged"
    folder.reset()
    assert folder.load() is None


@pytest.mark.req("ST-02")
@given(data=st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    disk = prepared(FIRST)
    node = disk.now[ROOT / IDENTITY]
    assert node is not None
    whole, other = node.volatile, data.draw(st.integers(1, 255))
    at = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(whole) - 1)))
    content = bytearray(whole)
    content[at] ^= other
    node.volatile = data.draw(st.sampled_from([bytes(content), bytes(content[:at])]))
    if node.volatile == whole.replace(b"reported 0", b"reported 1", 1):
        return  # the one change that is meant
    with pytest.raises(Misconfigured) as caught:
        Folder(ROOT, disk).load()
    assert caught.value.reason == "state-damaged"
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.req("ST-02")
@pytest.mark.parametrize(
    "label", [b"PRIVATE KEY", b"CERTIFICATE", b"BRSKI ANCHOR", b"BRSKI PINNED", b"BRSKI ENROLLMENT"]
)
@pytest.mark.parametrize("content", [b"", b"AAAA"])
def test_a_state_with_a_good_digest_is_still_read_with_care(tmp_path: Path, label: bytes, content: bytes) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    path = folder.path / IDENTITY
    block = rb"(-----BEGIN %s-----\n)[^-]*" % label
    written = re.sub(block, rb"\1%s\n" % content, path.read_bytes().partition(b"\n")[2])
    path.write_bytes(
        b"brski-pledge state 1, sha256 %s, reported 0\n%s" % (sha256(written).hexdigest().encode(), written)
    )
    with pytest.raises(Misconfigured) as caught:
        folder.load()
    assert caught.value.reason == "state-damaged"


def test_a_key_of_another_certificate_is_never_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    with pytest.raises(Misconfigured):
        folder.save(replace(SECOND, credential=Credential(key_for("another"), SECOND.credential.chain)))
    assert same(folder.load(), FIRST)


def test_a_state_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    path = folder.path / IDENTITY
    path.write_bytes(path.read_bytes().replace(b"state 1,", b"state 2,", 1))
    with pytest.raises(Misconfigured, match="version 2 is not known"):
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

    def check_folder(self, path: Path) -> None:
        """Nobody else is here."""

    def names(self, folder: Path) -> Sequence[str]:
        return sorted(path.name for path in self.now if path.parent == folder)

    def read(self, path: Path) -> bytes:
        node = self.now.get(path)
        if node is None:
            raise FileNotFoundError(path)
        return node.volatile

    def read_secret(self, path: Path) -> bytes:
        return self.read(path)

    def make_folder(self, path: Path) -> None:
        for each in [each for each in [*reversed(path.parents), path] if each not in self.now]:
            self._step()
            self.now[each] = None
            if each != path:
                self.sync(each.parent)

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        if path in self.now:
            self.remove(path)
        node = self.now[path] = _Node()
        self._step()
        node.volatile = data[: len(data) // 2]
        self._step()
        node.volatile = data
        if durable:
            self._step()
            node.durable = data

    def write_byte(self, path: Path, at: int, value: bytes) -> None:
        node = self.now.get(path)
        if node is None:
            raise FileNotFoundError(path)
        self._step()
        node.volatile = node.volatile[:at] + value + node.volatile[at + 1 :]

    def sync(self, folder: Path) -> None:
        self._step()
        for each in [each for each in self.kept if each.parent == folder and each not in self.now]:
            del self.kept[each]
        self.kept |= {each: node for each, node in self.now.items() if each.parent == folder}

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        self.now[target] = self.now.pop(source)

    def replace(self, source: Path, target: Path) -> None:
        old = self.now.get(target)
        self.rename(source, target)
        self.sync(target.parent)
        if old is not None:
            self._blank(old)

    def blank(self, path: Path) -> None:
        node = self.now[path]
        assert node is not None
        self._blank(node)

    def remove(self, path: Path) -> None:
        self._step()
        self.now.pop(path, None)

    def _blank(self, node: _Node) -> None:
        self._step()
        node.volatile = bytes(len(node.volatile))
        self._step()
        node.durable = node.volatile

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


def secrets_on(disk: ForgetfulDisk) -> list[str]:
    """The names of what holds a private key."""
    return sorted(path.name for path, node in disk.now.items() if node is not None and b"PRIVATE" in node.volatile)


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
        assert same(folder.load(), kept), "tidying touches nothing that counts"
        assert secrets_on(disk) == ([] if kept is None else [IDENTITY])
        folder.save(FIRST)
        assert same(folder.load(), FIRST), "a device that lost power can be enrolled again"
        assert same(Folder(ROOT, disk.after_power_loss()).load(), FIRST)
    assert same(found[0], before)
    assert same(found[-1], SECOND)
    assert len(found) >= 8


@pytest.mark.req("ST-04", "AR-06")
@pytest.mark.parametrize("keeps", [lambda: False, lambda: True], ids=["nothing unsynced", "everything unsynced"])
def test_a_reset_is_all_or_nothing_too_and_is_finished_at_the_next_chance(keeps: Callable[[], bool]) -> None:
    for disk in crashes(lambda folder: folder.reset(), FIRST, keeps=keeps):
        folder = Folder(ROOT, disk)
        kept = folder.load()
        assert same(kept, None) or same(kept, FIRST)
        folder.tidy()
        assert secrets_on(disk) == ([] if kept is None else [IDENTITY])
        folder.reset()
        assert [path.name for path in disk.now if path.parent == ROOT] == []


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
    found = disk.after_power_loss()
    kept = Folder(ROOT, found).load()
    wanted = {"save": SECOND, "reset": None, "confirm": FIRST}[work]
    assert same(kept, wanted) or (not whole and same(kept, FIRST))
    Folder(ROOT, found).tidy()
    assert same(Folder(ROOT, found).load(), kept)
    assert secrets_on(found) == ([] if kept is None else [IDENTITY])


@pytest.mark.parametrize("name", [NEW, OLD])
def test_a_second_name_of_the_file_in_use_is_not_overwritten(tmp_path: Path, name: str) -> None:
    folder = Folder(tmp_path / "state")
    folder.save(FIRST)
    for work in (folder.tidy, folder.try_out):
        (folder.path / name).hardlink_to(folder.path / IDENTITY)
        work()
        assert same(folder.load(), FIRST)
    (folder.path / name).hardlink_to(folder.path / IDENTITY)
    folder.reset()
    assert folder_of(tmp_path) == {}
