"""Which shards are trained together, and by whom: stacks that fit into a cache or a device, dealt out by time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from bnexp.descent import can_descend
from bnexp.device_steps import bytes_per_run
from bnexp.plan import Shard, Stack, Structure

STACK_RUNS = 32  # more runs fall out of the cache: measured in tests/benchmarks/LOG.md
STACK_BYTES = 16 * 2**20  # parameters of a stack, float32
WORKER_SECONDS = 0.5  # estimated work below which workers cost more than they save
DEVICE_WORKERS = 2  # threads that feed a GPU, unless told otherwise


def make_stacks(
    shards: Sequence[Shard], workers: int, room: int | None = None, reached: Mapping[str, int] | None = None
) -> list[Stack]:
    """Deal shards out to workers, and join what a worker has of one structure and epoch; the longest work comes first.

    ``reached``: the committed epoch of shards, by name, that were begun before.

    Each shard, the longest first, goes where the work would then end soonest (Graham 1969). A stack has at most 32 runs
    and 16 MiB of parameters; where ``room`` is given, the bytes free on a device, as many runs as fit there.
    """
    kinds = [(shard.structure, (reached or {}).get(shard.name)) for shard in shards]
    alone = [_shard_seconds(shard, epoch) for shard, (_, epoch) in zip(shards, kinds, strict=True)]
    piles: list[dict[tuple[Structure, int | None], list[int]]] = [{} for _ in range(workers)]
    loads = [0.0] * workers
    for index in sorted(range(len(shards)), key=lambda index: -alone[index]):
        ends = [
            load + alone[index] + (0 if kinds[index] in pile else _call_seconds(*kinds[index]))
            for load, pile in zip(loads, piles, strict=True)
        ]
        chosen = ends.index(min(ends))
        loads[chosen] = ends[chosen]
        piles[chosen].setdefault(kinds[index], []).append(index)
    stacks = [
        Stack(structure, group, epoch)
        for pile in piles
        for (structure, epoch), indices in pile.items()
        for group in _cut(structure, [shards[index] for index in sorted(indices)], room)
    ]
    return sorted(stacks, key=lambda stack: -estimated_seconds(stack))


def _cut(structure: Structure, group: Sequence[Shard], room: int | None) -> Iterator[tuple[Shard, ...]]:
    """Parts of about equal size that fit into the cache, or into the device's memory."""
    n_parameters = max(map(structure.n_parameters, {norm for shard in group for norm in shard.norms}))
    runs_per_shard = max(len(shard.runs) for shard in group)
    if room is None:
        runs = min(STACK_RUNS, STACK_BYTES // (4 * n_parameters))
    else:
        runs = room // bytes_per_run(structure, n_parameters)
    count = -(-len(group) // max(1, runs // runs_per_shard))
    bounds = [len(group) * i // count for i in range(count + 1)]
    return (tuple(group[a:b]) for a, b in pairwise(bounds))


def estimated_seconds(stack: Stack) -> float:
    """A rough guess of the time to train a stack on one core, to decide on workers and to tell how long it takes."""
    alone = sum(_shard_seconds(shard, stack.epoch) for shard in stack.shards)
    return alone + _call_seconds(stack.structure, stack.epoch)


def _call_seconds(structure: Structure, epoch: int | None) -> float:
    """Time that a stack costs whatever its size: 100 µs an epoch, and 85 µs a step in which all runs go together.

    Where runs descend one after the other (``bnexp.descent``), that is an epoch's last.
    """
    epochs = structure.epochs - (epoch or 0)
    together = 1 if can_descend(structure, "cpu") else structure.steps_per_epoch
    return epochs * (100e-6 + 85e-6 * together)


def _shard_seconds(shard: Shard, epoch: int | None) -> float:
    """Time for the steps of a shard.

    Products at 200 GFLOP/s; an activation or output 1.2 ns, or 1.6 with a norm, and 8 more with noise; an input 0.4 ns;
    an update of a parameter 0.45 ns, or 1.3 by Adam; and 2 µs, or 4 with a norm, for the calls of a run's step.
    Measured in tests/benchmarks/LOG.md on one machine; of others an assumption.
    """
    structure = shard.structure
    runs, rows, normalizes = len(shard.runs), structure.batch_size, structure.normalizes
    each = (1.6e-9 if normalizes else 1.2e-9) + (8e-9 if structure.noise != "none" else 0)
    elementwise = rows * (sum(structure.widths[1:]) * each + structure.widths[0] * 0.4e-9)
    n_parameters = sum(count * structure.n_parameters(norm) for norm, count in Counter(shard.norms).items())
    products = 6 * n_parameters * rows / 200e9
    updates = n_parameters * (0.45e-9 if structure.optimizer == "sgd" else 1.3e-9)
    step = runs * (elementwise + (4e-6 if normalizes else 2e-6)) + products + updates
    return (structure.epochs - (epoch or 0)) * structure.steps_per_epoch * step
