"""What people see while a study trains: one line for all of it, on a terminal, in a notebook, or in a log.

A terminal and a notebook have a line that changes; a log has a line at every tenth of the work, and at least every
half minute.
"""

from __future__ import annotations

import bisect
import functools
import heapq
import importlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from bnexp.console import duration, open_console, print_problem, printable

if TYPE_CHECKING:
    from bnexp.errors import Problem
    from bnexp.executors import Message
    from bnexp.experiment import Outline
    from bnexp.plan import Stack

LINE_SECONDS = 30.0  # off a terminal: a line at least this often
LEAST_BAR = 10  # columns; where there are fewer the bar is left out
REFRESHES = 4  # a second
NEAR = 2.0  # seconds: nobody knows the speed earlier, and what is left is not told apart below
MOST_PAST = 1000  # reports by which the speed of some time ago is known


class Standing(NamedTuple):
    """How far a study is. ``share``: of the estimated work; ``left``: seconds, none before there is a speed.

    ``queued``: runs that nobody has begun; ``failed``: runs of shards that failed.
    """

    share: float
    runs: int
    of_runs: int
    queued: int
    failed: int
    epochs: int
    of_epochs: int
    loss: float
    diverged: int
    left: float | None

    @property
    def running(self) -> int:
        """Runs that somebody trains."""
        return self.of_runs - self.runs - self.queued - self.failed


class Tally:
    """Counts what stacks report.

    The time left is what the workers would need for the rest, each taking the next stack when it is free, at the speed
    that they had in the later half of the time since the first report: what starting takes says nothing of it. It is
    told once there were two seconds of that. The work in a stack is what ``bnexp.estimate`` takes it for.
    """

    def __init__(self, outline: Outline) -> None:
        self.lock = threading.Lock()  # reports come while another thread draws
        self.stacks, self.workers = outline.stacks, outline.workers
        self.work = [work or 1e-9 for work in outline.work]
        self.place = {stack: index for index, stack in enumerate(self.stacks)}
        self.begun = [stack.epoch or 0 for stack in self.stacks]
        self.reached, self.alive = list(self.begun), [len(stack.runs) for stack in self.stacks]
        self.begun_here, self.failed = [False] * len(self.stacks), 0
        self.finished, self.runs, self.loss = [False] * len(self.stacks), 0, float("nan")
        self.rest, self.unfinished = list(self.work), len(self.stacks)  # work that is left in each stack
        self.ended: set[tuple[int, int]] = set()  # shards: of which stack, which
        self.done_work, self.all_work = 0.0, sum(self.work)
        self.first = self.last = math.nan  # when the first and the last report came
        self.busy = 0.0  # seconds of workers since the first
        self.past: list[tuple[float, float]] = []  # at each report: busy, and the work that was done

    def report(self, stack: Stack, message: Message, now: float) -> None:
        """Take a message in; ``now`` in seconds of any clock."""
        with self.lock:
            self._report(stack, message, now)

    def _report(self, stack: Stack, message: Message, now: float) -> None:
        """It takes the same time however many stacks there are: a large cluster reports often."""
        at, working = self.place[stack], min(self.workers, self.unfinished)
        if not message.error:
            self.reached[at], self.alive[at] = max(self.begun[at], message.epoch), message.alive
        if message.outcomes is not None or message.error:  # a stack that is given up may have finished some shards
            ended = [place for place in message.shards if (at, place) not in self.ended]
            self.ended.update((at, place) for place in ended)
            runs = sum(len(stack.shards[place].runs) for place in ended)
            self.runs, self.failed = (
                (self.runs, self.failed + runs) if message.error else (self.runs + runs, self.failed)
            )
        if message.loss == message.loss and not message.error:
            self.loss = message.loss
        self.unfinished -= message.done and not self.finished[at]
        self.finished[at] |= message.done
        self.begun_here[at] = True
        epochs = stack.structure.epochs - self.begun[at]
        part = (self.reached[at] - self.begun[at]) / epochs if epochs else 0.0
        rest = 0.0 if self.finished[at] else self.work[at] * (1 - part)
        self.done_work += self.rest[at] - rest
        self.rest[at] = rest
        if self.past:
            self.busy += working * (now - self.last)
        else:
            self.first = now
        self.last = now
        self.past.append((self.busy, self.done_work))
        if len(self.past) > MOST_PAST:
            del self.past[1:-1:2]

    def share(self) -> float:
        """How much of the work is done."""
        return self.done_work / self.all_work

    def standing(self, now: float) -> Standing:
        """How far the study is."""
        with self.lock:
            return self._standing(now)

    def _standing(self, now: float) -> Standing:
        sizes, rest, left = [len(stack.runs) for stack in self.stacks], [work for work in self.rest if work], None
        half = self.past[bisect.bisect_right(self.past, (self.busy / 2, math.inf)) - 1] if self.past else (0.0, 0.0)
        done = self.all_work - sum(rest) - half[1]
        if done > 0 and self.last - self.first >= NEAR:
            loads = [0.0] * self.workers  # a heap
            for work in rest:
                heapq.heapreplace(loads, loads[0] + work)
            left = max(0.0, max(loads) * (self.busy - half[0]) / done - (now - self.last))
        ends = [stack.structure.epochs for stack in self.stacks]
        of_epochs = sum(n * (end - at) for n, end, at in zip(sizes, ends, self.begun, strict=True))
        epochs = sum(n * (reached - at) for n, reached, at in zip(sizes, self.reached, self.begun, strict=True))
        share, diverged = 1 - sum(rest) / self.all_work, sum(sizes) - sum(self.alive)
        queued = sum(n for n, begun in zip(sizes, self.begun_here, strict=True) if not begun)
        return Standing(share, self.runs, sum(sizes), queued, self.failed, epochs, of_epochs, self.loss, diverged, left)


def words_of(standing: Standing) -> list[tuple[int, str]]:
    """What a line says, each with a rank: of what does not fit, the highest ranks are left out first."""
    loss = f"loss {standing.loss:.2g}" if standing.loss == standing.loss else ""
    words = [
        (0, f"{standing.runs}/{standing.of_runs} runs"),
        (2, f"{standing.epochs}/{standing.of_epochs} epochs"),
        (1, loss),
        (1, f"{standing.diverged} diverged" if standing.diverged else ""),
        (1, f"{standing.failed} failed" if standing.failed else ""),
        (3, f"{standing.running} running" if standing.running else ""),
        (3, f"{standing.queued} queued" if standing.queued else ""),
        (0, _time_left(standing.left)),
    ]
    return [(rank, text) for rank, text in words if text]


def _time_left(seconds: float | None) -> str:
    """Nearer to the end than a few reports of the workers, a number would promise more than anybody knows."""
    if seconds is None:
        return ""
    return f"under {NEAR:.0f} s left" if seconds < NEAR else f"{duration(seconds)} left"


def fitting(words: Sequence[tuple[int, str]], width: int) -> str:
    """The words that fit, two blanks apart."""
    for most in sorted({rank for rank, _ in words}, reverse=True):
        line = "  ".join(text for rank, text in words if rank <= most)
        if len(line) <= width:
            break
    return line[:width]


def _whatever_the_terminal_says(method: Callable[..., None]) -> Callable[..., None]:
    """Training goes on where its progress cannot be shown: stderr may be full, or its reader gone."""

    @functools.wraps(method)
    def shown(*arguments: Any) -> None:
        with suppress(OSError, ValueError):
            method(*arguments)

    return shown


class Progress:
    """Shows how far a study is, where there is something to train."""

    def __init__(self, silent: bool = False, mute: bool = False) -> None:
        self.silent, self.mute = silent, mute  # mute: no warnings either
        self.console = open_console(stderr=True)
        self.surface: _Changing | _Notebook | _Log | None = None

    @_whatever_the_terminal_says
    def begin(self, outline: Outline) -> None:
        """Say what starts."""
        self.tally = Tally(outline)
        if self.silent or not outline.stacks:
            return
        changing = self.console.is_interactive and self.console.file.isatty()  # a dumb terminal takes nothing back
        kind = _Notebook if self.console.is_jupyter else _Changing if changing else _Log
        self.surface = kind(self.console, outline, self.tally)

    @_whatever_the_terminal_says
    def epoch(self, stack: Stack, message: Message) -> None:
        """Move the line."""
        self.tally.report(stack, message, time.monotonic())
        if self.surface is not None:
            self.surface.update()

    @_whatever_the_terminal_says
    def warn(self, problem: Problem) -> None:
        """What is allowed and probably not meant; also where progress is not shown."""
        if not self.mute:
            print_problem(self.console, problem)

    @_whatever_the_terminal_says
    def end(self) -> None:
        """Take the line away."""
        if self.surface is not None:
            self.surface.end()


class _Changing:
    """A line at the foot of a terminal."""

    def __init__(self, console: Console, outline: Outline, tally: Tally) -> None:
        self.console, self.name, self.tally = console, outline.spec.name, tally
        self.live = Live(console=console, get_renderable=self.line, refresh_per_second=REFRESHES, transient=True)
        self.live.start()

    def line(self) -> Table:
        """The line, as wide as the terminal is now."""
        standing, width = self.tally.standing(time.monotonic()), self.console.width
        text = fitting([(4, self.name[:20]), *words_of(standing)], width - 1)
        grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        cells: list[Any] = [printable(text)]
        if width - len(text) > LEAST_BAR + 2:
            grid.add_column(ratio=1)
            cells.append(ProgressBar(total=1.0, completed=standing.share))
        grid.add_row(*cells)
        return grid

    def update(self) -> None:
        """It is drawn anew a few times a second."""

    def end(self) -> None:
        """Take it away."""
        self.live.stop()


class _Notebook:
    """One output of a cell, which changes."""

    def __init__(self, console: Console, outline: Outline, tally: Tally) -> None:
        display: Any = importlib.import_module("IPython.display").display
        self.name, self.tally, self.shown = outline.spec.name, tally, 0.0
        self.handle = display(self, display_id=True)

    def __repr__(self) -> str:
        return fitting([(0, self.name), *words_of(self.tally.standing(time.monotonic()))], 200)

    def update(self) -> None:
        """Not at every message: each goes to the browser."""
        now = time.monotonic()
        if now - self.shown > 1 / REFRESHES:
            self.shown = now
            self.handle.update(self)

    def end(self) -> None:
        """It stays, as it was last."""
        self.handle.update(self)


class _Log:
    """Lines, where nothing can be taken back."""

    def __init__(self, console: Console, outline: Outline, tally: Tally) -> None:
        self.console, self.name, self.tally = console, outline.spec.name, tally
        self.tenths, self.said, self.ended = 0, time.monotonic(), threading.Event()
        self.lock = threading.Lock()
        runs = sum(len(stack.runs) for stack in outline.stacks)
        done = f", {outline.done} finished before" if outline.done else ""
        workers = f"{outline.workers} worker{'s' if outline.workers > 1 else ''}"
        self.write(f"{self.name}: {runs} runs on {outline.device}, {workers}{done}")
        self.speaker = threading.Thread(target=self.speak, daemon=True)
        self.speaker.start()

    def update(self) -> None:
        """A line, if another tenth is done."""
        tenths = int(10 * self.tally.share() + 1e-9)
        if tenths > self.tenths:
            self.tenths = tenths
            self.write_standing(self.tally.standing(time.monotonic()))

    def speak(self) -> None:
        """A line whenever there was none for long."""
        while not self.ended.wait(max(0.01, self.said + LINE_SECONDS - time.monotonic())):
            if time.monotonic() - self.said >= LINE_SECONDS:
                with suppress(OSError, ValueError):
                    self.write_standing(self.tally.standing(time.monotonic()))

    def write_standing(self, standing: Standing) -> None:
        """How far the study is."""
        said = ", ".join(text for _, text in words_of(standing))
        self.write(f"{self.name}: {100 * standing.share:.0f} %, {said}")

    def write(self, text: str) -> None:
        """A line."""
        with self.lock:
            self.said = time.monotonic()
            self.console.print(printable(text), soft_wrap=True)

    def end(self) -> None:
        """No more of them."""
        self.ended.set()
        self.speaker.join(1)
