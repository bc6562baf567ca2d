"""Results to comparisons: the story of ``bnexp compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bnexp.claim_grammar import TableMetric, leaf_of
from bnexp.claims import metric_text, table_metric
from bnexp.comparison.columns import Asked, check_column, choosers_of, column_metric, has_values, with_column
from bnexp.comparison.entries import Entry, rows_of
from bnexp.comparison.factorial import Effects, effects_of
from bnexp.comparison.intervals import Scale
from bnexp.comparison.items import METRIC as ITEMS_METRIC
from bnexp.comparison.items import load_shares, shares_of
from bnexp.comparison.metrics import Metric, metric_of
from bnexp.comparison.rows import FEWEST_PAIRS, Row, is_recorded
from bnexp.comparison.selection import (
    Member,
    Outcome,
    axes_of,
    cells_of,
    check_field,
    default_baseline,
    is_regression,
    keep,
    members_of,
    parse_baseline,
    split,
)
from bnexp.comparison.speed import Speed, Threshold, parse_threshold, speed_of, steps_until
from bnexp.comparison.tuning import tuned_entries
from bnexp.errors import UsageError, did_you_mean
from bnexp.results import Results

_UNCOVERED = ("the data split", "other test rows", "the architecture", "the choice of data set")


def not_covered(items: Literal["none", "some", "all"] = "none") -> str:
    """What every report says (rule 10); ``items``: which of its intervals are of other test rows too."""
    over = {
        "none": "Intervals are over seeds.",
        "some": "Intervals are over seeds, and over other test rows where that is said.",
        "all": "Intervals are over seeds and test rows.",
    }
    left = [what for what in _UNCOVERED if what != "other test rows" or items == "none"]
    return f"{over[items]} They do not cover {', '.join(left)} or the grid of learning rates."


NOT_COVERED = not_covered()
UNASKED = "lr"  # the knob that is tuned where nothing else is asked for


@dataclass(frozen=True)
class Comparison:
    """Every setting of one group of a study against its baseline.

    ``group`` is what all rows share (the data set, fields named in ``by``); ``axes`` are the fields that vary.
    ``metric`` is the name that says how its numbers are shown, ``metric_text`` what it is in words. ``rows`` has every
    setting, compared at equal values; ``best_rows`` one row per setting of the other axes, each seed at the
    value of ``tune`` that ``tuned_by`` finds best on the other seeds; it is empty if nothing can be tuned, and
    ``notes`` say why. ``effects`` and ``speed`` belong to ``rows``, ``best_effects`` and ``best_speed`` to the best
    values.
    """

    name: str
    group: dict[str, str]
    metric: str
    scale: Scale
    higher_is_better: bool
    baseline: str
    axes: tuple[str, ...]
    rows: tuple[Row, ...]
    best_rows: tuple[Row, ...]
    tune: str | None
    tuned_by: str
    notes: tuple[str, ...]
    metric_text: str
    versions: str = ""  # of bnexp, torch and Python that trained it
    effects: tuple[Effects, ...] = ()
    best_effects: tuple[Effects, ...] = ()
    speed: Speed | None = None
    best_speed: Speed | None = None
    directed: bool = True  # one way is better

    @property
    def best_baseline(self) -> str:
        """The baseline of the best values: without the tuned field, which each side chooses."""
        return ",".join(part for part in self.baseline.split(",") if part.partition("=")[0] != self.tune)


def compare_runs(
    results: Results,
    baseline: str | Mapping[str, str] | None = None,
    metric: str | None = None,
    where: Mapping[str, list[str] | str] | None = None,
    by: Sequence[str] = (),
    tune: str | None = UNASKED,
    until: str | None = None,
) -> tuple[Comparison, ...]:
    """Compare the settings of a study, in one Comparison per data set and per value of the ``by`` fields.

    ``metric`` is a column of runs.csv, or of a table: ``TABLE.COLUMN:label=value,over=mean``. ``until`` is a threshold,
    ``train_loss<=0.1``, for the speed in place of the baseline's own last loss.
    """
    members = members_of(results)
    kept = keep(members, where or {})
    wanted: Metric | None = None
    asked: Asked | None = metric
    if metric is not None and ("." in metric or ":" in metric):
        asked = table_metric(metric)
        wanted, kept = _named_column(results, asked, kept)
    elif metric is not None:
        wanted = _named_metric(metric, members, results.tables)
    members = kept
    partial = parse_baseline(baseline, members)
    tune = _checked_tune(tune, partial, [axes_of(inside, results.spec.axes) for _, inside in split(members, by)])
    threshold = parse_threshold(until, results) if until else None
    compared, left_out = [], []
    for group, inside in split(members, by):
        measured = wanted or _default_metric(inside)
        if wanted and not is_recorded(_outcomes(inside), wanted):
            left_out.append(_text(group) or results.name)
            continue
        fields = default_baseline(inside) if partial is None else partial
        job = _Job(results, group, inside, measured, asked or measured.name, fields, tune, threshold)
        compared.append(job.compare())
    if not left_out:
        return tuple(compared)
    note = f"{metric} was not recorded for {'; '.join(left_out)}"
    if not compared:
        raise UsageError(f"metric: {note}{_why_absent(str(metric), members)}")
    return tuple(replace(comparison, notes=(*comparison.notes, note)) for comparison in compared)


def _checked_tune(tune: str | None, baseline: Mapping[str, str] | None, axes: Sequence[tuple[str, ...]]) -> str | None:
    """The leaf name of the knob. Learning rates are tuned unasked, where they vary and are not what is compared."""
    if tune is None:
        return None
    knob = leaf_of(tune)
    check_field(knob, "tune")
    compared = tuple(baseline) if baseline is not None else ("norm",)
    if compared == (knob,):
        if knob == UNASKED:
            return None
        raise UsageError(f"tune: {knob} is what the baseline compares; it cannot be tuned as well")
    if knob != UNASKED and not any(knob in varying for varying in axes):
        there = ", ".join(dict.fromkeys(leaf for varying in axes for leaf in varying))
        raise UsageError(f"tune: {knob} does not vary here; what varies: {there}")
    return knob


# --- metrics ----------------------------------------------------------------------------------------------------------


def _outcomes(members: Sequence[Member]) -> list[Outcome]:
    return [run for member in members for run in member.runs.values()]


def _named_metric(name: str, members: Sequence[Member], tables: Sequence[str]) -> Metric:
    """The metric that was asked for; where nothing has finished, every name that is shaped like one."""
    known = list(next((run.values for run in _outcomes(members)), ()))
    found = metric_of(name)
    if found is not None and (name in known or not known):
        return found
    there = f"; metrics: {', '.join(known)}" if known else ""
    if name in tables:
        raise UsageError(f"metric: {name} is a table; a column of it is named {name}.COLUMN:label=value,over=mean")
    why = _why_absent(name, members) or did_you_mean(name, known)
    raise UsageError(f"metric: no such metric {name!r}{why}{there}")


def _named_column(results: Results, asked: TableMetric, members: Sequence[Member]) -> tuple[Metric, tuple[Member, ...]]:
    """The metric of a column that was asked for, and the members with its numbers."""
    if _outcomes(members):
        check_column(results, asked, members)
    measured, why_not = with_column(members, results, asked)
    if why_not and _outcomes(members):
        raise UsageError(f"metric: {why_not}")
    return column_metric(results, asked), measured


def _default_metric(members: Sequence[Member]) -> Metric:
    """Test accuracy, or the unexplained share of a regression, by running statistics if these were evaluated."""
    name = "test_unexplained" if is_regression(members) else "test_accuracy"
    metrics = [found for suffix in ("", "_population", "_batch") if (found := metric_of(name + suffix))]
    outcomes = [run for run in _outcomes(members) if not run.diverged]
    return next((metric for metric in metrics if outcomes and is_recorded(outcomes, metric)), metrics[0])


def _why_absent(name: str, members: Sequence[Member]) -> str:
    unvalidated = all(not member.setting.data.validation for member in members)
    return ": data.validation is 0" if name.startswith("val_") and unvalidated else ""


# --- one group --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Job:
    """One group of settings, and what is asked of it."""

    results: Results
    group: dict[str, str]
    members: Sequence[Member]
    metric: Metric
    asked: Asked
    baseline: Mapping[str, str]
    tune: str | None
    until: Threshold | None

    def compare(self) -> Comparison:
        """Rows, effects and speed, at equal values and at the best ones."""
        metric, axes = self.metric, axes_of(self.members, self.results.spec.axes)
        cells, agree = cells_of(self.members, axes)
        shares = load_shares(self.results) if self.asked == ITEMS_METRIC else {}
        entries = [Entry(cell.setting, cell.runs, shares=shares_of(cell.ids, shares)) for cell in cells]
        knob = self.tune if self.tune in axes else None
        tuner, notes = _tuner(self.asked, self.members, knob)
        best: list[Entry] = []
        if knob and tuner:
            best, more = tuned_entries(entries, knob, tuner, self.baseline)
            notes += more
        rows, best_rows = (rows_of(some, self.results.spec.seeds, metric, self.baseline) for some in (entries, best))
        said = _row_notes(rows, best_rows, axes, self.baseline)
        return Comparison(
            name=self.results.name,
            group=self.group,
            metric=metric.name,
            scale=metric.scale,
            higher_is_better=metric.higher_is_better,
            baseline=_text(self.baseline),
            axes=axes,
            rows=rows,
            best_rows=best_rows,
            tune=knob,
            tuned_by=tuner.name if tuner and best_rows else "",
            notes=(*said, *([] if agree else [_DISAGREE]), *notes),
            metric_text=metric_text(self.asked),
            versions=self.results.versions,
            effects=effects_of(entries, metric),
            best_effects=effects_of(best, metric),
            speed=self._speed(entries),
            best_speed=self._speed(self._best_trained(entries, knob)),
            directed=metric.directed,
        )

    def _best_trained(self, entries: Sequence[Entry], knob: str | None) -> list[Entry]:
        """Each setting at the value that trains best: a speed of training is chosen by the training loss (rule 7)."""
        if knob is None:
            return []
        names = ("fit_loss", "train_loss")
        runs = _outcomes(self.members)
        tuner = next((metric for name in names if has_values(runs, name) and (metric := metric_of(name))), None)
        return tuned_entries(entries, knob, tuner, self.baseline)[0] if tuner else []

    def _speed(self, entries: Sequence[Entry]) -> Speed | None:
        if not entries or not any(leaf in entries[0].setting for leaf in self.baseline):
            return None
        seeds = self.results.spec.seeds
        if self.until is not None:
            return steps_until(self.results, entries, seeds, self.baseline, self.until)
        return speed_of(self.results, entries, seeds, self.baseline)


_DISAGREE = (
    "norm none gave different numbers at its two placements, which must be bit-equal (it has none): "
    "were its runs trained on different machines or versions?"
)


def _row_notes(
    rows: Sequence[Row], best_rows: Sequence[Row], axes: Sequence[str], baseline: Mapping[str, str]
) -> list[str]:
    """What holds for the whole table: unfinished runs, no baseline, too few pairs."""
    notes = []
    missing = sum(row.n_missing for row in rows)
    if missing:
        notes.append(f"{missing} of {missing + sum(row.n for row in rows)} runs are not finished")
    if not any(leaf in axes for leaf in baseline):
        example = next(iter(axes), "")
        hint = f"; a baseline can be named: {example}={rows[0].setting[example]}" if example else ""
        notes.append(f"no differences: {', '.join(baseline)} does not vary here{hint}")
    pairs = [row.difference.n for row in (*rows, *best_rows) if row.paired and row.difference]
    if pairs and min(pairs) < FEWEST_PAIRS:
        notes.append(
            f"fewer than {FEWEST_PAIRS} pairs: sign-flip can never reach .05 "
            f"(with {min(pairs)} its smallest p is {2 / 2 ** min(pairs):.3g})"
        )
    return notes


def _tuner(asked: Asked, members: Sequence[Member], knob: str | None) -> tuple[Metric | None, list[str]]:
    """The metric that may choose the knob for this one, if there is one in all settings; or why there is none."""
    finished = [member.runs.values() for member in members if any(not run.diverged for run in member.runs.values())]
    if knob is None or not _outcomes(members):
        return None, []
    names = choosers_of(asked)
    for enough in (all, any):
        for name in names:
            if enough(has_values(runs, name) for runs in finished) and has_values(_outcomes(members), name):
                return metric_of(name), []
    why = _why_absent(names[0], members) or f": no {names[0]} was recorded"
    return None, [f"no choice of {knob} for {metric_text(asked)}{why}, and test rows choose nothing"]


def _text(fields: Mapping[str, str]) -> str:
    return ",".join(f"{leaf}={value}" for leaf, value in fields.items())
