"""What all figures are made of: the runs of a comparison, the words that say how many, and the Figure itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, Cut, bands, thinned
from bnexp.chart_parts import Grid, Quantity
from bnexp.comparison import Comparison
from bnexp.layout import METRIC
from bnexp.results import Results

MOST_BLOCKS = 8  # panels of one figure
MOST_EPOCHS, MOST_EPOCHS_SMALL = 120, 60  # points of a line, in a large and in a small panel
MOST_ROWS = 6000  # of data in all views of a figure: about 200 KB of the page
FEWEST_EPOCHS = 3  # two points are no curve: the table says what the last one is
SINGLE, PAIR, TRIPLE = Grid(1, 560, 300), Grid(2, 350, 210), Grid(3, 215, 150)
LETTER = 6.6  # pixels, about, of a bold letter in the head of a panel
ROW_WIDTH, ROW_HEIGHT = 720, 105  # of a row of small panels
MOST_LETTERS = 60  # of a group's values (paths, for instance) in the name of a file
LINE = ["panel", "norm", "epoch"]  # what tells the points of one row of small panels apart
MOST_LISTED = 6  # things that a caption names one by one
EVERY_SEED = "Lines: means over seeds with 95 % Student-t bands"


@dataclass(frozen=True, eq=False)
class View:
    """One picture with its words: ``alt`` says it to those who do not see it, ``data`` are the numbers drawn.

    ``picked`` has one option of each of the figure's choices.
    """

    picked: tuple[str, ...]
    caption: str
    alt: str
    spec: Mapping[str, Any]
    data: DataFrame


@dataclass(frozen=True, eq=False)
class Figure:
    """A question's picture: ``name`` is its file's name.

    ``choices`` names what a reader may switch, with the options in the order in which they are offered. The first view
    is what paper and pages without a script show.
    """

    name: str
    title: str
    views: tuple[View, ...]
    choices: Mapping[str, tuple[str, ...]]

    @property
    def first(self) -> View:
        """The view that stands for the figure."""
        return self.views[0]


@dataclass(frozen=True, eq=False)
class Source:
    """What the figures of a comparison are made from.

    ``rate`` is the learning rate at which most runs of the first block learned.
    """

    results: Results
    comparison: Comparison
    parts: Cut
    rate: str


def make_view(caption: Sequence[str], alt: str, chart: Any, data: DataFrame, picked: Sequence[str] = ()) -> View:
    """A view; the empty parts of its caption are left out."""
    return View(tuple(picked), " ".join(part for part in caption if part), alt, charts.to_spec(chart), data)


def make_figure(
    source: Source, name: str, title: str, views: Sequence[View], choices: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """A figure of a comparison; an option that no view has is not offered."""
    group = "".join(f"{value}-" for value in source.comparison.group.values())
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", group)[-MOST_LETTERS:].lstrip(".-") + name
    offered = {
        label: tuple(option for option in options if any(view.picked[place] == option for view in views))
        for place, (label, options) in enumerate((choices or {}).items())
    }
    return Figure(safe, title, tuple(views), offered)


def panel_text(block: str, rate: str) -> str:
    """``activation tanh, placement pre, lr 0.1``."""
    return ", ".join(part for part in (block, f"lr {rate}" if rate else "") if part)


def grid_of(panels: int) -> Grid:
    """One panel, two to a row, or, where these would fill a screen, three."""
    return SINGLE if panels == 1 else PAIR if panels <= 4 else TRIPLE


def broken(head: str, width: int) -> str:
    """The fields of a panel's head in lines that do not reach into the next panel."""
    lines = [""]
    for part in filter(None, head.split(", ")):
        longer = f"{lines[-1]}, {part}" if lines[-1] else part
        lines[-1:] = [longer] if len(longer) * LETTER <= width or not lines[-1] else [lines[-1], part]
    return "\n".join(lines)


def ordered(lines: DataFrame, runs: DataFrame, along: str = "epoch") -> DataFrame:
    """Panels in the order of the runs; the norms that are drawn dashed come last, and so on top."""
    panels = {panel: index for index, panel in enumerate(dict.fromkeys(runs["panel"]))}
    depth = {norm: -index for index, norm in enumerate(LEGEND)}
    keys = lines.assign(_panel=lines["panel"].map(panels), _norm=lines["norm"].map(depth))
    return keys.sort_values(["_panel", "_norm", along], kind="stable").drop(columns=["_panel", "_norm"])


def n_text(lines: DataFrame) -> str:
    """How many runs a line averages."""
    low, high = int(lines["n"].min()), int(lines["n"].max())
    return f"n = {high} runs each" if low == high else f"n = {low} to {high} runs"


def column_words(comparison: Comparison, column: str, log: bool) -> tuple[str, ...]:
    """A metric as the lines of an axis title: its name, then its unit and scale."""
    name = re.sub("^train_", "training_", re.sub("^val_", "validation_", column))
    name = name.replace("unexplained", "unexplained variance").replace("_", " ")
    unit = "share" if "unexplained" in column else ""
    if METRIC.fullmatch(column) and "loss" in column:
        unit = "squared SDs of the target" if re.search("unexplained|r2", comparison.metric) else "nats"
    notes = ", ".join(note for note in (unit, "log scale" if log else "") if note)
    return (name, f"({notes})") if notes else (name,)


def capital(text: str) -> str:
    """The text with a capital letter at its start."""
    return text[:1].upper() + text[1:]


# --- rows of small panels ---------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows of small panels over one axis: the chart, how many runs a line averages, gaps, and the numbers drawn."""

    chart: Any
    n: str
    gaps: str
    data: DataFrame


def rows_of_panels(
    rows: Sequence[tuple[Quantity, DataFrame, str]], height: int = ROW_HEIGHT, most: int = MOST_EPOCHS_SMALL
) -> Rows | None:
    """One row per column of a table, with the frame's panels side by side; None where too few epochs were recorded."""
    drawn: list[tuple[DataFrame, Quantity]] = []
    gaps = 0
    for shown, frame, column in rows:
        if column not in frame.columns or not frame[column].notna().any():
            continue
        known = thinned(frame.dropna(subset=column), most)
        lines = ordered(bands(known, LINE, column, shown.log), frame)
        if lines["epoch"].nunique() >= FEWEST_EPOCHS:
            drawn.append((lines, shown))
            gaps += len(known[LINE].drop_duplicates()) - len(lines)
    if not drawn:
        return None
    columns = max(lines["panel"].nunique() for lines, _ in drawn)
    grid = Grid(columns, ROW_WIDTH // columns - 30, height)
    data = pd.concat([lines.assign(quantity=" ".join(shown.title)) for lines, shown in drawn], ignore_index=True)
    chart = charts.rows_of(drawn, grid)
    return Rows(chart, n_text(data), gaps_text(gaps), data[["quantity", *drawn[0][0].columns]])


def by_layer(frame: DataFrame) -> DataFrame:
    """A panel per layer; of many layers the first, some between, the last."""
    some = frame[frame["layer"].isin(_some_layers(frame["layer"]))]
    return some.assign(panel=[f"layer {layer}" for layer in some["layer"]])


def gaps_text(gaps: int) -> str:
    """How many points are not drawn, and why; nothing where all are."""
    return f"{gaps} points are left out: a run's value there is infinite, or zero on the log scale." if gaps else ""


def _some_layers(layers: pd.Series[Any]) -> list[int]:
    """At most four layers: the first, some between, the last."""
    known = sorted(set(layers))
    return [known[i] for i in sorted({round(i * (len(known) - 1) / 3) for i in range(4)})]
