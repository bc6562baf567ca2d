"""The words that measures and the training loop share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from bnexp.layout import Table
from bnexp.layout import tracked_units as tracked_units
from bnexp.plan import Run, Structure


class Record(NamedTuple):
    """One row per run of a stack for one table.

    ``columns`` names what exists (the table's other columns stay empty), ``values`` is [run, column], ``present`` says
    which runs have the row at all (None: all of them).
    """

    table: str
    labels: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor
    present: Sequence[bool] | None = None


class Reading(NamedTuple):
    """What a measure may look at, at the end of an epoch; it must change nothing.

    ``taps``: per layer, the probe set's activations [run, unit, sample] by the probe set's own batch statistics.
    ``gradients``: of the epoch's last minibatch, before its step; None at epoch 0.
    """

    parameters: Mapping[str, Tensor]
    taps: Sequence[Mapping[str, Tensor]]
    gradients: Mapping[str, Tensor] | None
    structure: Structure
    runs: Sequence[Run]
    track: int


class Measure(NamedTuple):
    """A named measure: its tables and its reader."""

    name: str
    tables: tuple[Table, ...]
    read: Callable[[Reading], Iterator[Record]]


def learns_affine(runs: Sequence[Run]) -> list[bool]:
    """Which runs have the tap ``affine``: those that learn γ or β."""
    return [run.switches.gamma or run.switches.beta for run in runs]
