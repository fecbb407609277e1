"""The file system under a state folder: the few operations of it that `state` is made of.

The laws of this file:

1. Files and folders are made for their owner alone. What is written goes into a file that is made for it, never into
   one that lies there already: that may be a link, have a reader, or be open to everybody.
2. What is not said to be durable is so after `sync`.
3. An error is an OSError that names the path.
4. Nothing waits for another process: a pipe under the name of a file is an error, as a device is.
5. A secret is taken only from a file that nobody but its owner could have written, and that not everybody can read.
   Its group may read it: a plant's web server, or the pledge itself where root keeps the file.
6. A state folder is one into which nobody but its owner may write, or in which nobody may touch another's files.
7. A file is read whole or not at all.
"""

import errno
import math
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SECRET, PRIVATE_FOLDER = 0o600, 0o700
MAX_FILE_BYTES = 2 * 1024 * 1024
FOREIGN_WRITE, EVERYBODY_READS = stat.S_IWGRP | stat.S_IWOTH, stat.S_IROTH
ROOT_USER = 0
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


class UnsafeFileError(OSError):
    """What is there cannot be trusted to be what was written; `strerror` says why, and what to do."""


class Disk:
    """The few things a state folder does to a file system. Devices of one process may share one."""

    save_seconds = math.inf  # that the last state took: a disk is slow until it has shown otherwise

    def names(self, folder: Path) -> Sequence[str]:
        """What a folder holds; empty if there is no such folder."""
        try:
            return os.listdir(folder)  # noqa: PTH208 -- the names are wanted, not paths made of them
        except FileNotFoundError:
            return ()

    def check_folder(self, path: Path) -> None:
        """Raise UnsafeFileError if others may write into a folder (law 6); nothing happens if there is none."""
        with suppress(FileNotFoundError):
            status = path.stat()  # of where a link leads: the folder may be one
            if stat.S_ISDIR(status.st_mode):
                refuse_unsafe_folder(status, os.geteuid(), path)

    def read(self, path: Path) -> bytes:
        """A whole file; raises OSError, with EFBIG for one that is larger than anything kept here."""
        with _Opened(path, os.O_RDONLY) as descriptor:
            _refuse_no_file(os.fstat(descriptor))
            return _read_all(descriptor)

    def read_secret(self, path: Path) -> bytes:
        """A whole file that holds a secret; raises OSError, which is an UnsafeFileError where law 5 forbids it."""
        try:
            with _Opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
                status = os.fstat(descriptor)
                _refuse_no_file(status)
                refuse_unsafe(status, os.geteuid())
                return _read_all(descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP and path.is_symlink():
                # What is written replaces the link, so the secret would move to where nobody wanted it.
                raise UnsafeFileError(error.errno, "it is a link; link the folder instead", str(path)) from error
            raise

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner may enter, unless it is there; parents that are made too are durable."""
        # What is there is left alone: it may be a link to nowhere, and no room for a folder.
        if os.path.lexists(path):
            return
        above = path.parent
        if not os.path.lexists(above):
            self.make_folder(above)
            self.sync(above.parent)
        path.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        """Make a file that only its owner may read; if `durable`, its content (not its name) is so on return.

        What else has this name loses it, and is not written to.
        """
        try:
            new = _Opened(path, NEW_FILE)
        except FileExistsError:
            self.remove(path)
            new = _Opened(path, NEW_FILE)
        with new as descriptor:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)

    def write_byte(self, path: Path, at: int, value: bytes) -> None:
        """Change one byte of a file; raises OSError if there is none."""
        with _Opened(path, os.O_WRONLY | os.O_NOFOLLOW) as descriptor:
            os.pwrite(descriptor, value, at)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _Opened(folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename over whatever `target` is."""
        os.replace(source, target)  # noqa: PTH105 -- Path.replace makes a path of its result

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`, durably; only then what `target` was is overwritten with zeros, if it was a file."""
        old = _opened_old(target)
        if old is None:
            self.rename(source, target)
            self.sync(target.parent)
            return
        with old as descriptor:
            self.rename(source, target)
            self.sync(target.parent)
            _blank(descriptor)

    def blank(self, path: Path) -> None:
        """Overwrite a file with zeros, durably; nothing happens to what is none, nor to what a link leads to."""
        old = _opened_old(path)
        if old is not None:
            with old as descriptor:
                _blank(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens if it is gone."""
        with suppress(FileNotFoundError):
            path.unlink()


class _Opened:
    """A file's descriptor; an OSError that comes of it names the path, which `write` and `fsync` do not know."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path, flags: int) -> None:
        self._path, self._descriptor = path, os.open(path, flags | os.O_NONBLOCK, SECRET)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            error.filename = error.filename or str(self._path)


def refuse_unsafe(status: os.stat_result, user: int) -> None:
    """Raise UnsafeFileError if a secret that `user` is to take may be another's."""
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {user, ROOT_USER}:
        whose = f"it belongs to user {status.st_uid}, and this runs as user {user}; run it as that one, or use chown"
        raise UnsafeFileError(errno.EPERM, whose)
    if mode & FOREIGN_WRITE:
        raise UnsafeFileError(errno.EPERM, f"others than its owner may write to it (mode {mode:04o}); use chmod 600")
    if mode & EVERYBODY_READS:
        raise UnsafeFileError(errno.EPERM, f"everybody may read the key in it (mode {mode:04o}); use chmod 600")


def refuse_unsafe_folder(status: os.stat_result, user: int, path: Path) -> None:
    """Raise UnsafeFileError if others than `user` and root decide what a folder holds.

    Where a folder is sticky, everybody can put something in, but only an owner can take a file away or put another in
    its place: then the files themselves, which are judged one by one, say enough.
    """
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid not in {user, ROOT_USER}:
        whose = f"the folder belongs to user {status.st_uid}, and this runs as user {user}"
        raise UnsafeFileError(errno.EPERM, f"{whose}; run it as that one, or use chown", str(path))
    if mode & FOREIGN_WRITE and not mode & stat.S_ISVTX:
        mend = "chmod 700" if status.st_uid == user else f"chown {user} and chmod 700"
        open_to = f"others than its owner may write into the folder (mode {mode:04o})"
        raise UnsafeFileError(errno.EPERM, f"{open_to}; use {mend}", str(path))


def _refuse_no_file(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(errno.EINVAL, "it is a pipe, device or socket, not a file; remove it")


def _read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _opened_old(path: Path) -> _Opened | None:
    """A file that is to be overwritten; None if there is none. A link is none, wherever it leads."""
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return None
    return _Opened(path, os.O_WRONLY | os.O_NOFOLLOW) if is_file else None


def _blank(descriptor: int) -> None:
    # What is larger is none of ours, and may be nothing but a hole.
    _write_all(descriptor, bytes(min(os.fstat(descriptor).st_size, MAX_FILE_BYTES)))
    os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
