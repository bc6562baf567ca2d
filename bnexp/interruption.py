"""SIGINT and SIGTERM: they raise KeyboardInterrupt or Terminated, and in an Interruption only the second does.

While a study trains, the first asks for an end after this epoch, and the second ends at once.
What does not come to the end of its epoch within three seconds is dropped: the last commit stands. Python runs a
handler only between two of its own steps, so an epoch in compiled code of this very process (``--workers 1``) is waited
for.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from bnexp.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 3.0  # seconds that an epoch may still take
AGAIN = 0.5  # seconds after which is raised once more: what is raised within a destructor is lost


def heed() -> None:
    """Let a signal raise, again and again until ``calm``."""
    for number in SIGNALS:
        signal.signal(number, _insist)


def calm() -> None:
    """Raise no more: the signal was heard."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


def ignore() -> None:
    """All is done: a signal changes nothing any more."""
    calm()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _insist(number: int, frame: FrameType | None) -> NoReturn:
    error = Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def again(alarm: int, frame: FrameType | None) -> NoReturn:
        raise error

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
    raise error


class Interruption:
    """A context in which the first signal is remembered instead of raised. It does nothing outside the main thread."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._held = self._late = False

    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._first) for number in SIGNALS}
            if hasattr(signal, "SIGALRM"):
                self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._again)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        alarm = self._before.pop(signal.SIGALRM, None) if hasattr(signal, "SIGALRM") else None
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if alarm is not None:  # only when no signal can set it any more
            calm()
            signal.signal(signal.SIGALRM, alarm)
        if error is None and self.signal is not None:
            self._raise()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raise nothing before the end: what is written here is written whole."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._late:
            self._raise()

    def _first(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, number
        if again or not hasattr(signal, "setitimer"):
            self._again(number, frame)
        else:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE, AGAIN)

    def _again(self, number: int, frame: FrameType | None) -> None:
        self._late = True
        if not self._held:
            self._raise()

    def _raise(self) -> NoReturn:
        raise Terminated if self.signal == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def blocked() -> Iterator[None]:
    """Signals wait, for this thread and for a process that starts meanwhile: it cannot die half made."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGALRM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
