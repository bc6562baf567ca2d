"""What a results folder contains: file names, the columns every study has, and the words Column and Table.

Both sides of the folder lean on this: the one that writes (store, tables) and the one that reads (results). No torch.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from bnexp.spec import Spec, leaves

SCHEMA = 2  # of meta.json and commit.json; a larger number is a newer version of bnexp
SPEC, META, RUNS, ITEMS, SHARDS, COMMIT, CHECKPOINT, LOCK, HOLDER = (
    "spec.yaml",
    "meta.json",
    "runs.csv",
    "items.csv",
    "shards",
    "commit.json",
    "checkpoint.npz",
    ".lock",
    ".holder",
)
STATUSES = ("pending", "running", "done", "diverged", "failed")
ALWAYS = ("data", "hidden", "activation", "norm", "placement", "optimizer", "lr", "batch_size", "epochs")


# The metrics of curves.csv and runs.csv, by kind: (scale they are compared on, higher is better). STATISTICS rule 1.
METRIC_KINDS: dict[str, tuple[Literal["raw", "log"], bool]] = {
    "loss": ("log", False),
    "accuracy": ("raw", True),
    "r2": ("raw", True),
    "unexplained": ("log", False),
}
METRIC = re.compile(rf"(train|fit|val|test)_({'|'.join(METRIC_KINDS)})((?:_\w+)?)")  # split, kind, _statistics


class Column(NamedTuple):
    """A column of a table: its name, unit and meaning. The README's reference is made from these.

    ``log``: it is compared on logs, as a ratio. ``values``: all that a label column may hold, where that is fixed.
    """

    name: str
    unit: str
    meaning: str
    log: bool = False
    values: tuple[str, ...] = ()


class Table(NamedTuple):
    """A CSV: label columns (text) and number columns; ``run`` and ``epoch`` stand before them.

    ``hidden_only``: its layers are the hidden ones. ``first_epoch``: the first that can have rows. ``every``: epochs
    between readings in a study, 0 for the first and the last alone; None where that is not known.
    """

    name: str
    labels: tuple[Column, ...]
    columns: tuple[Column, ...]
    hidden_only: bool = False
    first_epoch: int = 0
    every: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the number columns."""
        return tuple(column.name for column in self.columns)


OUTCOME_COLUMNS = (
    Column("status", "", "pending, running, done, diverged or failed"),
    Column("diverged_epoch", "epoch", "first epoch with a number that is not finite"),
    Column("learned", "", "true if final training accuracy (R²) passed the threshold of learned_at"),
    Column("n_parameters", "1", "trained numbers"),
    Column("init_id", "", "w + checksum of the initial weight matrices"),
    Column("order_id", "", "o + checksum of the first epoch's row order"),
)
OUTCOMES = tuple(column.name for column in OUTCOME_COLUMNS)


@lru_cache
def tracked_units(width: int, track: int) -> list[int]:
    """Indices of the tracked units: ``track`` of them, evenly spaced from first to last; all if there are fewer."""
    return sorted({int(i) for i in np.linspace(0, width - 1, min(track, width)).round()})


def setting_columns(spec: Spec) -> tuple[str, ...]:
    """The setting columns of runs.csv after ``run`` and ``seed``: those always there, then whatever else varies."""
    varying = set(spec.axes)
    return (*ALWAYS, *(name for name in leaves() if name in varying and name not in ALWAYS))
