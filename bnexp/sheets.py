"""Comparisons as plain tables of text, the same for the terminal, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnexp import wording
from bnexp.comparison import Comparison, Effects, Row, Speed


class Head(NamedTuple):
    """The head of a column. Where room is short, columns are left out, those with the largest ``rank`` first."""

    name: str
    rank: int = 0  # 0 is never left out


@dataclass(frozen=True)
class Sheet:
    """One table: each row has a cell per head and a note, which may be empty."""

    title: str
    heads: Sequence[Head]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    fields: int  # how many of the first columns say what a row is


def sheets_of(comparison: Comparison) -> list[Sheet]:
    """At equal values, each at its best value, 2×2 effects, and speed; what is not there is left out."""
    knob = comparison.tune
    equal = f"at equal {knob}" if knob else "every setting"
    found = [_rows(comparison, comparison.rows, equal, comparison.baseline)]
    if comparison.best_rows:
        found.append(_rows(comparison, comparison.best_rows, best_title(comparison), comparison.best_baseline))
    return [*found, *more_sheets(comparison)]


def more_sheets(comparison: Comparison) -> list[Sheet]:
    """2×2 effects and speed, each at its best value where that was chosen, else at equal values."""
    knob, found = comparison.tune, []
    best, where = bool(comparison.best_effects), f", each at its best {knob}" if comparison.best_effects else ""
    if effects := comparison.best_effects if best else comparison.effects:
        found.append(_effects(comparison, effects, f"2×2 effects{where}: means over seeds, paired"))
    speed, where = comparison.best_speed, f", each at its best {knob} by final training loss"
    baseline = comparison.best_baseline if speed else comparison.baseline
    if speed is None:
        speed, where = comparison.speed, ""
    if speed is not None:
        found.append(_speed(comparison, speed, f"speed of learning{where}: {until_text(speed)}", baseline))
    return found


def best_title(comparison: Comparison) -> str:
    """What the table at the best values is."""
    return f"each at its best {comparison.tune}, chosen for each seed by {comparison.tuned_by} of the other seeds"


def until_text(speed: Speed) -> str:
    """What is counted, until what."""
    limit = f", at most the budget of {speed.budget:g}" if speed.budget is not None else ""
    return f"{speed.unit} until {speed.target}{limit}{f'; the loss is {speed.note}' if speed.note else ''}"


Cell = Callable[[Row], str]


def _rows(comparison: Comparison, rows: Sequence[Row], title: str, baseline: str) -> Sheet:
    metric = comparison.metric
    difference = "ratio" if comparison.scale == "log" else "difference"
    columns: list[tuple[Head, Cell]] = [
        *_setting(comparison, rows),
        (Head("learned"), wording.learned_text),
        *_diverged(rows),
        (Head(f"{wording.metric_title(comparison)} [95 %]"), lambda row: wording.estimate_text(row.estimate, metric)),
        *_items(rows, metric),
        (Head("share learned", 6), lambda row: wording.share_text(row.learned_share)),
    ]
    if any(row.difference is not None for row in rows):
        columns += [
            (Head(f"{difference} to {baseline} [95 %]"), lambda row: wording.difference_text(row, metric)),
            (Head("sign-flip p", 1), wording.p_text),
            (Head("d_z [95 %]", 3), lambda row: wording.effect_text(row.effect)),
            (Head("equal within", 2), lambda row: wording.within_text(row, metric)),
            (Head("r of pairs", 5), lambda row: "–" if row.correlation is None else f"{row.correlation:.2f}"),
        ]
    return _sheet(title, columns, rows, [_note(row, metric) for row in rows])


def _note(row: Row, metric: str) -> str:
    """What a reader must know of a row, and which values of the knob are as good as the best (rule 7)."""
    near = ", ".join(value for value in row.within_one_se if value not in (row.chosen or {}))
    parts = (wording.notes_of(row, metric), f"within one SE of the best: {near}" if near else "")
    return "; ".join(part for part in parts if part)


def _setting(comparison: Comparison, rows: Sequence[Row]) -> list[tuple[Head, Cell]]:
    """The fields that vary, but for one that is tuned away."""
    axes = [axis for axis in comparison.axes if rows and axis in rows[0].setting]
    return [(Head(axis), lambda row, axis=axis: row.setting[axis]) for axis in axes]  # type: ignore[misc]


def _diverged(rows: Sequence[Row]) -> list[tuple[Head, Cell]]:
    """How many diverged of how many, where any did."""
    if not any(row.n_diverged for row in rows):
        return []
    return [(Head("diverged"), lambda row: f"{row.n_diverged}/{row.n}")]


def _items(rows: Sequence[Row], metric: str) -> list[tuple[Head, Cell]]:
    if not any(row.estimate and row.estimate.items for row in rows):
        return []
    return [(Head("other rows", 4), lambda row: wording.items_text(row.estimate, metric))]


def _sheet(
    title: str, columns: Sequence[tuple[Head, Cell]], rows: Sequence[Row], notes: Sequence[str] | None = None
) -> Sheet:
    cells = [[cell(row) for _, cell in columns] for row in rows]
    fields = sum(head.name in rows[0].setting for head, _ in columns) if rows else 0
    return Sheet(title, [head for head, _ in columns], cells, notes or [row.note for row in rows], fields)


def _effects(comparison: Comparison, effects: Sequence[Effects], title: str) -> Sheet:
    fields = list(dict.fromkeys(leaf for found in effects for leaf in found.setting))
    rows, notes = [], []
    for found in effects:
        for name, estimate in found.named.items():
            setting = [found.setting.get(leaf, "") for leaf in fields]
            numbers = [write(estimate, comparison.metric) for write in (wording.contrast_numbers, wording.margin_text)]
            rows.append([*setting, name, str(found.n), *numbers])
            notes.append(found.note or (estimate.note if estimate else ""))
    heads = [
        *map(Head, fields),
        Head("effect of"),
        Head("n"),
        Head(f"effect on {wording.metric_title(comparison)} [95 %]"),
        Head("equal within", 1),
    ]
    return Sheet(title, heads, rows, notes, len(fields) + 1)


def _speed(comparison: Comparison, speed: Speed, title: str, baseline: str) -> Sheet:
    fixed = speed.budget is not None
    difference = "difference" if fixed else "speed-up"
    columns: list[tuple[Head, Cell]] = [
        *_setting(comparison, speed.rows),
        (Head("got there"), wording.learned_text),
        (Head(f"{speed.unit} [95 %]"), lambda row: steps_text(row, speed)),
        (Head(f"{difference} to {baseline} [95 %]"), lambda row: speed_text(row, fixed)),
        (Head("sign-flip p", 1), wording.p_text),
        (Head("equal within", 2), lambda row: wording.within_text(row, "steps")),
    ]
    return _sheet(title, columns, speed.rows, [_speed_note(row) for row in speed.rows])


def _speed_note(row: Row) -> str:
    difference = row.difference.note if row.difference else ""
    return "; ".join(part for part in (row.note, difference) if part)


def steps_text(row: Row, speed: Speed) -> str:
    """Steps with their interval; a median that is censored says so."""
    if row.estimate is None:
        return "–"
    if math.isinf(row.estimate.center):
        return "never in the middle run"
    return wording.estimate_text(row.estimate, "steps").replace("failed", "never")


def speed_text(row: Row, fixed: bool) -> str:
    """``× 3.2 [2.8, 3.6]``; 0 means that the row never got there in the middle pair."""
    estimate = row.difference
    if row.is_baseline:
        return "baseline"
    if estimate is None:
        return "–"
    if fixed:
        return wording.contrast_numbers(estimate, "steps")
    if math.isnan(estimate.center):
        return "one side never, or the other"
    if math.isinf(estimate.center):
        return "baseline never in the middle pair" if row.n_baseline_failed else "there before the first step"
    if estimate.center == 0:
        return "never in the middle pair"
    return wording.contrast_numbers(estimate, "steps")
