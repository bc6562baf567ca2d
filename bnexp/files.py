"""The calls by which files in a results folder change, and what is made of them: appended, replaced, removed, durable.

Nothing counts as written before ``fsync`` came back, and a rename or a new name not before its folder was synced too
(Pillai et al. 2014, "All file systems are not created equal"). A failed ``fsync`` is never tried again: the kernel may
have dropped what it could not write (Rebello et al. 2020). Errors of the operating system become StorageErrors.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bnexp.errors import StorageError

TEMPORARY = ".tmp"  # ends the name of a file that is not whole yet


class System:
    """What the operating system is asked for; the tests put others in its place, which fail or remember."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        """Open a file, never through a link, and unbuffered: a write is a call."""
        return open(path, mode, buffering=0, opener=_without_links)  # type: ignore[return-value]

    def write(self, stream: BinaryIO, data: bytes) -> int:
        """Write what the system takes at once; how much that was."""
        return stream.write(data)

    def truncate(self, stream: BinaryIO, length: int) -> None:
        """Cut a file."""
        stream.truncate(length)

    def fsync(self, descriptor: int) -> None:
        """Wait until a file or folder is on the disk."""
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """Put a file in the place of another, at once."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        os.mkdir(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


system = System()


def append(path: Path, data: bytes, at: int) -> None:
    """Write data from place ``at`` on; what stood there goes. Durable but for the file's name."""
    with storage(path), system.open(path, "r+b" if at or path.exists() else "xb") as stream:
        if stream.seek(0, os.SEEK_END) > at:
            system.truncate(stream, at)
        stream.seek(at)
        _write(stream, data)
        system.fsync(stream.fileno())


def cut(path: Path, length: int) -> None:
    """Drop what a file holds beyond a length."""
    with storage(path), system.open(path, "r+b") as stream:
        system.truncate(stream, length)
        system.fsync(stream.fileno())


def replace(path: Path, parts: Iterable[bytes], last: bool = True) -> None:
    """Write a file as a whole: to another name, durably, and then into its place.

    ``last``: else more is written to the folder, whose names are made durable after that.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with storage(path):
        with system.open(temporary, "wb") as stream:
            for chunk in _chunks(parts):
                _write(stream, chunk)
            system.fsync(stream.fileno())
        system.rename(temporary, path)
        if last:
            sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing if it is not there. A link goes, not what it names."""
    with storage(path):
        if path.is_dir() and not path.is_symlink():
            if path.suffix != TEMPORARY:  # first it is nothing any more, then its files go
                temporary = path.with_name(path.name + TEMPORARY)
                remove(temporary)
                system.rename(path, temporary)
                sync_folder(path.parent)
                path = temporary
            for inside in sorted(path.iterdir()):
                remove(inside) if inside.is_dir() and not inside.is_symlink() else system.unlink(inside)
            system.rmdir(path)
        elif path.exists() or path.is_symlink():
            system.unlink(path)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, durably."""
    with storage(path):
        if not path.is_dir():
            make_folder(path.parent)
            system.mkdir(path)
            sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where the system can (Windows does so itself)."""
    if os.name == "nt":
        return
    with storage(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            system.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(stream: BinaryIO, data: bytes) -> None:
    """All of it: a call may take a part."""
    left = memoryview(data)
    while left:
        left = left[system.write(stream, left) :]  # type: ignore[arg-type]


def _chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about a mebibyte, since every piece is a call."""
    waiting, length = [], 0
    for part in parts:
        waiting.append(part)
        length += len(part)
        if length >= 2**20:
            yield b"".join(waiting)
            waiting, length = [], 0
    yield b"".join(waiting)


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
