"""How fast: steps until the training loss is as low as the baseline's last one, seed by seed (STATISTICS rule 9).

Each seed has its own target, the final training loss of its baseline. The loss is that of all training rows where it
was recorded at three epochs or more (``fit_every``), else the mean over each epoch's minibatches; between recorded
epochs it is taken to fall log-linearly. Steps are epochs times minibatches per epoch.

A run that never gets there is censored: it has the worst rank, and the speed-up is a median (rule 5). For a fixed
threshold all runs are censored at one budget: the mean of min(steps, budget) and how many reached it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnexp.comparison.entries import Entry, rows_of, target_of
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.metrics import Failing, Metric
from bnexp.comparison.rows import Row, joined
from bnexp.comparison.selection import Runs
from bnexp.errors import UsageError, did_you_mean
from bnexp.results import Results

FEWEST_POINTS = 3  # recorded epochs that make a curve: fit_loss at the first and last alone is none
CENSORED = Failing(True, "did not get there", "got there")
STEPS = Metric("steps", "log", False, CENSORED)
RESTRICTED = Metric("steps", "raw", False, Failing(False, "", ""))  # a run that never gets there counts the budget
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # epochs and losses


@dataclass(frozen=True)
class Threshold:
    """``COLUMN <= NUMBER`` (or ``>=``), a column of curves.csv."""

    column: str
    falls: bool
    number: float

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.column} {'<=' if self.falls else '>='} {self.number:g}"


@dataclass(frozen=True)
class Speed:
    """Steps per setting. ``target`` says what is reached, ``unit`` what is counted.

    ``rows``: the estimate is of steps, and n_learned counts the runs that got there; the difference is the speed-up,
    the baseline's steps over the row's, or (with a ``budget``) the difference of min(steps, budget).
    """

    target: str
    unit: str
    budget: float | None
    rows: tuple[Row, ...]
    note: str = ""


# --- the baseline's own final loss ------------------------------------------------------------------------------------


def speed_of(
    results: Results, entries: Sequence[Entry], seeds: Sequence[int], baseline: Mapping[str, str]
) -> Speed | None:
    """Speed-ups of every entry that has a baseline; None where there are no curves to read them from."""
    column, note = _loss_column(results)
    if not column:
        return None
    clock, by_values = _Clock(results, column), {tuple(entry.setting.values()): entry for entry in entries}
    timed, targets = [], []
    for entry in entries:
        partner = by_values.get(target_of(entry.setting, baseline))
        if partner is not None:
            timed.append(replace(entry, runs=_timed(entry.runs, partner.runs, clock), shares=None))
            targets.append(partner.runs)
    rows = tuple(_paired_only(row, seeds) for row in rows_of(timed, (), STEPS, baseline))
    if all(row.difference is None for row in rows):
        return None
    at_once = [_at_once(entry.runs, clock) for entry in timed]
    rows = tuple(_finished(*each) for each in zip(rows, targets, at_once, strict=True))
    return Speed(f"{column} as low as the last one of its seed's baseline", clock.unit, None, rows, note)


def _paired_only(row: Row, seeds: Sequence[int]) -> Row:
    """The row without the seeds of which a side has not finished."""
    missing = len(seeds) - row.n
    note = f"{missing} seeds have not finished on both sides" if missing else ""
    return replace(row, n_missing=missing, note=joined(row.note, note))


def _at_once(runs: Runs, clock: _Clock) -> int:
    return sum(clock.at_once(run.run, run.values[STEPS.name]) for run in runs.values())


def _finished(row: Row, baseline: Runs, at_once: int) -> Row:
    """The row with a speed-up in place of a ratio of steps, and what must be said of its targets."""
    lost = sum(run.diverged for run in baseline.values())
    idle = sum(not run.learned for run in baseline.values()) - lost
    note = joined(
        row.note,
        f"{at_once} of {row.n} got there before the first reading: their steps are at most these" if at_once else "",
        f"the baseline diverged in {lost} of {len(baseline)}: no target there, ranked slowest" if lost else "",
        f"the baseline did not learn in {idle} of {len(baseline)}: its last loss is no hard target" if idle else "",
    )
    # Steps to a target that does not exist are no number to show.
    estimate = None if lost else row.estimate
    return replace(row, difference=_inverted(row.difference), effect=None, estimate=estimate, note=note)


def _loss_column(results: Results) -> tuple[str, str]:
    """What the training loss is read from, and what must be said of it."""
    frame = results.table("curves")
    if frame is None:
        return "", ""
    for column in ("fit_loss", "train_loss"):
        if column in frame and frame.loc[frame[column].notna(), "epoch"].nunique() >= FEWEST_POINTS:
            rough = "the mean over each epoch's minibatches; fit_every: 1 records that of all training rows"
            return column, rough if column == "train_loss" else ""
    return "", ""


class _Clock:
    """The curves of a column by run, and how many steps an epoch has."""

    def __init__(self, results: Results, column: str) -> None:
        frame = results.table("curves")
        assert frame is not None
        frame = frame[["run", "epoch", column]].dropna()
        self.curves: dict[str, Curve] = {
            str(run): (rows["epoch"].to_numpy(dtype=float), rows[column].to_numpy(dtype=float))
            for run, rows in frame.groupby("run", sort=False)
        }
        self.first = float(frame["epoch"].min()) if len(frame) else 0.0
        self.per_epoch = results.steps_per_epoch()
        self.unit = "steps" if self.per_epoch else "epochs"

    def steps(self, run: str, target: float, falls: bool = True) -> float:
        """Steps until the run's column is at the target; infinite if it never is."""
        if run not in self.curves:
            return math.inf
        return first_at(*self.curves[run], target, falls) * self.per_epoch.get(run, 1)

    def at_once(self, run: str, steps: float) -> bool:
        """Whether the run was there at its first reading already, so that its steps are at most these."""
        return self.first > 0 and steps == self.first * self.per_epoch.get(run, 1)

    def budget(self, run: str) -> float:
        """Steps that the run was to make, as far as it was recorded."""
        return float(self.curves[run][0][-1]) * self.per_epoch.get(run, 1) if run in self.curves else math.nan

    def last(self, run: str) -> float:
        """The run's last value; nan for a run without one."""
        return float(self.curves[run][1][-1]) if run in self.curves else math.nan


def first_at(epochs: NDArray[np.float64], values: NDArray[np.float64], target: float, falls: bool = True) -> float:
    """The first epoch, with its fraction, at which the values are at the target; infinite if they never are.

    Between two recorded epochs positive values move along a straight line on the log scale.
    """
    there = np.flatnonzero(values <= target if falls else values >= target)
    if not len(there):
        return math.inf
    at = int(there[0])
    if at == 0 or values[at] == target or min(target, values[at], values[at - 1]) <= 0 or math.isinf(values[at - 1]):
        return float(epochs[at])
    part = math.log(values[at - 1] / target) / math.log(values[at - 1] / values[at])
    return float(epochs[at - 1] + part * (epochs[at] - epochs[at - 1]))


def _timed(runs: Runs, baseline: Runs, clock: _Clock) -> Runs:
    """The runs with their steps as the only value.

    Where the baseline diverged there is no target: it is never there itself, and a run that did not diverge is.
    """
    found = {}
    for seed, run in runs.items():
        partner = baseline.get(seed)
        if partner is None or (not partner.diverged and math.isnan(clock.last(partner.run))):
            continue
        steps = clock.budget(run.run) if partner.diverged else clock.steps(run.run, clock.last(partner.run))
        arrived = math.isfinite(steps) and not run.diverged
        found[seed] = replace(
            run, learned=arrived, diverged=not arrived, values={STEPS.name: steps if arrived else math.nan}
        )
    return found


def _inverted(ratio: Estimate | None) -> Estimate | None:
    """Steps of the row over the baseline's, turned into a speed-up."""
    if ratio is None:
        return None

    def turned(value: float | None) -> float | None:
        if value is None or math.isnan(value):
            return value
        return 0.0 if math.isinf(value) else 1 / value if value else math.inf

    kind = "median speed-up" if ratio.kind.startswith("median") else "speed-up (geometric mean)"
    center = turned(ratio.center)
    assert center is not None
    return replace(ratio, center=center, low=turned(ratio.high), high=turned(ratio.low), kind=kind)


# --- a fixed threshold ------------------------------------------------------------------------------------------------


def parse_threshold(text: str, results: Results) -> Threshold:
    """``train_loss<=0.1``; raise UsageError for what is no threshold, or no column of curves.csv."""
    for sign in ("<=", ">="):
        column, found, number = text.partition(sign)
        if found:
            break
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not found or not math.isfinite(value):
        raise UsageError(f"--until {text}: a column of curves.csv and a number are expected, such as train_loss<=0.1")
    frame, column = results.table("curves"), column.strip()
    known = (
        [str(name) for name in frame.columns if name != "epoch" and (_is_number(frame[name]) or not len(frame))]
        if frame is not None
        else []
    )
    if column not in known:
        raise UsageError(f"--until {text}: no column {column!r} in curves.csv{did_you_mean(column, known)}")
    assert frame is not None
    points, epochs = frame.loc[frame[column].notna(), "epoch"].nunique(), frame["epoch"].max()
    if len(frame) and points < min(FEWEST_POINTS, epochs):
        ways = "fit_every: 1 records more; train_loss is there at every epoch" if column.startswith("fit_") else ""
        raise UsageError(
            f"--until {text}: {column} is recorded at {points} epochs, which is no curve; {ways}".rstrip("; ")
        )
    if "accuracy" in column and not 0 <= value <= 1:
        raise UsageError(f"--until {text}: an accuracy is a share, from 0 to 1")
    return Threshold(column, sign == "<=", value)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def steps_until(
    results: Results, entries: Sequence[Entry], seeds: Sequence[int], baseline: Mapping[str, str], until: Threshold
) -> Speed | None:
    """min(steps, budget) of every entry, the budget being the smallest of those that the runs had; None without one."""
    clock = _Clock(results, until.column)
    ends = [clock.budget(run.run) for entry in entries for run in entry.runs.values() if not run.diverged]
    budget = min((end for end in ends if not math.isnan(end)), default=0.0)
    if not budget:
        return None
    timed = [replace(e, runs=_restricted(e.runs, clock, until, budget), shares=None) for e in entries]
    lost = [sum(run.diverged for run in entry.runs.values()) for entry in entries]
    rows = rows_of(timed, seeds, RESTRICTED, baseline)
    return Speed(until.text, clock.unit, budget, tuple(map(_with_lost, rows, lost)))


def _with_lost(row: Row, lost: int) -> Row:
    note = joined(row.note, f"{lost} of {row.n} diverged and count the whole budget" if lost else "")
    return replace(row, n_diverged=lost, note=note)


def _restricted(runs: Runs, clock: _Clock, until: Threshold, budget: float) -> Runs:
    """The runs with min(steps, budget); a run that diverged, even after it was there, counts the whole budget."""
    found = {}
    for seed, run in runs.items():
        steps = math.inf if run.diverged else clock.steps(run.run, until.number, until.falls)
        value = {RESTRICTED.name: min(steps, budget)}
        found[seed] = replace(run, learned=steps <= budget, diverged=False, values=value)
    return found
