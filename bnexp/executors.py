"""Where stacks are trained: in this process, or dealt out to worker processes.

Either way the caller receives the same Messages, and is the only one who writes. A worker has one intra-op thread
(two threads on small tensors can be a hundred times slower), ignores Ctrl-C and ends when its parent's pipe closes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from bnexp.data import Dataset
from bnexp.layout import Table
from bnexp.plan import Shard, Stack, Structure
from bnexp.recording import Epoch, Options
from bnexp.spec import DataFields
from bnexp.tables import encode, outcome_values
from bnexp.training import is_exact, train

PROGRESS_EVERY = 0.1  # seconds between messages that carry no rows
STACK_RUNS = 32  # more runs fall out of the cache: measured in tests/benchmarks/LOG.md
STACK_BYTES = 16 * 2**20  # parameters of a stack, float32
HELD = (signal.SIGINT, signal.SIGTERM)
WORKER_SECONDS = 4.0  # estimated work below which starting workers costs more than it saves


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    datasets: Mapping[DataFields, Dataset]
    options: Options
    tables: Mapping[str, Table]
    device: str


class Message(NamedTuple):
    """Rows of one epoch of one stack: per shard, table name → lines. The last one carries outcomes and arrays."""

    stack: int
    epoch: int
    rows: Sequence[Mapping[str, str]]
    loss: float
    alive: int
    outcomes: Sequence[Sequence[Sequence[str]]] | None = None  # per shard, per run, as text
    arrays: Sequence[Mapping[str, np.ndarray[Any, Any]]] | None = None
    seconds: float = 0.0
    exact: bool | None = None  # of the first stack on a CPU: whether stacking changes no bit on this machine
    error: str = ""


def make_stacks(shards: Sequence[Shard], workers: int) -> list[Stack]:
    """Join shards of one structure into stacks of about equal size, the longest work first.

    A stack has at most 32 runs and 16 MiB of parameters, and there are as many stacks as workers if possible.
    """
    groups: dict[Structure, list[Shard]] = {}
    for shard in shards:
        groups.setdefault(shard.structure, []).append(shard)
    stacks = []
    for structure, group in groups.items():
        bytes_per_shard = max(sum(4 * structure.n_parameters(run.switches) for run in s.runs) for s in group)
        runs_per_shard = max(len(s.runs) for s in group)
        largest = max(1, min(STACK_RUNS // runs_per_shard, STACK_BYTES // bytes_per_shard))
        count = max(-(-len(group) // largest), min(len(group), -(-workers // len(groups))))
        bounds = [len(group) * i // count for i in range(count + 1)]
        stacks += [Stack(structure, tuple(group[a:b])) for a, b in pairwise(bounds)]
    return sorted(stacks, key=lambda stack: -estimated_seconds(stack))


def estimated_seconds(stack: Stack) -> float:
    """A rough guess of the time to train a stack on one core, to decide on workers and to order the work.

    Assumption: 30 µs a run-step for calls and elementwise work at batch 32, products at 50 GFLOP/s.
    """
    structure = stack.structure
    steps = structure.epochs * structure.steps_per_epoch
    flops = sum(6 * structure.n_parameters(run.switches) * structure.batch_size for run in stack.runs)
    return steps * (len(stack.runs) * 30e-6 * max(1, structure.batch_size / 32) + flops / 50e9)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_stacks(stacks: Sequence[Stack], job: Job, workers: int) -> Iterator[Message]:
    """Train every stack and yield messages as they come; an exception in a stack becomes a message with ``error``."""
    workers = min(workers, len(stacks))
    if workers <= 1:
        yield from _here(stacks, job)
    else:
        yield from _in_workers(stacks, job, workers)


def _here(stacks: Sequence[Stack], job: Job) -> Iterator[Message]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for index, stack in enumerate(stacks):
            yield from _train_stack(index, stack, job)
    finally:
        torch.set_num_threads(threads)


def _train_stack(index: int, stack: Stack, job: Job) -> Iterator[Message]:
    import torch

    shard_of_run = [place for place, shard in enumerate(stack.shards) for _ in shard.runs]
    ids = [run.id for run in stack.runs]
    began = last = time.perf_counter()
    try:
        dataset = job.datasets[stack.structure.data]
        exact = is_exact(stack, dataset) if index == 0 and job.device == "cpu" else None
        for epoch in train(stack, dataset, torch.device(job.device), job.options):
            now = time.perf_counter()
            if epoch.records or epoch.outcomes is not None or now - last > PROGRESS_EVERY:
                last = now
                rows = encode(epoch, ids, shard_of_run, job.tables) if epoch.records else []
                message = Message(index, epoch.number, rows, epoch.loss, sum(epoch.alive), exact=exact)
                yield message if epoch.outcomes is None else _finish(message, stack, epoch, job, now - began)
    except Exception:
        yield Message(index, 0, [], 0.0, 0, error=traceback.format_exc())


def _finish(message: Message, stack: Stack, epoch: Epoch, job: Job, seconds: float) -> Message:
    """Add outcomes and arrays, shard by shard."""
    assert epoch.outcomes is not None
    arrays, outcomes, start = epoch.arrays(), [], 0
    per_shard = []
    for shard in stack.shards:
        here = slice(start, start + len(shard.runs))
        outcomes.append([outcome_values(outcome, job.tables["curves"]) for outcome in epoch.outcomes[here]])
        per_shard.append({name: array[here] for name, array in arrays.items()})
        start += len(shard.runs)
    return message._replace(outcomes=outcomes, arrays=per_shard, seconds=seconds)


def _in_workers(stacks: Sequence[Stack], job: Job, workers: int) -> Iterator[Message]:
    context = multiprocessing.get_context("spawn")
    pipes: dict[Connection, Any] = {}
    waiting = list(enumerate(stacks))
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})  # read when a worker imports torch
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            with _signals_held():
                process.start()
            theirs.close()
            pipes[ours] = process
        for pipe in pipes:
            pipe.send(job)
        busy: dict[Connection, int] = {}
        for pipe in pipes:
            _deal(pipe, waiting, busy)
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                yield from _receive(ready, waiting, busy)
        for index, _ in waiting:
            yield Message(index, 0, [], 0.0, 0, error="no worker process is left")
    finally:
        for pipe, process in pipes.items():
            pipe.close()
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()


def _deal(pipe: Connection, waiting: list[tuple[int, Stack]], busy: dict[Connection, int]) -> None:
    """Give an idle worker the next stack, if there is one."""
    busy.pop(pipe, None)
    if waiting:
        index, stack = waiting.pop(0)
        pipe.send((index, stack))
        busy[pipe] = index


def _receive(pipe: Connection, waiting: list[tuple[int, Stack]], busy: dict[Connection, int]) -> Iterator[Message]:
    try:
        message = pipe.recv()
    except EOFError:
        yield Message(busy.pop(pipe), 0, [], 0.0, 0, error="the worker process ended (out of memory, or killed)")
        return
    yield message
    if message.outcomes is not None or message.error:
        _deal(pipe, waiting, busy)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back: a worker inherits this while it starts, so it cannot die half made."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection) -> None:
    """A worker's life: train the stacks that come through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    try:
        job = pipe.recv()
        import torch

        torch.set_num_threads(1)
        while True:
            index, stack = pipe.recv()
            for message in _train_stack(index, stack, job):
                pipe.send(message)
    except (EOFError, OSError):  # the parent has left
        return
