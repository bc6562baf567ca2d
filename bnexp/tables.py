"""What the CSVs look like: which columns a study has, how numbers are written, how rows are quoted.

UTF-8, LF, comma, ``%.9g`` (float32 round-trips), empty for what does not exist, ``nan`` and ``inf`` for what does.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from bnexp.arrays import on_cpu
from bnexp.layout import OUTCOMES, Column, Table
from bnexp.measures import MEASURES, Record
from bnexp.plan import Run
from bnexp.recording import Epoch, Outcome
from bnexp.spec import Spec
from bnexp.untrusted import harmless

_METRIC_MEANING = {
    "train": "mean over the epoch's minibatches, each taken before its step, by batch statistics",
    "fit": "all training rows with the labels trained on, at epoch 0, the last epoch and every fit_every",
    "val": "validation rows",
    "test": "test rows",
}


def curve_table(tasks: Iterable[str], evaluate: Sequence[str]) -> Table:
    """curves.csv of a study: losses and accuracies (classification) or R² (regression), by each kind of statistics."""
    tasks = set(tasks)
    scores = [name for task, name in (("classification", "accuracy"), ("regression", "r2")) if task in tasks]
    columns: list[Column] = []
    for kind in ["train", *evaluate]:
        suffix = "" if kind in ("train", "running") else f"_{kind}"
        for split in ["train"] if kind == "train" else ["fit", "val", "test"]:
            meaning = _METRIC_MEANING[split] + (f", by {kind} statistics" if suffix else "")
            columns.append(Column(f"{split}_loss{suffix}", "nats or squared SDs", meaning, log=True))
            columns += [Column(f"{split}_{score}{suffix}", "1", meaning) for score in scores]
    return Table("curves", (), tuple(columns))


def study_tables(spec: Spec, tasks: Iterable[str]) -> dict[str, Table]:
    """Every per-epoch table of a study, by name."""
    tables = [curve_table(tasks, spec.study.evaluate)._replace(every=spec.study.evaluate_every)]
    for name, options in spec.measure.items():
        tables += (table._replace(every=options["every"]) for table in MEASURES[name].tables)
    return {table.name: table for table in tables}


def header(table: Table) -> str:
    """The header line of a per-epoch table."""
    return line(["run", "epoch", *(c.name for c in table.labels), *table.names])


def run_values(run: Run, columns: Sequence[str]) -> list[str]:
    """A run's seed and its values for the setting columns, as text."""
    return [str(run.seed), *(harmless(run.setting.shown(column)) for column in columns)]


def outcome_header(curves: Table) -> list[str]:
    """The outcome columns of runs.csv."""
    return [*OUTCOMES, *curves.names]


def outcome_values(outcome: Outcome, curves: Table) -> list[str]:
    """A run's values for the outcome columns, as text."""
    return [
        outcome.status,
        "" if outcome.diverged_epoch is None else str(outcome.diverged_epoch),
        str(outcome.learned).lower(),
        str(outcome.n_parameters),
        outcome.init_id,
        outcome.order_id,
        *(number(outcome.metrics[name]) if name in outcome.metrics else "" for name in curves.names),
    ]


def encode(
    epoch: Epoch, ids: Sequence[str], shard_of_run: Sequence[int], tables: Mapping[str, Table]
) -> list[dict[str, str]]:
    """The rows of one epoch as CSV text, one dict (table name → lines) per shard of the stack."""
    prepared = []
    for record in epoch.records:
        labels = f",{epoch.number}," + "".join(f"{label}," for label in record.labels)
        template = labels.replace("%", "%%") + _template(tables[record.table].names, record.columns)
        prepared.append((record.table, template, record.present, _numbers(record)))
    lines: list[dict[str, list[str]]] = [{} for _ in range(max(shard_of_run) + 1)]
    # Run by run: whoever reads the rows then finds those of a run together.
    for index, run_id in enumerate(ids):
        start, own = line([run_id])[:-1], lines[shard_of_run[index]]
        for table, template, present, numbers in prepared:
            if present is None or present[index]:
                own.setdefault(table, []).append(start + template % tuple(numbers[index]))
    return [{name: "".join(rows) for name, rows in shard.items()} for shard in lines]


def _numbers(record: Record) -> list[list[float]]:
    # Adding zero turns −0 into 0: its sign can depend on neighbours that need an affine transform.
    numbers: list[list[float]] = (on_cpu(record.values).astype(np.float64) + 0.0).tolist()
    return numbers


@lru_cache(maxsize=256)
def _template(names: tuple[str, ...], present: tuple[str, ...]) -> str:
    """A format string for the columns that exist; it takes the values in the order of ``present``."""
    if [name for name in names if name in present] != list(present):
        raise ValueError(f"columns {present} are not in the order of their table {names}")
    return ",".join("%.9g" if name in present else "" for name in names) + "\n"


def number(value: float) -> str:
    """A number as the CSVs write it."""
    return f"{value + 0.0:.9g}"


def line(fields: Sequence[Any]) -> str:
    """One CSV line, quoted where needed, with its newline."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(fields)
    return buffer.getvalue()


def first_field(row: str) -> str:
    """The run id at the start of a CSV line."""
    if row.startswith('"'):
        return str(next(csv.reader([row]))[0])
    return row[: row.index(",")]
