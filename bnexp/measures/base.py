"""The words that measures and the training loop share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnexp.arrays import Array, on_cpu
from bnexp.batches import Rows
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.network import Batch
from bnexp.norms import Statistics
from bnexp.optimizers import Knobs, Optimizer
from bnexp.plan import Run, Structure

LAYER = Column("layer", "", "weight layer, from 1; the last is the output")
TAP = Column("tap", "", "where it was read")


class Record(NamedTuple):
    """One row per run of a stack for one table.

    ``columns`` names what exists (the table's other columns stay empty), ``values`` is [run, column], ``present`` says
    which runs have the row at all (None: all of them).
    """

    table: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    values: Array
    present: Sequence[bool] | None = None


class LastStep(NamedTuple):
    """An epoch's last step: the parameters before it, its gradients, and the learning rates [run] that it took."""

    before: Mapping[str, Array]
    gradients: Mapping[str, Array]
    lr: Array


class Reading(NamedTuple):
    """What a measure may look at, at the end of an epoch; it must change nothing but its own ``memory``.

    ``probe``: the probe set with the labels trained on, the same rows for every run, neither noise nor ghosts.
    ``taps``: per layer, the probe set's activations [run, unit, sample] by its own batch statistics. ``rows``: all
    rows. ``running``: running statistics, one per hidden layer; empty without a norm. ``last``: None at epoch 0.
    ``options``: the measure's own, as the spec has them. ``memory``: what the measure keeps from one reading to the
    next; tensors with the run axis first.
    """

    epoch: int
    parameters: Mapping[str, Array]
    running: Sequence[Statistics]
    probe: Batch
    taps: Sequence[Mapping[str, Array]]
    rows: Rows
    last: LastStep | None
    structure: Structure
    runs: Sequence[Run]
    track: int
    options: Mapping[str, Any]
    memory: dict[str, Array]


class NextStep(NamedTuple):
    """What a measure may look at just before the first step of an epoch; it must change nothing.

    ``batch`` is what the step will train on, ``state`` the optimizer's state before it, ``lr`` [run] its rates.
    """

    epoch: int
    parameters: Mapping[str, Array]
    batch: Batch
    optimizer: Optimizer
    state: Mapping[str, Array]
    knobs: Knobs
    lr: Array
    structure: Structure
    runs: Sequence[Run]
    options: Mapping[str, Any]


class Measure(NamedTuple):
    """A named measure: its tables and when it reads.

    ``read``: at the end of an epoch, and at epoch 0. ``read_step``: just before the first step of an epoch.
    ``trace``: after every ``options["steps"]``-th step (from 1), with the number of the step. Each is called when due
    by ``options["every"]``; the first and the last epoch always are (a measure may leave out what it cannot tell
    there); ``trace`` is due by the steps alone. ``by_arrays``: it takes arrays of either kind (``bnexp.arrays``);
    others get tensors, for which torch is imported.
    """

    name: str
    tables: tuple[Table, ...]
    read: Callable[[Reading], Iterator[Record]] | None = None
    read_step: Callable[[NextStep], Iterator[Record]] | None = None
    trace: Callable[[Reading, int], Iterator[Record]] | None = None
    needs_last_step: bool = False
    by_arrays: bool = False


def where_they_exist(
    table: str, labels: tuple[str, ...], found: Mapping[str, Array], missing: Sequence[frozenset[str]]
) -> Iterator[Record]:
    """Yield columns [run] as Records, one for each set of columns that ``missing`` says do not exist for a run."""
    wide = {name: on_cpu(column).astype(np.float64) for name, column in found.items()}
    for absent in sorted(set(missing), key=sorted):
        columns = tuple(name for name in found if name not in absent)
        values = np.stack([wide[name] for name in columns], 1)
        yield Record(table, labels, columns, values, [here == absent for here in missing])


def ascending(x: Array) -> Array:
    """The values sorted along the last axis."""
    # NumPy sorts short rows 35 times faster than torch; the values are the same.
    return torch.from_numpy(np.sort(on_cpu(x), -1)).to(x.device)


def learns_affine(runs: Sequence[Run]) -> list[bool]:
    """Which runs have the tap ``affine``: those that learn γ or β."""
    return [run.switches.gamma or run.switches.beta for run in runs]
