"""Where stacks are trained: in this process, or dealt out to worker processes.

Either way the caller receives the same Messages, and is the only one who writes.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np

from bnexp.data import Dataset
from bnexp.layout import Table
from bnexp.plan import Shard, Stack, Structure
from bnexp.recording import Epoch, Options
from bnexp.spec import DataFields
from bnexp.tables import encode, outcome_values
from bnexp.training import is_exact, train
from bnexp.workers import one_thread, start_worker

MESSAGE_EVERY = 0.2  # seconds between messages: each costs the coordinator, which shares the cores with the workers
STACK_RUNS = 32  # more runs fall out of the cache: measured in tests/benchmarks/LOG.md
STACK_BYTES = 16 * 2**20  # parameters of a stack, float32
WORKER_SECONDS = 0.5  # estimated work below which workers cost more than they save


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    datasets: Mapping[DataFields, Dataset]
    options: Options
    tables: Mapping[str, Table]
    device: str


class Message(NamedTuple):
    """Rows of one or more epochs of a stack: per shard, table name → lines. The last one has outcomes and arrays.

    ``epoch``: the last of these epochs.
    """

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
    """Deal shards out to workers, and join what a worker has of one structure; the longest work comes first.

    Each shard, the longest first, goes where the work would then end soonest (Graham 1969). A stack has at most 32 runs
    and 16 MiB of parameters.
    """
    piles: list[dict[Structure, list[int]]] = [{} for _ in range(workers)]
    loads = [0.0] * workers
    for index in sorted(range(len(shards)), key=lambda index: -_shard_seconds(shards[index])):
        structure, alone = shards[index].structure, _shard_seconds(shards[index])
        ends = [
            load + alone + (0 if structure in pile else _call_seconds(structure))
            for load, pile in zip(loads, piles, strict=True)
        ]
        chosen = ends.index(min(ends))
        loads[chosen] = ends[chosen]
        piles[chosen].setdefault(structure, []).append(index)
    stacks = [
        stack
        for pile in piles
        for structure, indices in pile.items()
        for stack in _cut(structure, [shards[index] for index in sorted(indices)])
    ]
    return sorted(stacks, key=lambda stack: -estimated_seconds(stack))


def _cut(structure: Structure, group: Sequence[Shard]) -> Iterator[Stack]:
    """Stacks of about equal size that fit into the cache."""
    bytes_per_shard = max(sum(4 * structure.n_parameters(run.switches) for run in s.runs) for s in group)
    largest = max(1, min(STACK_RUNS // max(len(s.runs) for s in group), STACK_BYTES // bytes_per_shard))
    count = -(-len(group) // largest)
    bounds = [len(group) * i // count for i in range(count + 1)]
    return (Stack(structure, tuple(group[a:b])) for a, b in pairwise(bounds))


def estimated_seconds(stack: Stack) -> float:
    """A rough guess of the time to train a stack on one core, to decide on workers and to deal out the work."""
    return _call_seconds(stack.structure) + sum(map(_shard_seconds, stack.shards))


def _call_seconds(structure: Structure) -> float:
    """Time that a stack costs whatever its size: 25 µs a step."""
    return structure.epochs * structure.steps_per_epoch * 25e-6


def _shard_seconds(shard: Shard) -> float:
    """Time for the arithmetic of a shard: 150 GFLOP/s in products; 2 ns an activation, or 3 with a norm.

    Measured in tests/benchmarks/LOG.md on one machine; of others an assumption.
    """
    structure = shard.structure
    steps = structure.epochs * structure.steps_per_epoch
    activations = sum(structure.hidden) * structure.batch_size
    elementwise = activations * (3e-9 if structure.normalizes else 2e-9)
    products = sum(6 * structure.n_parameters(run.switches) * structure.batch_size for run in shard.runs) / 150e9
    return steps * (len(shard.runs) * elementwise + products)


def run_stacks(stacks: Sequence[Stack], job: Job, workers: int) -> Iterator[Message]:
    """Train every stack and yield messages as they come; an exception in a stack becomes a message with ``error``."""
    workers = min(workers, len(stacks))
    if workers <= 1:
        yield from _here(stacks, job)
    else:
        yield from _in_workers(stacks, job, workers)


def _here(stacks: Sequence[Stack], job: Job) -> Iterator[Message]:
    with one_thread():
        for index, stack in enumerate(stacks):
            yield from _train_stack(index, stack, job)


def _train_stack(index: int, stack: Stack, job: Job) -> Iterator[Message]:
    shard_of_run = [place for place, shard in enumerate(stack.shards) for _ in shard.runs]
    ids = [run.id for run in stack.runs]
    began = last = time.perf_counter()
    try:
        dataset = job.datasets[stack.structure.data]
        exact = is_exact(stack, dataset) if index == 0 and job.device == "cpu" else None
        waiting: list[dict[str, str]] = [{} for _ in stack.shards]
        for epoch in train(stack, dataset, job.device, job.options):
            if epoch.records:
                for held, rows in zip(waiting, encode(epoch, ids, shard_of_run, job.tables), strict=True):
                    for table, text in rows.items():
                        held[table] = held.get(table, "") + text
            now = time.perf_counter()
            if epoch.outcomes is not None or now - last > MESSAGE_EVERY:
                last = now
                message = Message(index, epoch.number, waiting, epoch.loss, sum(epoch.alive), exact=exact)
                yield message if epoch.outcomes is None else _finish(message, stack, epoch, job, now - began)
                waiting = [{} for _ in stack.shards]
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
    pipes: dict[Connection, BaseProcess] = {}
    waiting = list(enumerate(stacks))
    try:
        for _ in range(workers):
            pipe, process = start_worker(_work)
            pipes[pipe] = process
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


def _work(pipe: Connection) -> None:
    """A worker's life: train the stacks that come through the pipe until it closes."""
    job = pipe.recv()
    while True:
        index, stack = pipe.recv()
        for message in _train_stack(index, stack, job):
            pipe.send(message)
