"""Which shards are trained together, and by whom: stacks that fit into a cache or a device, dealt out by time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from bnexp.descent import can_descend
from bnexp.device_steps import bytes_per_run
from bnexp.plan import Shard, Stack, Structure

STACK_RUNS = 32  # more runs fall out of the cache: measured in tests/benchmarks/LOG.md
STACK_BYTES = 4 * 2**20  # parameters of a stack, float32, which has gradients and Adam's moments beside them
WORKER_SECONDS = 0.5  # estimated work below which workers cost more than they save
DEVICE_WORKERS = 2  # threads that feed a GPU, unless told otherwise


def make_stacks(
    shards: Sequence[Shard], workers: int, room: int | None = None, reached: Mapping[str, int] | None = None
) -> list[Stack]:
    """Deal shards out to workers, and join what a worker has of one structure and epoch; the longest work comes first.

    ``reached``: the committed epoch of shards, by name, that were begun before.

    Each shard, the longest first, goes where the work would then end soonest (Graham 1969). A stack has at most 32 runs
    and 4 MiB of parameters; where ``room`` is given, the bytes free on a device, as many runs as fit there.
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
    """Time that a stack costs whatever its size: 60 µs an epoch, and 70 µs a step in which all runs go together.

    Where runs descend one after the other (``bnexp.descent``), that is an epoch's last.
    """
    epochs = structure.epochs - (epoch or 0)
    together = 1 if can_descend(structure, "cpu") else structure.steps_per_epoch
    return epochs * (60e-6 + 70e-6 * together)


def _shard_seconds(shard: Shard, epoch: int | None) -> float:
    """Time for the steps of a shard.

    Products at 240 GFLOP/s; an activation or output 1.1 ns, or 1.5 with a norm; an input 0.4 ns; an update of a
    parameter 0.26 ns, or 1.4 by Adam, and 1.2 more an epoch; for the calls of a run's step 4 µs, or 5.7 with a norm,
    where runs descend alone, else 0.9 and 1.7. Noise adds 4 ns an activation, and to draw it, once for the runs of a
    seed, 27 µs and 16 ns an activation. Measured in tests/benchmarks/LOG.md on one machine whose cores were all at
    work; of others an assumption.
    """
    structure = shard.structure
    runs, rows, normalizes = len(shard.runs), structure.batch_size, structure.normalizes
    each, calls = (1.5e-9, 1.7e-6) if normalizes else (1.1e-9, 0.9e-6)
    if can_descend(structure, "cpu"):
        calls = 5.7e-6 if normalizes else 4e-6
    draws = 0.0
    if structure.noise != "none":
        each += 4e-9
        draws = len({run.seed for run in shard.runs}) * (27e-6 + rows * sum(structure.hidden) * 16e-9)
    elementwise = rows * (sum(structure.widths[1:]) * each + structure.widths[0] * 0.4e-9)
    n_parameters = sum(count * structure.n_parameters(norm) for norm, count in Counter(shard.norms).items())
    products = 6 * n_parameters * rows / 240e9
    updates = n_parameters * (0.26e-9 if structure.optimizer == "sgd" else 1.4e-9)
    step = runs * (elementwise + calls) + draws + products + updates
    return (structure.epochs - (epoch or 0)) * (structure.steps_per_epoch * step + n_parameters * 1.2e-9)
