"""The claims of a study with both sides' numbers: settings, metric, tuned knob, a − b. Listed, not judged.

Failed runs follow rule 5 for metrics of runs.csv. In a metric of another table a run failed if it diverged; one that
merely did not learn has its measured value and counts as it is. For ``largest``/``smallest`` a seed failed if its runs
pass at no value of the knob.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bnexp.claims import Question, Side, metric_text, resolve_claims, scale_of
from bnexp.comparison.choice import choose, in_order
from bnexp.comparison.compared import costs_of, counts_text, extra_of, flat
from bnexp.comparison.intervals import share_estimate
from bnexp.comparison.metrics import Metric, choosers, metric_of
from bnexp.comparison.rows import NO_EXTRA, Extra, Row, make_row
from bnexp.comparison.selection import Outcome, Runs, cells_of, members_of, on_axes
from bnexp.plan import run_id
from bnexp.results import Results, with_derived
from bnexp.spec import KnobMetric, Setting, TableMetric, show

TABLE_CHOOSERS = tuple(  # what chooses for a number that is no metric: it must not choose for itself
    f"{split}_loss{suffix}" for split in ("val", "fit", "train") for suffix in ("", "_population", "_batch")
)
_TESTS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True)
class ClaimRow:
    """One question of a claim with its two sides; ``a.difference`` is a − b, a ratio on the log scale.

    ``tuned_by`` is the metric that chose the knob. ``n_unfinished`` of the ``n_runs`` runs of both sides are not
    finished. In a row of ``largest``/``smallest``, ``n_learned`` counts the seeds that pass at some value.
    """

    study: str
    question: Question
    metric: Metric
    a: Row
    b: Row
    tuned_by: str
    n_runs: int
    n_unfinished: int
    notes: tuple[str, ...]
    versions: str


def list_claims(results: Results) -> tuple[ClaimRow, ...]:
    """Every question of the spec's claims, in their order."""
    questions = resolve_claims(results.spec)
    if not questions:
        return ()
    reader = _Reader(results)
    return tuple(_row(question, reader) for question in questions)


def _row(question: Question, reader: _Reader) -> ClaimRow:
    results, asked = reader.results, question.claim.metric
    seeds, sides = results.spec.seeds, (question.a, question.b)
    metric, notes = reader.metric(asked)
    grids = [reader.runs(side, asked, metric) for side in sides]
    n_runs = len(seeds) * sum(map(len, grids))
    unfinished = n_runs - sum(len(runs) for grid in grids for runs in grid.values())
    tuned_by = ""
    if isinstance(asked, KnobMetric):
        found = [(_ends(grid, asked, metric), NO_EXTRA) for grid in grids]
    elif question.knob is not None:
        found, tuned_by, why_not = _tuned(grids, question.knob, asked)
        notes += why_not
    else:
        found = [(grid[""], NO_EXTRA) for grid in grids]
    (runs_a, extra_a), (runs_b, extra_b) = found
    counted_a, counted_b = _as_counted(runs_a, asked), _as_counted(runs_b, asked)
    a = make_row(_fields(question, question.a), counted_a, seeds, metric, counted_b, False, extra_a)
    b = make_row(_fields(question, question.b), counted_b, seeds, metric, None, True, extra_b)
    a, b = _in_words(a, asked, runs_a), _in_words(b, asked, runs_b)
    versions = results.versions
    return ClaimRow(results.name, question, metric, a, b, tuned_by, n_runs, unfinished, tuple(notes), versions)


def _fields(question: Question, side: Side) -> dict[str, str]:
    return {**question.where, **question.each, **side.fields}


def _as_counted(runs: Runs, asked: str | TableMetric | KnobMetric) -> Runs:
    """The runs, those that failed for this metric marked as rule 5 wants them."""
    if isinstance(asked, TableMetric):
        return {seed: replace(run, learned=not run.diverged) for seed, run in runs.items()}
    if isinstance(asked, KnobMetric):  # a run without a value is not one whose value was never recorded
        return {seed: replace(run, diverged=not run.learned) for seed, run in runs.items()}
    return runs


def _in_words(row: Row, asked: str | TableMetric | KnobMetric, runs: Runs) -> Row:
    """The row with what truly learned and diverged, and what "did not learn" means for this metric."""
    if isinstance(asked, str) or not runs:
        return row
    failed, passed = ("diverged", "did not diverge") if isinstance(asked, TableMetric) else ("had none", "had one")
    learned = sum(run.learned for run in runs.values())
    return replace(
        row,
        n_learned=learned,
        n_diverged=sum(run.diverged for run in runs.values()),
        learned_share=share_estimate(learned, len(runs), "share learned"),
        of_learned=row.of_learned and replace(row.of_learned, kind=row.of_learned.kind.replace("learned", passed)),
        note=row.note.replace("did not learn", failed),
    )


def claim_records(row: ClaimRow) -> list[dict[str, Any]]:
    """Three flat records, side a, side b and their difference, for JSON and CSV; what is not finite is None."""
    question, claim = row.question, row.question.claim
    shared = {"study": row.study, "metric": metric_text(claim.metric), "table": f"claim {question.number}"}
    shared |= {"claim": claim.claim, "expect": claim.expect, "within": claim.within}
    records = []
    for name, side in (("a", row.a), ("b", row.b)):
        record = {**shared, "side": name, **side.setting, "n": side.n, "n_learned": side.n_learned}
        record |= {"n_diverged": side.n_diverged, "n_missing": side.n_missing, **flat("", side.estimate)}
        record |= flat("learned_share", side.learned_share) | flat("of_learned", side.of_learned)
        record |= {"tuned_by": row.tuned_by, "chosen": counts_text(side), "note": side.note, "versions": row.versions}
        records.append(record)
    both = {**question.where, **question.each}
    difference = {**shared, "side": "difference", **both, "n": row.a.difference.n if row.a.difference else 0}
    difference |= {**flat("", row.a.difference), "paired": row.a.paired, "correlation": row.a.correlation}
    difference |= {"p_sign_flip": row.a.p_sign_flip, "p_sign": row.a.p_sign, "p_mcnemar": row.a.p_mcnemar}
    difference |= {"tuned_by": row.tuned_by, "note": "; ".join(all_notes(row)), "versions": row.versions}
    return [*records, difference]


def all_notes(row: ClaimRow) -> tuple[str, ...]:
    """What holds for both sides: no value, no choice, runs that are not finished."""
    missing = f"{row.n_unfinished} of {row.n_runs} runs are not finished" if row.n_unfinished else ""
    return (*row.notes, *([missing] if missing else []))


# --- runs and their values --------------------------------------------------------------------------------------------


class _Reader:
    """The finished runs of each setting, with the values of the metrics that claims name."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.axes = results.spec.axes
        self.members = members_of(results)
        cells, _ = cells_of(self.members, self.axes)
        self.cells = {tuple(cell.setting.values()): cell.runs for cell in cells}
        self._tables: dict[str, tuple[dict[tuple[tuple[str, ...], int], float], str]] = {}

    def metric(self, asked: str | TableMetric | KnobMetric) -> tuple[Metric, list[str]]:
        """How the claim's metric is compared; a note where nothing is recorded under its name."""
        if isinstance(asked, KnobMetric):
            end = "largest" if asked.largest else "smallest"
            return Metric(f"{end} {asked.knob}", scale_of(asked) or "raw", asked.largest is not None), []
        if isinstance(asked, TableMetric):
            why_not = self._values(asked)[1]
            known = metric_of(asked.column) if asked.table == "curves" else None
            logged = asked.column in self.results.log_columns(asked.table)
            # What diverges grows without bound: where no way is better, a diverged run ranks above every number.
            return known or Metric(asked.column, "log" if logged else "raw", False), [why_not] if why_not else []
        known = metric_of(asked)
        return known or Metric(asked, "raw", True), [] if known else [f"no such metric: {asked}"]

    def runs(self, side: Side, asked: str | TableMetric | KnobMetric, metric: Metric) -> dict[str, Runs]:
        """The finished runs of one side by value of the knob; those of norm none at either placement."""
        found: dict[str, Runs] = {}
        values = self._values(asked)[0] if isinstance(asked, TableMetric) else {}
        for value, setting in side.settings.items():
            key = self._key(setting)
            runs = self.cells.get(key, {})
            if isinstance(asked, TableMetric):
                runs = {
                    seed: replace(run, values={**run.values, metric.name: values.get((key, seed), math.nan)})
                    for seed, run in runs.items()
                }
            found[value] = runs
        return found

    def _key(self, setting: Setting) -> tuple[str, ...]:
        return tuple(on_axes({leaf: setting.shown(leaf) for leaf in (*self.axes, "norm")}, self.axes).values())

    def _values(self, asked: TableMetric) -> tuple[dict[tuple[tuple[str, ...], int], float], str]:
        """The metric of each setting and seed, read once per metric; why there is none."""
        name = repr(asked)
        if name not in self._tables:
            by_run, why_not = _reduced(self.results, asked)
            found: dict[tuple[tuple[str, ...], int], float] = {}
            for member in self.members:
                key = self._key(member.setting)
                for seed, run in member.runs.items():
                    value = by_run.get(run_id(member.setting, self.axes, seed), math.nan)
                    found.setdefault((key, seed), math.nan if run.diverged else value)
            self._tables[name] = found, why_not
        return self._tables[name]


def _reduced(results: Results, asked: TableMetric) -> tuple[dict[str, float], str]:
    """One number per run id from a per-epoch table: over the epochs with a value, or at one epoch; or why not."""
    frame = results.table(asked.table)
    if frame is None:
        return {}, f"no {asked.table}.csv was recorded"
    frame = with_derived(frame)
    absent = [name for name in (asked.column, *asked.labels) if name not in frame.columns]
    if absent or not pd.api.types.is_numeric_dtype(frame[asked.column]):
        return {}, f"{asked.table}.csv has no column of numbers {absent[0] if absent else asked.column}"
    for label, value in asked.labels.items():
        frame = frame[_is(frame[label], show(value))]
    frame = frame[["run", "epoch", asked.column]].dropna()
    if asked.epoch is not None:
        frame = frame[frame["epoch"] == asked.epoch]
    if frame.duplicated(["run", "epoch"]).any():
        return {}, f"several rows of {asked.table}.csv for a run and epoch: the claim names too few labels"
    grouped = frame.sort_values("epoch", kind="stable").groupby("run")[asked.column]
    reduced = grouped.agg(asked.over or "last")
    return {str(run): float(value) for run, value in reduced.items()}, ""


def _is(column: pd.Series, value: str) -> pd.Series:
    """Which rows of a label column have a value, whether pandas read it as numbers or as text."""
    if not pd.api.types.is_numeric_dtype(column):
        return column == value
    try:
        return column == float(value)
    except ValueError:
        return column != column


def _ends(grid: Mapping[str, Runs], asked: KnobMetric, metric: Metric) -> Runs:
    """Per seed, the largest (smallest) value of the knob at which its run passes; seeds with an unfinished run wait."""
    order = in_order(list(grid))
    if asked.largest is not None:
        order.reverse()
    found = {}
    for seed in sorted(set.intersection(*(set(runs) for runs in grid.values()))):
        passing = [value for value in order if _passes(grid[value][seed], asked)]
        run = grid[passing[0] if passing else order[0]][seed]
        value = float(passing[0]) if passing else math.nan
        found[seed] = Outcome(seed, bool(passing), False, run.init_id, run.order_id, {metric.name: value})
    return found


def _passes(run: Outcome, asked: KnobMetric) -> bool:
    """Whether a run learned, or its column is on the right side of the number; one without a value is not."""
    if asked.threshold is None:
        return run.learned
    column, sign, number = asked.threshold
    return not run.diverged and _TESTS[sign](run.values.get(column, math.nan), number)


# --- the tuned knob ---------------------------------------------------------------------------------------------------


def _tuned(
    grids: Sequence[Mapping[str, Runs]], knob: str, asked: str | TableMetric
) -> tuple[list[tuple[Runs, Extra]], str, list[str]]:
    """Each side with every seed at the value that is best on the other seeds, what chose, and why not."""
    nothing: list[tuple[Runs, Extra]] = [({}, NO_EXTRA) for _ in grids]
    outcomes = [run for grid in grids for runs in grid.values() for run in runs.values()]
    if not outcomes:
        return nothing, "", []
    tuner = _tuner(grids, asked)
    if tuner is None:
        wanted = " or ".join(_choosers(asked)[:2])
        return nothing, "", [f"no choice of {knob}: no {wanted} was recorded, and test rows choose nothing"]
    same = in_order(list(grids[0])) == in_order(list(grids[1]))
    found: list[tuple[Runs, Extra]] = []
    for grid in grids:
        if not any(grid.values()):
            found.append(({}, NO_EXTRA))
            continue
        choice = choose({value: costs_of(runs, tuner) for value, runs in grid.items()})
        runs = {seed: grid[value][seed] for seed, value in choice.by_seed.items() if seed in grid[value]}
        found.append((runs, extra_of(choice, knob, "" if same else f"the other side has another grid of {knob}")))
    if any(any(grid.values()) and not runs for grid, (runs, _) in zip(grids, found, strict=True)):
        return found, tuner.name, [f"no choice of {knob}: the other seeds choose for each seed, so it takes two"]
    return found, tuner.name, []


def _choosers(asked: str | TableMetric) -> tuple[str, ...]:
    name = asked if isinstance(asked, str) else asked.column
    return choosers(name) if metric_of(name) and (isinstance(asked, str) or asked.table == "curves") else TABLE_CHOOSERS


def _tuner(grids: Sequence[Mapping[str, Runs]], asked: str | TableMetric) -> Metric | None:
    """The first metric that may choose (rule 7) and that some run of each side with runs has."""
    for name in _choosers(asked):
        if all(_has(grid, name) for grid in grids if any(grid.values())):
            return metric_of(name)
    return None


def _has(grid: Mapping[str, Runs], name: str) -> bool:
    runs: Iterable[Outcome] = (run for runs in grid.values() for run in runs.values())
    return any(not math.isnan(run.values.get(name, math.nan)) for run in runs)
