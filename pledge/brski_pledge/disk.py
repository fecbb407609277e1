"""The file system under a state folder: the few operations of it that `state` is made of.

The laws of this file:

1. Files and folders are made for their owner alone.
2. What is not said to be durable is so after `sync`.
3. An error is an OSError that names the path.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SECRET, PRIVATE_FOLDER = 0o600, 0o700
MAX_FILE_BYTES = 2 * 1024 * 1024


class Disk:
    """The few things a state folder does to a file system."""

    def names(self, folder: Path) -> Sequence[str]:
        """What a folder holds; empty if there is no such folder."""
        try:
            return os.listdir(folder)  # noqa: PTH208 -- the names are wanted, not paths made of them
        except FileNotFoundError:
            return ()

    def read(self, path: Path) -> bytes:
        """A whole file; raises OSError."""
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)

    def make_folder(self, path: Path) -> None:
        """Make a folder that only its owner may enter, unless it is there; parents that are made too are durable."""
        # Each is made once: in what is there, as a link to nowhere is, there may still be no room for a folder.
        for each in reversed([each for each in (path, *path.parents) if not os.path.lexists(each)]):
            each.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            if each != path:
                self.sync(each.parent)

    def write(self, path: Path, data: bytes, *, durable: bool) -> None:
        """Write a file that only its owner may read; if `durable`, its content (not its name) is so on return."""
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            _write_all(descriptor, data)
            if durable:
                os.fsync(descriptor)

    def write_byte(self, path: Path, at: int, value: bytes) -> None:
        """Change one byte of a file; raises OSError if there is none."""
        with _opened(path, os.O_WRONLY) as descriptor:
            os.pwrite(descriptor, value, at)

    def sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        with _opened(folder, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename over whatever `target` is."""
        source.replace(target)

    def replace(self, source: Path, target: Path) -> None:
        """Rename over `target`, durably; only then what `target` was is overwritten with zeros."""
        try:
            old = os.open(target, os.O_WRONLY)
        except FileNotFoundError:
            source.replace(target)
            self.sync(target.parent)
            return
        try:
            source.replace(target)
            self.sync(target.parent)
            _blank(old)
        finally:
            os.close(old)

    def blank(self, path: Path) -> None:
        """Overwrite a file with zeros, durably."""
        with _opened(path, os.O_WRONLY) as descriptor:
            _blank(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file; nothing happens if it is gone."""
        with suppress(FileNotFoundError):
            path.unlink()


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A file's descriptor; an OSError that comes of it names the path, which `write` and `fsync` do not know."""
    descriptor = os.open(path, flags, SECRET)
    try:
        yield descriptor
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        os.close(descriptor)


def _blank(descriptor: int) -> None:
    _write_all(descriptor, bytes(os.fstat(descriptor).st_size))
    os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
