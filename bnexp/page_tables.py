"""The comparison tables of the page as plain rows of text. No HTML here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnexp.comparison import Comparison, Row
from bnexp.sheets import Sheet, more_sheets
from bnexp.summary import spoken
from bnexp.wording import (
    capital,
    difference_text,
    effect_text,
    estimate_text,
    is_percent,
    items_text,
    learned_text,
    metric_title,
    notes_of,
    p_text,
    pairs,
    quantity,
    share_text,
    within_text,
)

MOST_OPEN_ROWS = 40  # a longer table starts folded


@dataclass(frozen=True)
class Cell:
    """A cell's text and smaller lines below it. ``kind`` is its column: setting, number, verdict or note."""

    text: str
    small: str = ""
    kind: str = "number"


@dataclass(frozen=True)
class Block:
    """Rows under one heading; ``breaks`` holds the indices of rows that start another value of the knob."""

    heading: str
    rows: Sequence[Sequence[Cell]]
    breaks: frozenset[int]


@dataclass(frozen=True)
class Table:
    """One comparison table. ``shared`` notes hold for every row; rows refer to ``notes`` by number."""

    title: str
    lead: str
    head: Sequence[tuple[str, str]]
    blocks: Sequence[Block]
    shared: Sequence[str]
    notes: Sequence[str]
    folded: bool


# --- comparisons ------------------------------------------------------------------------------------------------------


def tables_of(comparison: Comparison) -> list[Table]:
    """The table at the best values, if there is one, and that of every setting; then effects and speed."""
    knob, found = comparison.tune, []
    if comparison.best_rows:
        lead = f"Every seed at the {knob} with the best {spoken(comparison.tuned_by)} on the other seeds."
        found.append(_table(comparison, comparison.best_rows, f"Each at its best {knob}", lead, None))
    equal = f"At equal {knob}" if knob else "Every setting"
    lead = f"Each row against the baseline at the same {knob}." if knob else ""
    found.append(_table(comparison, comparison.rows, equal, lead, knob))
    return [*found, *map(_plain, more_sheets(comparison))]


def _plain(sheet: Sheet) -> Table:
    """A sheet as it is, its notes numbered; where all that varies is in ``fields``, these are its first columns."""
    numbers: dict[str, int] = {}
    for note in filter(None, sheet.notes):
        numbers.setdefault(note, len(numbers) + 1)
    kinds = ["setting"] * sheet.fields + ["number"] * (len(sheet.heads) - sheet.fields)
    rows = [
        [*(Cell(text, kind=kind) for text, kind in zip(row, kinds, strict=True)), Cell(mark, kind="note")]
        for row, note in zip(sheet.rows, sheet.notes, strict=True)
        for mark in (str(numbers[note]) if note else "",)
    ]
    heads = [(head.name.replace("[95 %]", "[95\u00a0%]"), kind) for head, kind in zip(sheet.heads, kinds, strict=True)]
    block = Block("", rows, frozenset())
    title, _, lead = sheet.title.partition(": ")
    folded = len(rows) > MOST_OPEN_ROWS
    return Table(capital(title), capital(lead), [*heads, ("notes", "note")], [block], [], list(numbers), folded)


def _table(comparison: Comparison, rows: Sequence[Row], title: str, lead: str, knob: str | None) -> Table:
    axes = [axis for axis in comparison.axes if rows and axis in rows[0].setting]
    fields = _dividing(rows, axes, knob)
    columns = [axis for axis in axes if axis not in fields]
    columns.sort(key=lambda axis: (axis != knob, axis != "norm"))
    shared = _shared_notes(rows, comparison.metric)
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(", ".join(f"{f} {row.setting[f]}" for f in fields), []).append(row)
    grouped = {heading: _ordered(found, knob) for heading, found in grouped.items()}
    numbers: dict[str, int] = {}  # of the notes, in the order in which rows need them
    for note in (note for found in grouped.values() for row in found for note in _notes(row, comparison.metric)):
        if note not in shared:
            numbers.setdefault(note, len(numbers) + 1)
    blocks = [_block(heading, found, comparison, columns, knob, numbers) for heading, found in grouped.items()]
    return Table(
        title, lead, _head(comparison, columns, rows), blocks, shared, list(numbers), len(rows) > MOST_OPEN_ROWS
    )


def _dividing(rows: Sequence[Row], axes: Sequence[str], knob: str | None) -> list[str]:
    """The fields that get headings: not the columns, and not those of which each norm has one value."""
    found = []
    for axis in axes:
        values: dict[str, set[str]] = {}
        for row in rows:
            values.setdefault(row.setting.get("norm", ""), set()).add(row.setting[axis])
        if axis not in ("norm", "placement", knob) and any(len(several) > 1 for several in values.values()):
            found.append(axis)
    return found if "norm" in axes else []


def _block(
    heading: str,
    rows: Sequence[Row],
    comparison: Comparison,
    columns: Sequence[str],
    knob: str | None,
    numbers: Mapping[str, int],
) -> Block:
    cells = [_cells(row, comparison, columns, numbers) for row in rows]
    changes = [i for i in range(1, len(rows)) if knob and rows[i].setting[knob] != rows[i - 1].setting[knob]]
    return Block(heading, cells, frozenset(changes))


def _ordered(rows: Sequence[Row], knob: str | None) -> list[Row]:
    """By the knob, so that what is compared stands together, then by placement."""
    places = list(dict.fromkeys(row.setting.get("placement", "") for row in rows))
    return sorted(rows, key=lambda row: (_order(row, knob), places.index(row.setting.get("placement", ""))))


def _order(row: Row, knob: str | None) -> tuple[float, str]:
    """Rows by the knob's value, as a number where it is one."""
    if knob is None:
        return 0.0, ""
    try:
        return float(row.setting[knob]), ""
    except ValueError:
        return 0.0, row.setting[knob]


def _head(comparison: Comparison, columns: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, str]]:
    unit = ", percentage points" if is_percent(comparison.metric) else ""
    difference = "ratio" if comparison.scale == "log" else "difference"
    tuned = any(row.chosen for row in rows)
    chosen = [(f"best {comparison.tune}", "setting")] if tuned else []
    baseline = comparison.best_baseline if tuned else comparison.baseline
    numbers = [
        f"{metric_title(comparison)} [95\u00a0%]",
        f"{difference} to {baseline}{unit} [95\u00a0%]",
        *("sign-flip p", "equal within", "learned", "diverged", "n"),
    ]
    return [
        *((name, "setting") for name in columns),
        *chosen,
        *((name, "number") for name in numbers),
        ("notes", "note"),
    ]


def _cells(row: Row, comparison: Comparison, columns: Sequence[str], numbers: Mapping[str, int]) -> list[Cell]:
    chosen = [Cell(*_chosen(row), kind="setting")] if row.chosen else []
    notes = [str(numbers[note]) for note in _notes(row, comparison.metric) if note in numbers]
    return [
        *(Cell(row.setting[name], kind="setting") for name in columns),
        *chosen,
        Cell(estimate_text(row.estimate, comparison.metric), _below(row, comparison.metric)),
        Cell(*_difference(row, comparison)),
        Cell(p_text(row), f"d_z {effect_text(row.effect)}".replace(" [", "\n[") if row.effect else ""),
        Cell(within_text(row, comparison.metric)),
        Cell(learned_text(row), share_text(row.learned_share)),
        Cell(str(row.n_diverged)),
        Cell(str(row.n)),
        Cell(", ".join(notes), kind="note"),
    ]


def _chosen(row: Row) -> tuple[str, str]:
    """How often each value was chosen, and which others are within one standard error of the best."""
    counts = row.chosen or {}
    n = sum(counts.values())
    text = ", ".join(value if len(counts) == 1 else f"{value} ({count} of {n})" for value, count in counts.items())
    near = [value for value in row.within_one_se if value not in counts]
    return text, f"within 1 SE: {', '.join(near)}" if near else ""


def _difference(row: Row, comparison: Comparison) -> tuple[str, str]:
    """The difference, and below it how it was made: pairs and their correlation, the second interval."""
    metric, estimate = comparison.metric, row.difference
    if estimate is None:
        return difference_text(row, metric), ""
    text = difference_text(row, metric)
    made = pairs(estimate.n) if row.paired else "not paired"
    how = [f"{made}, r = {row.correlation:.2f}" if row.correlation is not None else made]
    if estimate.items is not None:
        how.append(f"other rows {items_text(estimate, metric, signed=True)}")
    return text, "\n".join(how)


def _below(row: Row, metric: str) -> str:
    """Below the metric: what the runs that learned reached, or the second interval."""
    if row.estimate is not None and row.estimate.items is not None:
        return f"other rows {items_text(row.estimate, metric)}"
    return _of_learned(row, metric)


def _of_learned(row: Row, metric: str) -> str:
    """What the runs that learned reached, where some did not."""
    if row.of_learned is None or not 0 < row.n_learned < row.n:
        return ""
    return f"{row.of_learned.kind}: {quantity(row.of_learned.center, metric)}"


def _notes(row: Row, metric: str) -> list[str]:
    """The row's notes, but for what its cells say."""
    said = ("", _of_learned(row, metric), f"{row.n_failed} of {row.n} {row.failed}")
    return [note for note in notes_of(row, metric).split("; ") if note not in said]


def _shared_notes(rows: Sequence[Row], metric: str) -> list[str]:
    """Notes that stand at every row, said once."""
    if len(rows) < 2:
        return []
    first, *others = (_notes(row, metric) for row in rows)
    return [note for note in first if all(note in notes for notes in others)]
