"""Processes to train in, and one thread for each: how they are started, spoken to and ended. No torch here.

A worker has one intra-op thread (two threads on small arrays can be a hundred times slower), keeps the memory it once
had, ignores Ctrl-C and ends when its parent's pipe closes. On Linux workers are forked from a small server that
imports what they need once, while this process is still reading the spec; elsewhere each is started afresh.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

from bnexp.errors import StorageError
from bnexp.interruption import SIGNALS, blocked

PRELOADED = ["bnexp.preload"]
NAMELESS = sys.platform == "linux"  # an open file can be opened by others through /proc
FORKS = sys.platform == "linux"  # on macOS a fork after its BLAS was loaded may crash
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers for what mallopt(3) sets


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_kernels() -> str:
    """For which processors the BLAS of NumPy has chosen its kernels: other kernels sum in another order."""
    from threadpoolctl import threadpool_info

    return ", ".join(sorted({str(one["architecture"]) for one in threadpool_info() if "architecture" in one}))


def warm_up() -> None:
    """Let the server of workers start; it imports what they need meanwhile. Nothing where there is none."""
    global FORKS
    if FORKS:
        multiprocessing.set_forkserver_preload(PRELOADED)
        try:
            with _single_threaded(), _without_main(), blocked():
                forkserver.ensure_running()
        except OSError:  # no place for its socket: TMPDIR is longer than a socket's path may be, or full
            FORKS = False


def start_worker(live: Callable[[Connection], None]) -> tuple[Connection, BaseProcess]:
    """Start a process that lives as ``live(pipe)``, by its importable name; return our end of the pipe and it."""
    warm_up()
    context: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(live, theirs), daemon=True)
    with _single_threaded(), _without_main(), blocked():
        process.start()
    theirs.close()
    return ours, process


@contextmanager
def _without_main() -> Iterator[None]:
    """While a process starts: it is not to run the program that uses bnexp again, whose main guard may be missing."""
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _live(live: Callable[[Connection], None], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGALRM))
    keep_memory()
    try:
        with one_thread():
            live(pipe)
    except (EOFError, OSError):  # the parent has left
        return


def keep_memory() -> None:
    """Have this process keep freed memory for its next arrays, up to 2 GiB of it. Nothing where there is no glibc.

    Otherwise arrays of some megabytes may go back to the system after each epoch, and every page of the next ones is
    cleared and mapped anew: up to a quarter of a stack's time, and none of another's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)  # older ones take no more


# --- what every worker must know --------------------------------------------------------------------------------------


class Shared:
    """An object for several workers: its large arrays lie once in a file that all of them map into memory.

    Sent through a pipe, MNIST would be copied three times for every worker. On Linux the file has no name, so nothing
    is left of it however the coordinator ends. What a worker writes to its arrays stays its own. Raises StorageError.
    """

    def __init__(self, value: Any) -> None:
        buffers: list[Any] = []
        text = io.BytesIO()
        ForkingPickler(text, 5, True, buffers.append).dump(value)
        self._text, self._places, end = text.getvalue(), [], 0
        try:
            self._file = tempfile.NamedTemporaryFile(prefix="bnexp-", delete=not NAMELESS)  # noqa: SIM115
            if NAMELESS:
                os.unlink(self._file.name)
            for buffer in buffers:
                part = buffer.raw()
                self._file.write(part)
                self._places.append((end, end + part.nbytes))
                end += part.nbytes
                end += self._file.write(bytes(-end % 64))  # arrays start on a cache line
            self._file.flush()
        except OSError as error:
            with suppress(OSError, AttributeError):
                self._file.close()
            raise StorageError(f"{tempfile.gettempdir()}: {error.strerror or error} (temporary files)") from error
        self._path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}" if NAMELESS else self._file.name

    def send(self, pipe: Connection) -> None:
        """To a worker, which calls ``receive``."""
        pipe.send((self._text, self._path, self._places))

    def close(self) -> None:
        """Let the file go; workers that have received keep their map."""
        with suppress(OSError):
            self._file.close()


def receive(pipe: Connection) -> Any:
    """What ``Shared.send`` sent."""
    text, path, places = pipe.recv()
    if not any(end > start for start, end in places):
        return ForkingPickler.loads(text, buffers=[b""] * len(places))
    with open(path, "rb") as stream:
        memory = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    return ForkingPickler.loads(text, buffers=[memory[start:end] for start, end in places])


@contextmanager
def one_thread() -> Iterator[None]:
    """One intra-op thread for every BLAS in this process, and for torch, which may be imported meanwhile."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    if torch:
        torch.set_num_threads(1)
    try:
        with _single_threaded(), threadpool_limits(limits=1):
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """The environment in which a process that starts now keeps to one thread: libraries read it when they load.

    Several threads may be in here: the last to leave restores what the first has found.
    """
    with _ENVIRONMENT.lock:
        if not _ENVIRONMENT.inside:
            _ENVIRONMENT.before = {name: os.environ.get(name) for name in THREADS}
            os.environ.update(THREADS)
        _ENVIRONMENT.inside += 1
    try:
        yield
    finally:
        with _ENVIRONMENT.lock:
            _ENVIRONMENT.inside -= 1
            for name, value in _ENVIRONMENT.before.items() if not _ENVIRONMENT.inside else ():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class _Environment:
    """How many are in ``_single_threaded``, and what the first of them has found."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.before: dict[str, str | None] = {}


_ENVIRONMENT, _STARTING = _Environment(), threading.RLock()
