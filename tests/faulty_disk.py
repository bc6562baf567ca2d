"""Disks that fail: a System whose n-th call is refused or kills, and one that remembers what a power cut would keep."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

from bnexp.files import System


class Killed(BaseException):
    """The process is gone: nothing that it would have done happens."""


class FailsAt(System):
    """The n-th call that changes something fails with an errno, or kills; after a kill every further call does."""

    def __init__(self, n, how):
        self.left, self.how, self.dead, self.fired = n, how, False, False

    def _count(self, path=None):
        self.left -= 1
        if self.dead:
            raise Killed
        if self.left == 0:
            self.fired = True
            if self.how == "kill":
                self.dead = True
                raise Killed
            raise OSError(self.how, os.strerror(self.how), None if path is None else str(path))

    def open(self, path, mode):
        self._count(path)
        return super().open(path, mode)

    def write(self, stream, data):
        half = data[: max(1, len(data) // 2)]
        if self.left == 1:  # a part is written first
            super().write(stream, half)
        self._count(stream.name)
        return super().write(stream, data)

    def truncate(self, stream, length):
        self._count(stream.name)
        super().truncate(stream, length)

    def fsync(self, descriptor):
        self._count()
        super().fsync(descriptor)

    def rename(self, old, new):
        self._count(new)
        super().rename(old, new)

    def unlink(self, path):
        self._count(path)
        super().unlink(path)

    def mkdir(self, path):
        self._count(path)
        super().mkdir(path)

    def rmdir(self, path):
        self._count(path)
        super().rmdir(path)


HOWS = {"full": errno.ENOSPC, "broken": errno.EIO, "kill": "kill"}


class Node:
    """A file: what it holds, and what of it is on the disk for certain."""

    def __init__(self):
        self.now, self.sure = b"", b""


class Remembers(System):
    """It does everything, and keeps for each moment what a power cut could leave.

    A folder's names are sure once the folder was synced, a file's content once the file was. ``states``: different
    folders as {relative path: content}; for each moment with each name in doubt old or new, and with the contents that
    are in doubt (of one file at most, as it turns out) old, new or torn.
    """

    def __init__(self, root, lazy=False):
        self.root, self.lazy = Path(root), lazy  # lazy: a mutant that does not sync files
        self.now: dict[Path, Node] = {}
        self.sure: dict[Path, Node] = {}
        self.states: dict[tuple, dict[str, bytes]] = {}

    def _moment(self):
        unsure = [path for path in {**self.now, **self.sure} if self.now.get(path) is not self.sure.get(path)]
        for kept in _subsets(unsure):
            names = {path: node for path, node in self.now.items() if path not in unsure or path in kept}
            names |= {path: self.sure[path] for path in unsure if path not in kept and path in self.sure}
            for kind in ("now", "sure", "torn"):
                state = {}
                for path, node in names.items():
                    content = getattr(node, "sure" if kind == "sure" else "now")
                    if kind == "torn" and node.now != node.sure:
                        content = node.now[: (len(node.sure) + len(node.now)) // 2]
                    state[str(path.relative_to(self.root))] = content
                self.states.setdefault(tuple(sorted(state.items())), state)

    def _node(self, path):
        return self.now.setdefault(Path(path), Node())

    def open(self, path, mode):
        stream = super().open(path, mode)
        node = self._node(path)
        if mode == "wb":
            self.now[Path(path)] = Node()
            self.now[Path(path)].sure = node.sure if Path(path) in self.sure else b""
        self._moment()
        return stream

    def write(self, stream, data):
        count = super().write(stream, data)
        self._changed(stream.name)
        return count

    def truncate(self, stream, length):
        super().truncate(stream, length)
        self._changed(stream.name)

    def _changed(self, path):
        self._node(path).now = Path(path).read_bytes()
        self._moment()

    def fsync(self, descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path.is_dir():
            self.sure = {p: node for p, node in self.sure.items() if p.parent != path}
            self.sure |= {p: node for p, node in self.now.items() if p.parent == path}
        elif not self.lazy:
            self._node(path).sure = self._node(path).now
        self._moment()

    def rename(self, old, new):
        super().rename(old, new)
        self.now[Path(new)] = self.now.pop(Path(old))
        self._moment()

    def unlink(self, path):
        super().unlink(path)
        self.now.pop(Path(path), None)
        self._moment()


def _subsets(paths):
    """Which of the names in doubt are new: none, all, any one, all but one; in the full size every choice."""
    if os.environ.get("BNEXP_SIZE") == "full":
        return [set(c) for n in range(len(paths) + 1) for c in itertools.combinations(paths, n)]
    singles = [{path} for path in paths]
    return [set(), set(paths), *singles, *(set(paths) - one for one in singles)]


def lay_out(state, folder):
    """Make a folder that holds a state."""
    for name, content in state.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
