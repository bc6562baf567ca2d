"""What all figures are made of: the runs of a comparison, the words that say how many, and the Figure itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, Cut
from bnexp.charts import Grid
from bnexp.comparison import Comparison
from bnexp.results import Results

MOST_BLOCKS = 8  # panels of one figure
MOST_EPOCHS, MOST_EPOCHS_SMALL = 120, 60  # points of a line, in a large and in a small panel
FEWEST_EPOCHS = 3  # two points are no curve: the table says what the last one is
SINGLE, PAIR = Grid(1, 560, 300), Grid(2, 350, 210)
MOST_LETTERS = 60  # of a group's values (paths, for instance) in the name of a file
EVERY_SEED = "Lines: means over seeds with 95 % Student-t bands"


@dataclass(frozen=True)
class Figure:
    """A chart with its words: ``name`` is its file's name, ``alt`` says it to those who do not see it."""

    name: str
    title: str
    caption: str
    alt: str
    spec: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Source:
    """What the figures of a comparison are made from.

    ``runs`` are those of the figures that show a single block and learning rate; ``panel`` names the two.
    """

    results: Results
    comparison: Comparison
    parts: Cut
    runs: DataFrame
    panel: str


def make_figure(source: Source, name: str, title: str, caption: Sequence[str], alt: str, chart: Any) -> Figure:
    """A figure of a comparison; the empty parts of its caption are left out."""
    group = "".join(f"{value}-" for value in source.comparison.group.values())
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", group)[-MOST_LETTERS:].lstrip(".-") + name
    return Figure(safe, title, " ".join(part for part in caption if part), alt, charts.to_spec(chart))


def panel_text(block: str, rate: str) -> str:
    """``activation tanh, placement pre, lr 0.1``."""
    return ", ".join(part for part in (block, f"lr {rate}" if rate else "") if part)


def ordered(lines: DataFrame, runs: DataFrame) -> DataFrame:
    """Panels in the order of the runs; the norms that are drawn dashed come last, and so on top."""
    panels = {panel: index for index, panel in enumerate(dict.fromkeys(runs["panel"]))}
    depth = {norm: -index for index, norm in enumerate(LEGEND)}
    keys = lines.assign(_panel=lines["panel"].map(panels), _norm=lines["norm"].map(depth))
    return keys.sort_values(["_panel", "_norm", "epoch"], kind="stable").drop(columns=["_panel", "_norm"])


def n_text(lines: DataFrame) -> str:
    """How many runs a line averages."""
    low, high = int(lines["n"].min()), int(lines["n"].max())
    return f"n = {high} runs each" if low == high else f"n = {low} to {high} runs"
