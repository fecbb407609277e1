"""The file system under a state folder: the few operations of it that `state` is made of.

The laws of this file:

1. Files and folders are made for their owner alone.
2. What is not said to be durable is so after `sync`.
3. An error is an OSError that names the path.
"""

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SECRET, PRIVATE_FOLDER = 0o600, 0o700
MAX_FILE_BYTES = 2 * 1024 * 1024


class Disk:
    """The few things a state folder does to a file system. Devices of one process may share one."""

    save_seconds = math.inf  # that the last state took: a disk is slow until it has shown otherwise

    def names(self, folder: Path) -> Sequence[str]:
        """What a folder holds; empty if there is no such folder."""
        try:
            return os.listdir(folder)  # noqa: PTH208 -- the names are wanted, not paths made of them
        except FileNotFoundError:
            return ()

    def read(self, path: Path) -> bytes:
        """A whole file; raises OSError."""
        with open(path, "rb") as file:  # noqa: PTH123 -- Path.open is the same in more calls
            return file.read(MAX_FILE_BYTES)

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
        """Write a file that only its owner may read; if `durable`, its content (not its name) is so on return."""
        with _Opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)

    def write_byte(self, path: Path, at: int, value: bytes) -> None:
        """Change one byte of a file; raises OSError if there is none."""
        with _Opened(path, os.O_WRONLY) as descriptor:
            os.pwrite(descriptor, value, at)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _Opened(folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename over whatever `target` is."""
        os.replace(source, target)  # noqa: PTH105 -- Path.replace makes a path of its result

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`, durably; only then what `target` was is overwritten with zeros."""
        try:
            old = os.open(target, os.O_WRONLY)
        except FileNotFoundError:
            self.rename(source, target)
            self.sync(target.parent)
            return
        try:
            self.rename(source, target)
            self.sync(target.parent)
            _blank(old)
        finally:
            os.close(old)

    def blank(self, path: Path) -> None:
        """Overwrite a file with zeros, durably."""
        with _Opened(path, os.O_WRONLY) as descriptor:
            _blank(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens if it is gone."""
        with suppress(FileNotFoundError):
            path.unlink()


class _Opened:
    """A file's descriptor; an OSError that comes of it names the path, which `write` and `fsync` do not know."""

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path, flags: int) -> None:
        self._path, self._descriptor = path, os.open(path, flags, SECRET)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            error.filename = error.filename or str(self._path)


def _blank(descriptor: int) -> None:
    _write_all(descriptor, bytes(os.fstat(descriptor).st_size))
    os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
