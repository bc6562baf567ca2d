"""A column of a per-epoch table as a metric, for claims and for ``compare``: one number per run.

A run fails in it if it diverged; one that merely did not learn has its measured value and counts as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnexp.claim_grammar import TableMetric
from bnexp.comparison.metrics import DIVERGENCE, Metric, choosers, metric_of
from bnexp.comparison.selection import Member, Outcome
from bnexp.errors import UsageError
from bnexp.metric_words import no_column, no_label, no_table, no_value, still_free
from bnexp.plan import run_id
from bnexp.results import Results, with_derived
from bnexp.spec import show

Asked = str | TableMetric  # a column of runs.csv, or of a per-epoch table

TABLE_CHOOSERS = tuple(  # what chooses for a number that is no metric: it must not choose for itself
    f"{split}_loss{suffix}" for split in ("val", "fit", "train") for suffix in ("", "_population", "_batch")
)
_SHOWN = 12  # values of a label that a message lists


def column_metric(results: Results, asked: TableMetric) -> Metric:
    """How a column is compared: curves as the metrics of runs.csv, the others on the scale that training wrote down."""
    known = metric_of(asked.column) if asked.table == "curves" else None
    if known is not None:
        return replace(known, failing=DIVERGENCE)
    logged = asked.column in results.log_columns(asked.table)
    # No way is better: a pair with a diverged run does not tell which side did better.
    return Metric(f"{asked.table}.{asked.column}", "log" if logged else "raw", False, DIVERGENCE, directed=False)


def choosers_of(asked: Asked) -> tuple[str, ...]:
    """The metrics that may choose a knob for this one, best first (rule 7)."""
    name = asked if isinstance(asked, str) else asked.column
    return choosers(name) if metric_of(name) and (isinstance(asked, str) or asked.table == "curves") else TABLE_CHOOSERS


def has_values(runs: Iterable[Outcome], name: str) -> bool:
    """Whether any run has the metric."""
    return any(not math.isnan(run.values.get(name, math.nan)) for run in runs)


# --- values -----------------------------------------------------------------------------------------------------------


def with_column(members: Sequence[Member], results: Results, asked: TableMetric) -> tuple[tuple[Member, ...], str]:
    """The members, their runs with the column's number under the metric's name; why there is none."""
    name, axes = column_metric(results, asked).name, results.spec.axes
    by_run, why_not = _reduced(results, asked)

    def measured(member: Member) -> Member:
        runs = {}
        for seed, run in member.runs.items():
            value = math.nan if run.diverged else by_run.get(run_id(member.setting, axes, seed), math.nan)
            runs[seed] = replace(run, values={**run.values, name: value})
        return replace(member, runs=runs)

    return tuple(map(measured, members)), why_not


def _reduced(results: Results, asked: TableMetric) -> tuple[dict[str, float], str]:
    """One number per run id: over the epochs with a value, or at one epoch; or why there is none."""
    frame = results.table(asked.table)
    if frame is None:
        return {}, f"no {asked.table}.csv was recorded"
    frame = with_derived(frame)
    absent = [name for name in (asked.column, *asked.labels) if name not in frame.columns]
    if absent or not pd.api.types.is_numeric_dtype(frame[asked.column]):
        return {}, f"{asked.table}.csv has no column of numbers {absent[0] if absent else asked.column}"
    for label, value in asked.labels.items():
        frame = frame[_is(frame[label], show(value))]
    frame = frame[["run", "epoch", asked.column]]
    if asked.epoch is not None:
        frame = frame[frame["epoch"] == asked.epoch]
    if frame.duplicated(["run", "epoch"]).any():
        return {}, f"several rows of {asked.table}.csv for a run and epoch: the metric names too few labels"
    # An epoch at which no run has a value was not asked for one (gradient_norm at the start); elsewhere a missing one
    # is not a number, and so is what is made of it: never an older epoch's value, never a mean over fewer epochs.
    frame = frame[frame.groupby("epoch")[asked.column].transform("count") > 0].sort_values("epoch", kind="stable")
    over = asked.over or "last"
    found = {str(run): values.to_numpy(dtype=float) for run, values in frame.groupby("run")[asked.column]}
    return {run: _over_epochs(values, over) for run, values in found.items()}, ""


def _over_epochs(values: NDArray[np.float64], over: str) -> float:
    """One number of a run's values in the order of epochs; nan if one that counts is not a number."""
    if over == "last":
        return float(values[-1])
    if over == "mean":
        return float(values.mean())
    return float(values.max() if over == "max" else values.sum())


def _is(column: pd.Series, value: str) -> pd.Series:
    """Which rows of a label column have a value, whether pandas read it as numbers or as text."""
    if not pd.api.types.is_numeric_dtype(column):
        return column == value
    try:
        return column == float(value)
    except ValueError:
        return column != column


# --- what was recorded ------------------------------------------------------------------------------------------------


def check_column(results: Results, asked: TableMetric, members: Sequence[Member]) -> None:
    """Raise UsageError unless the metric picks at most one number per run and epoch, and some run here has its row."""
    tables = results.tables
    if asked.table not in tables:
        raise UsageError(f"metric: {no_table(asked.table, tables)}")
    frame = results.table(asked.table)
    assert frame is not None  # it is one of the tables
    frame = with_derived(frame)
    written = results.labels(asked.table)
    labels = _labels(frame) if written is None else written
    columns = [name for name in frame.columns if name not in ("run", "epoch", *labels) and _is_number(frame[name])]
    if not len(frame):
        raise UsageError(f"metric: {asked.table}.csv has no rows here: nothing was measured")
    if asked.column not in columns:
        raise UsageError(f"metric: {no_column(asked.column, asked.table, columns)}")
    for name in asked.labels:
        if name not in labels:
            raise UsageError(f"metric: {name}: {no_label(name, asked.table, labels)}")
    axes = results.spec.axes
    here = {run_id(member.setting, axes, seed) for member in members for seed in member.runs}
    _check_rows(frame[frame["run"].isin(here)], asked, labels)


def _check_rows(frame: pd.DataFrame, asked: TableMetric, labels: Sequence[str]) -> None:
    """The labels asked for, in the table's order, and the epoch have rows; the others have one value there."""
    wanted = {name: asked.labels[name] for name in labels if name in asked.labels}
    if asked.epoch is not None:
        wanted["epoch"] = asked.epoch
    for name, value in wanted.items():
        rows = frame[_is(frame[name], show(value))]
        if not len(rows):
            where = f"in {asked.table}.csv"
            raise UsageError(f"metric: {name}: {no_value(name, show(value), _values(frame[name]), where)}")
        frame = rows
    free = {name: values for name in labels if name not in wanted and len(values := _values(frame[name])) > 1}
    if free:
        raise UsageError(f"metric: {still_free(free)}")


def _labels(frame: pd.DataFrame) -> tuple[str, ...]:
    """The label columns: those after run and epoch that tell their rows apart, and all up to the last with text."""
    names = [str(name) for name in frame.columns if name not in ("run", "epoch")]
    count = max((place for place, name in enumerate(names, start=1) if not _is_number(frame[name])), default=0)
    while count < len(names) and frame.duplicated(["run", "epoch", *names[:count]]).any():
        count += 1
    return tuple(names[:count])


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _values(column: pd.Series) -> list[str]:
    """The values of a label as text, in the order of their rows, long lists cut."""
    found = [value if isinstance(value, str) else f"{value:.9g}" for value in column.dropna().unique()]
    given = [text for text in found if text]
    return given if len(given) <= _SHOWN else [*given[:_SHOWN], f"… ({len(given)})"]
