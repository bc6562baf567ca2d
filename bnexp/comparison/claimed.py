"""The claims of a study with both sides' numbers: settings, metric, tuned knob, a − b, and the verdict.

Failed runs follow rule 5 for metrics of runs.csv, and ``columns`` for those of other tables. For ``largest``/
``smallest`` a seed failed if its runs pass at no value of the knob.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bnexp.claim_grammar import KnobMetric, TableMetric
from bnexp.claims import Question, Side, resolve_claims, scale_of, wrong_margin
from bnexp.comparison.choice import in_order
from bnexp.comparison.columns import Asked, choosers_of, column_metric, has_values, with_column
from bnexp.comparison.entries import Entry
from bnexp.comparison.intervals import UNKNOWN, Bound
from bnexp.comparison.items import METRIC as ITEMS_METRIC
from bnexp.comparison.items import Shares, load_shares, shares_of, with_items
from bnexp.comparison.metrics import Failing, Metric, metric_of
from bnexp.comparison.rows import Row, make_row
from bnexp.comparison.selection import Outcome, Runs, cells_of, members_of, on_axes
from bnexp.comparison.tuning import at_best
from bnexp.comparison.verdicts import Verdict, corrected, judge, open_pairs, ranked
from bnexp.results import Results
from bnexp.spec import Setting

Grid = Mapping[str, Entry]  # value of the knob -> runs there
ENDS = Failing(True, "had none", "had one")  # of seeds, for largest and smallest
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
    verdict: Verdict


def list_claims(results: Results) -> tuple[ClaimRow, ...]:
    """Every question of the spec's claims, in their order, judged together."""
    questions = resolve_claims(results.spec)
    if not questions:
        return ()
    reader = _Reader(results)
    rows = [_row(question, reader) for question in questions]
    verdicts = corrected([row.verdict for row in rows])
    return tuple(replace(row, verdict=verdict) for row, verdict in zip(rows, verdicts, strict=True))


def _row(question: Question, reader: _Reader) -> ClaimRow:
    results, asked = reader.results, question.claim.metric
    seeds: Sequence[int] = results.spec.seeds
    sides = (question.a, question.b)
    metric, notes = reader.metric(asked)
    grids = [reader.grid(side, asked) for side in sides]
    n_runs = len(seeds) * sum(map(len, grids))
    unfinished = n_runs - sum(len(_runs(grid)) for grid in grids)
    tuned_by = ""
    if isinstance(asked, KnobMetric):
        found = [Entry({}, _ends(grid, asked, metric)) for grid in grids]
        notes += _unrecorded(grids, asked)
    elif question.knob is not None:
        found, tuned_by, why_not = _tuned(grids, question.knob, asked)
        notes += why_not
    else:
        found = [grid[""] for grid in grids]
    one, other = found
    # Where runs have finished but nothing was chosen among them, none is missing.
    asked_of = [() if _runs(grid) and not entry.runs else seeds for grid, entry in zip(grids, found, strict=True)]
    a = make_row(_fields(question, question.a), one.runs, asked_of[0], metric, other.runs, False, one.extra)
    b = make_row(_fields(question, question.b), other.runs, asked_of[1], metric, None, True, other.extra)
    a, b = with_items(a, one.shares, other.shares), with_items(b, other.shares, None)
    bounds: dict[int, Bound] = {}
    if isinstance(asked, KnobMetric):
        a, b = replace(a, n_diverged=0), replace(b, n_diverged=0)  # a seed without a value is no diverged run
        ends = [_at_end(row, grid, asked) for row, grid in zip((a, b), grids, strict=True)]
        notes += [note for name, seeds in zip("ab", ends, strict=True) if (note := _bound(name, len(seeds), asked))]
        bounds = _bounds(asked, *ends)
        if question.claim.expect == "equal":  # none is beyond the other end of the grid: how far is not known
            lost = {seed for row in (a, b) for seed, value in row.values.items() if math.isnan(value)}
            bounds |= dict.fromkeys(lost, UNKNOWN)
    versions = results.versions
    verdict = _verdict(question, metric, a, bounds)
    if verdict.test == "sign test" and (moving := open_pairs(question.claim, a, bounds)):
        a = replace(a, difference=ranked(a, moving))  # the interval that decided
    return ClaimRow(results.name, question, metric, a, b, tuned_by, n_runs, unfinished, tuple(notes), versions, verdict)


def _verdict(question: Question, metric: Metric, a: Row, bounds: Mapping[int, Bound]) -> Verdict:
    unfit = wrong_margin(question.claim, metric.scale)  # a table's scale is known only now
    return Verdict("undecided", f"within: {unfit}") if unfit else judge(question.claim, a, bounds)


def _at_end(row: Row, grid: Grid, asked: KnobMetric) -> set[int]:
    """The seeds that passed at the last value of the grid: beyond it they may pass too."""
    ends = [float(value) for value in grid]
    last = max(ends) if asked.largest is not None else min(ends)
    return {seed for seed, value in row.values.items() if value == last}


def _bounds(asked: KnobMetric, a: set[int], b: set[int]) -> dict[int, Bound]:
    """Which differences a − b are bounds: a largest value at the end of the grid may be larger, a smallest smaller."""
    grows, shrinks = (a, b) if asked.largest is not None else (b, a)
    return {seed: Bound(below=seed in shrinks, above=seed in grows) for seed in a | b}


def _bound(name: str, count: int, asked: KnobMetric) -> str:
    bound = "at least" if asked.largest is not None else "at most"
    seeds = f"{count} seed{'s' if count > 1 else ''}"
    return f"{name}: {seeds} at the end of the grid: {bound} this value" if count else ""


def _fields(question: Question, side: Side) -> dict[str, str]:
    return {**question.where, **question.each, **side.fields}


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
        self._cells: dict[str, tuple[dict[tuple[str, ...], Entry], str]] = {}

    def metric(self, asked: Asked | KnobMetric) -> tuple[Metric, list[str]]:
        """How the claim's metric is compared; a note where nothing is recorded under its name."""
        if isinstance(asked, KnobMetric):
            end = "largest" if asked.largest else "smallest"
            return Metric(f"{end} {asked.knob}", scale_of(asked) or "raw", asked.largest is not None, ENDS), []
        if isinstance(asked, TableMetric):
            why_not = self._measured(asked)[1]
            return column_metric(self.results, asked), [why_not] if why_not else []
        known = metric_of(asked)
        return known or Metric(asked, "raw", True), [] if known else [f"no such metric: {asked}"]

    def grid(self, side: Side, asked: Asked | KnobMetric) -> Grid:
        """The finished runs of one side by value of the knob; those of norm none at either placement."""
        cells = self._measured(asked)[0]
        return {value: cells.get(self._key(setting), Entry({}, {})) for value, setting in side.settings.items()}

    def _key(self, setting: Setting) -> tuple[str, ...]:
        return tuple(on_axes({leaf: setting.shown(leaf) for leaf in (*self.axes, "norm")}, self.axes).values())

    @cached_property
    def shares(self) -> Mapping[str, Shares]:
        """items.csv, read when it is first needed."""
        return load_shares(self.results)

    def _measured(self, asked: Asked | KnobMetric) -> tuple[dict[tuple[str, ...], Entry], str]:
        """The runs of each setting, a table read once per metric of it; why that has no values."""
        name = repr(asked) if isinstance(asked, TableMetric) or asked == ITEMS_METRIC else ""
        if name not in self._cells:
            members, why_not = self.members, ""
            if isinstance(asked, TableMetric):
                members, why_not = with_column(members, self.results, asked)
            cells, _ = cells_of(members, self.axes)
            shares = self.shares if asked == ITEMS_METRIC else {}
            entries = [Entry(cell.setting, cell.runs, shares=shares_of(cell.ids, shares)) for cell in cells]
            self._cells[name] = {tuple(entry.setting.values()): entry for entry in entries}, why_not
        return self._cells[name]


def _ends(grid: Grid, asked: KnobMetric, metric: Metric) -> Runs:
    """Per seed, the largest (smallest) value of the knob at which its run passes; seeds with an unfinished run wait."""
    order = in_order(list(grid))
    if asked.largest is not None:
        order.reverse()
    found = {}
    for seed in sorted(set.intersection(*(set(cell.runs) for cell in grid.values()))):
        if any(_lacks(cell.runs[seed], asked) for cell in grid.values()):
            continue
        passing = [value for value in order if _passes(grid[value].runs[seed], asked)]
        run = grid[passing[0] if passing else order[0]].runs[seed]
        value = float(passing[0]) if passing else math.nan
        # A seed without a value has failed as one that diverged has: its value exists nowhere.
        found[seed] = Outcome(seed, bool(passing), not passing, run.init_id, run.order_id, {metric.name: value})
    return found


def _lacks(run: Outcome, asked: KnobMetric) -> bool:
    """Whether a run that ended in the ordinary way has no value of the column that it should pass by."""
    return asked.threshold is not None and not run.diverged and math.isnan(run.values.get(asked.threshold[0], math.nan))


def _unrecorded(grids: Sequence[Grid], asked: KnobMetric) -> list[str]:
    names = [name for name, grid in zip("ab", grids, strict=True) if any(_lacks(run, asked) for run in _runs(grid))]
    column = asked.threshold[0] if asked.threshold else ""
    return (
        [f"{' and '.join(names)}: {column} was not recorded in every run; seeds without it are left out"]
        if names
        else []
    )


def _passes(run: Outcome, asked: KnobMetric) -> bool:
    """Whether a run learned, or its column is on the right side of the number; one without a value is not."""
    if asked.threshold is None:
        return run.learned
    column, sign, number = asked.threshold
    return not run.diverged and _TESTS[sign](run.values.get(column, math.nan), number)


# --- the tuned knob ---------------------------------------------------------------------------------------------------


def _tuned(grids: Sequence[Grid], knob: str, asked: Asked) -> tuple[list[Entry], str, list[str]]:
    """Each side with every seed at the value that is best on the other seeds, what chose, and why not."""
    nothing = [Entry({}, {}) for _ in grids]
    if not any(_runs(grid) for grid in grids):
        return nothing, "", []
    tuner = _tuner(grids, asked)
    if tuner is None:
        wanted = " or ".join(choosers_of(asked)[:2])
        return nothing, "", [f"no choice of {knob}: no {wanted} was recorded, and test rows choose nothing"]
    other = "" if in_order(list(grids[0])) == in_order(list(grids[1])) else "the other side"
    found = [_at_best(grid, tuner, knob, other) for grid in grids]
    if any(_runs(grid) and not entry.runs for grid, entry in zip(grids, found, strict=True)):
        return found, "", [f"no choice of {knob}: the other seeds choose for each seed, so it takes two"]
    return found, tuner.name, []


def _at_best(grid: Grid, tuner: Metric, knob: str, other_grid: str) -> Entry:
    if not _runs(grid):
        return Entry({}, {})
    runs = {value: cell.runs for value, cell in grid.items()}
    return at_best({}, runs, {value: cell.shares for value, cell in grid.items()}, tuner, knob, other_grid)


def _tuner(grids: Sequence[Grid], asked: Asked) -> Metric | None:
    """The first metric that may choose (rule 7) and that some run of each side with runs has."""
    ended = [runs for grid in grids if (runs := [run for run in _runs(grid) if not run.diverged])]
    for name in choosers_of(asked):
        if all(has_values(runs, name) for runs in ended):  # where all diverged, each is as good as any
            return metric_of(name)
    return None


def _runs(grid: Grid) -> list[Outcome]:
    return [run for cell in grid.values() for run in cell.runs.values()]
