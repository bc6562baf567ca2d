"""Where stacks are trained: in this process, in threads, or dealt out to worker processes.

In every case the caller receives the same Messages, and is the only one who writes. It answers each with whether it
wants a checkpoint of that stack: one comes with a later message.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from bnexp.data import Dataset
from bnexp.layout import Table
from bnexp.lazy_torch import torch
from bnexp.plan import Shard, Stack
from bnexp.recording import Epoch, Options
from bnexp.spec import DataFields
from bnexp.tables import encode, outcome_values
from bnexp.training import stacking_difference, train
from bnexp.traps import Flat, flat_units
from bnexp.workers import Shared, one_thread, receive, start_worker

REPLACEMENTS = 3  # of a worker that is gone, before its stack is given up
ASK = None  # what is sent to a worker to have a checkpoint
LOOK_EVERY = 0.2  # seconds after which a coordinator that waits looks whether it should stop
MESSAGE_EVERY = 0.2  # seconds between messages: each costs the coordinator, which shares the cores with the workers


class Begun(NamedTuple):
    """How far a shard is: its last committed epoch and checkpoint; no arrays if it is done."""

    epoch: int
    arrays: Mapping[str, np.ndarray[Any, Any]] | None


Saved: TypeAlias = Callable[[Shard], Begun | None]  # how far a shard is; None if it has not begun


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    datasets: Mapping[DataFields, Dataset]
    options: Options
    tables: Mapping[str, Table]
    device: str


Arrays: TypeAlias = Mapping[str, np.ndarray[Any, Any]]
Messages: TypeAlias = Generator["Message", bool | None, None]


class Message(NamedTuple):
    """Rows of one or more epochs of a stack: per shard, table name → lines.

    ``epoch``: the last of these epochs. ``arrays``: per shard, the checkpoint after it; with ``outcomes`` the last one.
    """

    stack: int
    epoch: int
    rows: Sequence[Mapping[str, str]]
    loss: float
    alive: int
    outcomes: Sequence[Sequence[Sequence[str]]] | None = None  # per shard, per run, as text
    arrays: Sequence[Arrays] | None = None
    shards: Sequence[int] = ()  # which of the stack's shards the rows, outcomes and arrays are of
    again: bool = False  # these shards go on from their commit: they did not fit into memory, or a worker ended
    done: bool = False  # the stack has nothing left to do
    lost: bool = False  # its workers ended again and again, or not one shard of it fits into memory
    device_lost: bool = False  # nothing in this process can use the device any more
    seconds: float = 0.0
    computed_by: Mapping[str, Any] | None = None  # with arrays, of a worker elsewhere: what its bits depend on
    flat: Sequence[Flat] = ()  # units that a norm makes constant, of networks that have just begun
    difference: float | None = None  # of the first stack, what ``stacking_difference`` finds on this device
    error: str = ""


def run_stacks(
    stacks: Sequence[Stack], job: Job, workers: int, saved: Saved, stop: Callable[[], bool] = lambda: False
) -> Messages:
    """Train every stack and yield messages as they come; an exception in a stack becomes a message with ``error``.

    ``saved`` says how far a shard is when its stack is dealt out. Send True to have a checkpoint.
    Once ``stop`` says so, each stack at work ends with a checkpoint after its epoch, and no other begins.
    """
    workers = min(workers, len(stacks))
    if job.device != "cpu":
        yield from _on_device(stacks, job, workers, saved, stop)
    elif workers <= 1:
        yield from _here(stacks, job, saved, stop)
    else:
        yield from _in_workers(stacks, job, workers, saved, stop)


def begun_of(stack: Stack, saved: Saved) -> list[Begun | None]:
    """How far each shard of a stack is."""
    return [saved(shard) for shard in stack.shards]


def _here(stacks: Sequence[Stack], job: Job, saved: Saved, stop: Callable[[], bool]) -> Messages:
    with one_thread():
        for index, stack in enumerate(stacks):
            wanted = Wanted(stop)
            for message in train_stack(index, stack, begun_of(stack, saved), job, wanted.take):
                wanted.asked |= bool((yield message))
                if stop() and (message.arrays is not None or message.error):
                    return


class Wanted:
    """Whether somebody in this process has asked for a checkpoint, or for the end."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.asked, self.stop = False, stop

    def take(self) -> bool:
        """Whether that is so; it then has been heard."""
        asked, self.asked = self.asked, False
        return asked or self.stop()


def _in_threads(stacks: Sequence[Stack], job: Job, threads: int, saved: Saved, stop: Callable[[], bool]) -> Messages:
    """Train on a device from several threads: while one stack is evaluated and written, it computes the other.

    On CUDA each thread has a stream, a queue of work, of its own.
    """
    waiting = deque(enumerate(stacks))
    messages: SimpleQueue[Message | None] = SimpleQueue()  # None: a thread has ended
    ended = threading.Event()
    wanted = [Wanted(stop) for _ in stacks]
    why: list[str] = []

    def work() -> None:
        try:
            with _queue_of_work(job.device):
                while not (ended.is_set() or stop()):
                    index, stack = waiting.popleft()
                    for message in train_stack(index, stack, begun_of(stack, saved), job, wanted[index].take):
                        messages.put(message)
                        over = ended.is_set() or message.device_lost
                        if over or (stop() and (message.arrays is not None or message.error)):
                            return
        except IndexError:
            pass  # nothing is left
        except Exception:  # the device is not usable
            why.append(traceback.format_exc())
        finally:
            messages.put(None)

    running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    try:
        with one_thread():
            for thread in running:
                thread.start()
            for _ in running:
                while message := messages.get():
                    wanted[message.stack].asked |= bool((yield message))
        for index, stack in waiting if why else ():
            yield given_up(index, stack, why[0])
    finally:
        ended.set()
        for thread in running:
            thread.join(2)


def _on_device(stacks: Sequence[Stack], job: Job, threads: int, saved: Saved, stop: Callable[[], bool]) -> Messages:
    """Train in this process; once the device is lost to it, the rest in another, which is replaced when it ends."""
    left = dict(enumerate(stacks))
    here = _in_threads(stacks, job, threads, saved, stop) if threads > 1 else _here(stacks, job, saved, stop)
    with closing(here) as messages:
        message = next(messages, None)
        while message is not None and not message.device_lost:
            asked = yield message
            if message.done:
                del left[message.stack]
            message = answered(messages, asked)
    if message is not None:
        for index, stack in left.items():
            yield go_on_again(index, stack)
        with closing(_Crew(stacks, job, saved, stop)) as crew:
            crew.waiting = list(left.items())
            crew.lost = [1] * len(stacks)
            yield from crew.work(1)


def answered(messages: Messages, answer: bool | None) -> Message | None:
    """The next message, after the last was answered; None if there is none."""
    try:
        return messages.send(answer)
    except StopIteration:
        return None


def _queue_of_work(device: str) -> AbstractContextManager[Any]:
    """A stream on CUDA; what a host waits for goes before the long kernels of ``bnexp.device_descent``."""
    if device != "cuda":
        return nullcontext()
    stream: AbstractContextManager[Any] = torch.cuda.stream(torch.cuda.Stream(priority=-1))  # type: ignore[no-untyped-call]
    return stream


def train_stack(
    index: int,
    stack: Stack,
    begun: Sequence[Begun | None],
    job: Job,
    wanted: Callable[[], bool],
    at_once: int | None = None,
) -> Iterator[Message]:
    """Train a stack, or where it does not fit into memory its halves by whole shards, one after the other.

    ``begun``: how far its shards are; ``wanted`` says after an epoch whether a checkpoint is to be sent; ``at_once``:
    how many shards may be trained together, where that is known.
    """
    last = {place: (one.epoch, one.arrays) for place, one in enumerate(begun) if one and one.arrays is not None}
    by_epoch: dict[int | None, list[int]] = {}
    for place, one in enumerate(begun):
        if one is None or one.arrays is not None:
            by_epoch.setdefault(one and one.epoch, []).append(place)
    most = at_once or len(begun)
    parts = [tuple(group[start : start + most]) for group in by_epoch.values() for start in range(0, len(group), most)]
    while parts:
        part = parts.pop(0)
        try:
            for message in _train_part(index, stack, part, last, job, wanted):
                if message.arrays is not None:
                    last |= {place: (message.epoch, a) for place, a in zip(part, message.arrays, strict=True)}
                yield message._replace(done=message.outcomes is not None and not parts)
        except Exception as error:
            if _is_device_lost(error):
                yield go_on_again(index, stack)._replace(device_lost=True)
                return
            if not (_is_out_of_memory(error) and len(part) > 1):
                text, memory = traceback.format_exc(), _is_out_of_memory(error)
                yield Message(index, 0, [], 0.0, 0, shards=part, done=not parts, lost=memory, error=text)
                continue
            half = (len(part) + 1) // 2
            parts[:0] = [part[:half], part[half:]]
            yield Message(index, 0, [], math.nan, len(stack.runs), shards=part, again=True)
        _give_memory_back(job.device)


def _is_out_of_memory(error: Exception) -> bool:
    """Python's own error, torch's, or what Triton says."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and "out of memory" in str(error))


def _is_device_lost(error: Exception) -> bool:
    """Whether the device failed: after such an error a process can do nothing more with it."""
    text = str(error)
    failed = type(error).__name__ == "AcceleratorError" or "CUDA error" in text or "Triton Error" in text
    return isinstance(error, RuntimeError) and failed and not _is_out_of_memory(error)


def _give_memory_back(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()


def _train_part(
    index: int,
    stack: Stack,
    part: Sequence[int],
    last: Mapping[int, tuple[int, Arrays]],
    job: Job,
    wanted: Callable[[], bool],
) -> Iterator[Message]:
    """Train some shards of a stack, which have all come to the same epoch."""
    epoch_of = {last[place][0] if place in last else None for place in part}
    here = Stack(stack.structure, tuple(stack.shards[place] for place in part), epoch_of.pop())
    saved = [last[place][1] for place in part if place in last]
    shard_of_run = [place for place, shard in enumerate(here.shards) for _ in shard.runs]
    ids, others = [run.id for run in here.runs], len(stack.runs) - len(here.runs)
    began = sent = time.perf_counter()
    dataset = job.datasets[stack.structure.data]
    difference = stacking_difference(here, dataset, job.device) if index == 0 else None
    flat = flat_units(here.runs, job.datasets) if here.epoch is None else []
    waiting: list[dict[str, str]] = [{} for _ in part]
    for epoch in train(here, dataset, job.device, job.options, saved=saved):
        if epoch.records:
            for held, rows in zip(waiting, encode(epoch, ids, shard_of_run, job.tables), strict=True):
                for table, text in rows.items():
                    held[table] = held.get(table, "") + text
        now = time.perf_counter()
        asked = wanted()
        if epoch.outcomes is not None or asked or now - sent > MESSAGE_EVERY:
            sent = now
            alive = sum(epoch.alive) + others
            message = Message(
                index, epoch.number, waiting, epoch.loss, alive, shards=part, flat=flat, difference=difference
            )
            if epoch.outcomes is not None or asked:
                message = _with_arrays(message, here, epoch, job)._replace(seconds=now - began)
            yield message
            waiting, flat = [{} for _ in part], []


def _with_arrays(message: Message, stack: Stack, epoch: Epoch, job: Job) -> Message:
    """Add a checkpoint, shard by shard; or outcomes and the arrays of the end."""
    arrays = epoch.checkpoint() if epoch.outcomes is None else epoch.arrays()
    starts = itertools.accumulate((len(shard.runs) for shard in stack.shards), initial=0)
    places = [slice(start, stop) for start, stop in pairwise(starts)]
    per_shard = [{name: array[here] for name, array in arrays.items()} for here in places]
    if epoch.outcomes is None:
        return message._replace(arrays=per_shard)
    values = [outcome_values(outcome, job.tables["curves"]) for outcome in epoch.outcomes]
    return message._replace(arrays=per_shard, outcomes=[values[here] for here in places])


def _in_workers(stacks: Sequence[Stack], job: Job, workers: int, saved: Saved, stop: Callable[[], bool]) -> Messages:
    with closing(_Crew(stacks, job, saved, stop)) as crew:
        yield from crew.work(workers)


class _Crew:
    """Worker processes, who is busy with what, and the stacks that wait."""

    def __init__(self, stacks: Sequence[Stack], job: Job, saved: Saved, stop: Callable[[], bool]) -> None:
        self.stacks, self.saved, self.stop = stacks, saved, stop
        self.waiting = list(enumerate(stacks))
        self.busy: dict[Connection, int] = {}
        self.pipes: dict[Connection, BaseProcess] = {}
        self.lost = [0] * len(stacks)  # how often a stack's worker was
        self.shared = Shared(job)

    def work(self, workers: int) -> Messages:
        """Deal out the stacks until all are done, or ``stop`` says so."""
        for pipe in self.hire(workers):
            self.deal(pipe)
        stopping = False
        while self.busy or (self.waiting and not self.stop()):
            if not self.busy:  # all workers are gone, and a stack still waits
                yield from self.replace()
                continue
            for ready in wait(list(self.busy), LOOK_EVERY):
                assert isinstance(ready, Connection)
                yield from self.receive(ready)
            if self.stop() and not stopping:
                stopping = True
                for pipe in self.busy:
                    with suppress(OSError):
                        pipe.send(ASK)

    def hire(self, count: int) -> list[Connection]:
        """Start workers and tell them their job."""
        hired = []
        for _ in range(count):
            pipe, process = start_worker(_work)
            self.pipes[pipe] = process
            hired.append(pipe)
        for pipe in hired:
            with suppress(OSError):  # a worker that is gone already
                self.shared.send(pipe)
        for pipe in hired:
            with suppress(EOFError, OSError):
                pipe.recv()
        return hired

    def deal(self, pipe: Connection) -> None:
        """Give an idle worker the next stack, if there is one."""
        self.busy.pop(pipe, None)
        if self.waiting:
            index, stack = self.waiting[0]
            with suppress(OSError):  # else the worker is gone, and the stack waits for another
                pipe.send((index, stack, begun_of(stack, self.saved)))
                self.busy[pipe] = index
                del self.waiting[0]

    def receive(self, pipe: Connection) -> Messages:
        """What a worker says, or that it is gone."""
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            index = self.busy.pop(pipe)
            stack = self.stacks[index]
            self.waiting.insert(0, (index, stack))
            yield go_on_again(index, stack)
            yield from self.replace()
            return
        asked = yield message
        if self.stop() and (message.arrays is not None or message.error):
            self.busy.pop(pipe)
        elif message.done:
            self.deal(pipe)
        elif asked:
            with suppress(OSError):
                pipe.send(ASK)

    def replace(self) -> Messages:
        """Let another worker go on from the last commits of the first stack that waits; three times, then give up."""
        index, stack = self.waiting[0]
        self.lost[index] += 1
        if self.lost[index] > REPLACEMENTS:
            del self.waiting[0]
            why = f"the worker process ended {self.lost[index]} times (out of memory, killed, or its device failed)"
            yield given_up(index, stack, why)._replace(lost=True)
        else:
            self.deal(self.hire(1)[0])

    def close(self) -> None:
        """End all workers; those that still train at once."""
        self.shared.close()
        for pipe in self.pipes:
            pipe.close()
        deadline = time.monotonic() + (0 if self.busy or self.stop() else 2)
        for process in self.pipes.values():
            process.join(max(0, deadline - time.monotonic()))
            if process.is_alive():
                process.terminate()


def given_up(index: int, stack: Stack, why: str) -> Message:
    """No shard of a stack is tried any more."""
    return Message(index, 0, [], 0.0, 0, shards=range(len(stack.shards)), done=True, error=why)


def go_on_again(index: int, stack: Stack) -> Message:
    """All shards of a stack go on from their commits."""
    return Message(index, 0, [], math.nan, len(stack.runs), shards=range(len(stack.shards)), again=True)


def _work(pipe: Connection) -> None:
    """A worker's life: train the stacks that come through the pipe until it closes."""
    job = receive(pipe)
    pipe.send(None)

    def wanted() -> bool:
        return pipe.poll() and pipe.recv() is ASK

    while True:
        task = pipe.recv()
        if task is not ASK:  # one that came after a stack's end is too late
            index, stack, begun = task
            for message in train_stack(index, stack, begun, job, wanted):
                if message.device_lost:  # another process is to go on
                    return
                pipe.send(message)
