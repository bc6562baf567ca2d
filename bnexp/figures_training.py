"""Figures of how training went: the compared metric and the loss over epochs, for each split and on both scales."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, bands, measured, thinned
from bnexp.chart_parts import Quantity
from bnexp.figure_panels import curve_panels, missing_text
from bnexp.figure_parts import (
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    MOST_ROWS,
    Figure,
    Source,
    View,
    capital,
    column_words,
    gaps_text,
    grid_of,
    make_figure,
    make_view,
    n_text,
    ordered,
)
from bnexp.layout import METRIC, METRIC_KINDS
from bnexp.wording import is_percent, quantity

SAID_PANELS = 4  # panels whose last values stand in the alternative text
TITLES = {
    "accuracy": "Accuracy over epochs",
    "unexplained": "Unexplained variance over epochs",
    "r2": "R² over epochs",
    "loss": "Loss over epochs",
}
SPLITS = {"train": "training", "val": "validation", "test": "test"}


class Curve(NamedTuple):
    """What a view shows: a column of curves.csv, which rows of data it speaks of, and on which scale."""

    column: str
    split: str
    log: bool


def learning_curves(source: Source) -> Iterator[Figure]:
    """What was compared and the loss over epochs; what was compared stands first."""
    runs, how = curve_panels(source)
    frame = measured(source.results, "curves", runs)
    if frame is None:
        return
    for kind in _kinds(source.comparison.metric, frame):
        columns = _columns(source.comparison.metric, kind, frame)
        scales = (True, False) if METRIC_KINDS[kind][0] == "log" else (False,)
        curves = [Curve(column, split, log) for column, split in columns.items() for log in scales]
        most = _most_epochs(frame, len(curves))
        views = [view for curve in curves for view in _curve_view(source, runs, frame, curve, most, how)]
        if views:
            choices = {"rows": sorted(columns.values(), key=_place), "scale": ("log", "linear")}
            yield make_figure(source, kind, TITLES[kind], views, choices)


def _kinds(metric: str, frame: DataFrame) -> list[str]:
    """The kind that was compared and the loss; where these are one, also what counts right answers."""
    match = METRIC.fullmatch(metric)
    found = [match[2]] if match else []
    other = "accuracy" if any(column.endswith("_accuracy") for column in _recorded(frame)) else "unexplained"
    return list(dict.fromkeys([*found, "loss", *([other] if found in ([], ["loss"]) else [])]))


def _columns(metric: str, kind: str, frame: DataFrame) -> dict[str, str]:
    """Column -> the rows it speaks of: the compared one first, then training, validation and test."""
    match, recorded = METRIC.fullmatch(metric), _recorded(frame)
    wanted = {f"{split}_{kind}": word for split, word in SPLITS.items()}
    if match and match[2] == kind:
        statistics = f", {match[3].removeprefix('_')} statistics" if match[3] else ""
        own = wanted.get(metric, f"{SPLITS.get(match[1], 'all training rows')}{statistics}")
        wanted = {metric: own, **wanted}
    return {column: word for column, word in wanted.items() if column in recorded}


def _recorded(frame: DataFrame) -> list[str]:
    return [str(name) for name in frame.columns if METRIC.fullmatch(str(name)) and frame[name].notna().any()]


def _place(split: str) -> int:
    usual = list(SPLITS.values())
    return usual.index(split) if split in usual else len(usual)


def _most_epochs(frame: DataFrame, views: int) -> int:
    """So many that all views together stay small."""
    lines = len(frame[["panel", "norm", "rate"]].drop_duplicates())
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS, MOST_ROWS // max(1, views * lines)))


def _curve_view(source: Source, runs: DataFrame, frame: DataFrame, curve: Curve, most: int, how: str) -> Iterator[View]:
    column, by = curve.column, ["panel", "norm", "rate", "epoch"]
    drawn = thinned(frame.dropna(subset=column), most)
    lines = ordered(bands(drawn, by, column, curve.log), runs)
    if lines["epoch"].nunique() < FEWEST_EPOCHS:
        return
    gaps = len(drawn[by].drop_duplicates()) - len(lines)
    lines = lines.rename(columns={"rate": "lr"})
    lines = lines if (lines["lr"] != "").any() else lines.drop(columns="lr")
    shown = Quantity(column_words(source.comparison, column, curve.log), curve.log, is_percent(column))
    caption = (_curve_caption(lines, shown, column, how), gaps_text(gaps), missing_text(runs))
    alt = f"Line chart of {shown.title[0]} against epoch, {how}. {_last_values(lines, column)}"
    chart = charts.curves(lines, shown, grid_of(lines["panel"].nunique()))
    scale = "log" if curve.log else "linear"
    yield make_view(caption, alt, chart, lines, (curve.split, scale))


def _curve_caption(lines: DataFrame, shown: Quantity, column: str, how: str) -> str:
    minibatches = "mean over the epoch's minibatches, each before its step"
    where = minibatches if column.startswith("train_") else "after each epoch"
    mean = "geometric means" if shown.log else "means"
    bands_text = f"Lines: {mean} over seeds with 95 % Student-t bands; {n_text(lines)}."
    return f"{capital(shown.title[0])} ({where}), {how}. {bands_text}"


def _last_values(lines: DataFrame, column: str) -> str:
    """The values at the last epoch, in words, for those who do not see the figure."""
    texts = []
    for panel, group in list(lines.groupby("panel", sort=False))[:SAID_PANELS]:
        last = group[group["epoch"] == group["epoch"].max()].sort_values("norm", key=lambda s: s.map(LEGEND.index))
        unit = " %" if is_percent(column) else ""
        said = ", ".join(f"{n} {quantity(m, column)}{unit}" for n, m in zip(last["norm"], last["mean"], strict=True))
        head = re.sub(r"\n(diverged|unfinished):.*", "", str(panel), flags=re.DOTALL).replace("\n", ", ")
        texts.append(f"{head}: {said}" if head else said)
    return f"Last epoch: {'; '.join(texts)}."
