"""The figure of the final metric and of the share that learned against the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import KNOB, Cut
from bnexp.chart_parts import Grid, Quantity
from bnexp.comparison import Comparison, Estimate, Row
from bnexp.figure_parts import (
    MOST_BLOCKS,
    MOST_LISTED,
    Figure,
    Source,
    broken,
    column_words,
    grid_of,
    make_figure,
    make_view,
    n_text,
    panel_text,
)
from bnexp.wording import is_percent, quantity

SHARES = "The share of runs that learned is drawn with exact 95 % intervals (Clopper–Pearson)."
APART = "Norms of one learning rate stand a little apart so that intervals do not hide one another."


def rate_picture(source: Source) -> Iterator[Figure]:
    """The final metric and the share that learned against the learning rate, where that varies."""
    parts, comparison = source.parts, source.comparison
    if len(parts.rates) < 2:
        return
    metric, learned = _points(parts, comparison)
    if not len(learned):
        return
    log = comparison.scale == "log"
    shown = Quantity(column_words(comparison, comparison.metric, log), log, is_percent(comparison.metric))
    grid = _grid(learned["panel"].nunique())
    what = shown.title[0]
    above = [f"No setting has a {what} that can be drawn: its runs diverged, or their median did."]
    alt = f"Share of runs that learned against learning rate per norm. {above[0]}"
    if len(metric):
        metric, outside = _in_frame(metric, comparison)
        above = _rate_captions(metric, what, outside)
        alt = f"Final {what} against learning rate per norm. {_by_rate(metric, comparison.metric)}"
    shares = learned if not len(metric) or (learned["mean"] < 1).any() else learned[:0]
    chart = charts.rate_picture(_headed(metric, grid), _headed(shares, grid), shown, grid)
    view = make_view(
        [*above, SHARES if len(shares) else "Every run learned.", APART], alt, chart, _data(metric, shares, what)
    )
    yield make_figure(source, "learning-rate", "Against the learning rate", [view])


def _grid(panels: int) -> Grid:
    grid = grid_of(panels)
    return grid._replace(height=240 if panels == 1 else min(grid.height, 170))


def _headed(frame: DataFrame, grid: Grid) -> DataFrame:
    return frame.assign(panel=[broken(panel, grid.width) for panel in frame["panel"]]) if len(frame) else frame


def _data(metric: DataFrame, learned: DataFrame, what: str) -> DataFrame:
    drawn = [
        (frame, name) for frame, name in ((metric, f"final {what}"), (learned, "share that learned")) if len(frame)
    ]
    joined = pd.concat([frame.assign(quantity=name) for frame, name in drawn], ignore_index=True)
    return joined[["quantity", "panel", "norm", "rate", "n", "mean", "low", "high"]].rename(columns={"rate": "lr"})


def _rate_captions(metric: DataFrame, what: str, outside: str) -> list[str]:
    hollow = "Hollow points: not every run learned; the mean if none did, the median of all runs if some did."
    return [
        f"Final {what} against the learning rate with 95 % intervals, {n_text(metric)}; filled points, joined by "
        "lines, are means of settings where every run learned.",
        "" if metric["whole"].all() else hollow,
        outside,
    ]


def _points(parts: Cut, comparison: Comparison) -> tuple[DataFrame, DataFrame]:
    """What the lr picture draws of the comparison's rows: their centres, where there are any, and the shares."""
    places = _moved_apart(parts)
    points: list[dict[str, Any]] = []
    shares: list[dict[str, Any]] = []
    for row in comparison.rows:
        norm, rate = row.setting.get("norm", parts.norms[0]), row.setting[KNOB]
        for block in parts.blocks_of(row.setting):
            at = {"panel": block, "norm": norm, "rate": float(rate), "x": places[norm, rate], "n": row.n}
            points += [{**at, **point} for point in _point(row, comparison)]
            shares += [{**at, **_ends(row.learned_share)}] if row.learned_share else []
    blocks = list(parts.blocks)[:MOST_BLOCKS]
    return _in_blocks(DataFrame(points), blocks), _in_blocks(DataFrame(shares), blocks)


def _in_frame(metric: DataFrame, comparison: Comparison) -> tuple[DataFrame, str]:
    """The points near those where every run learned, and which ones would squeeze them if they were drawn."""
    scale = np.log if comparison.scale == "log" else np.asarray
    whole = metric["whole"].to_numpy(dtype=bool)
    if whole.all() or not whole.any():
        return metric, ""
    means = scale(metric["mean"].to_numpy(dtype=float))
    low, high = means[whole].min(), means[whole].max()
    room = max(high - low, 0.05 * abs(high))
    near = whole | ((means >= low - room) & (means <= high + room))
    far = metric[~near].drop_duplicates(["panel", "norm", "rate"])
    unit = " %" if is_percent(comparison.metric) else ""
    texts = [
        f"{panel_text(panel, '')}{': ' if panel else ''}{norm} at {rate:g} ({quantity(mean, comparison.metric)}{unit})"
        for panel, norm, rate, mean in far[["panel", "norm", "rate", "mean"]].itertuples(index=False)
    ]
    listed = "; ".join(texts) if len(texts) <= MOST_LISTED else f"{len(texts)} settings where not every run learned"
    return metric[near], f"Far outside the frame, and not drawn: {listed}." if texts else ""


def _in_blocks(frame: DataFrame, blocks: Sequence[str]) -> DataFrame:
    if not len(frame):
        return frame
    frame = frame[frame["panel"].isin(blocks)]
    return frame.sort_values("panel", key=lambda column: column.map(list(blocks).index), kind="stable")


def _moved_apart(parts: Cut) -> dict[tuple[str, str], float]:
    """(norm, rate) -> where it is drawn: norms a few pixels apart on the log axis."""
    logs = np.log([float(rate) for rate in parts.rates])
    step = min(0.2 * float(np.diff(logs).min()) / len(parts.norms), 0.02 * float(np.ptp(logs)))
    middle = (len(parts.norms) - 1) / 2
    return {
        (norm, rate): float(rate) * math.exp((index - middle) * step)
        for index, norm in enumerate(parts.norms)
        for rate in parts.rates
    }


def _point(row: Row, comparison: Comparison) -> list[dict[str, Any]]:
    """A row's centre, where it is a number that the axis can show."""
    if row.estimate is None or not math.isfinite(row.estimate.center):
        return []
    if comparison.scale == "log" and row.estimate.center <= 0:
        return []
    return [{**_ends(row.estimate), "whole": row.n_learned == row.n}]


def _ends(estimate: Estimate) -> dict[str, Any]:
    """What is drawn of an estimate; an infinite end (a diverged run) is drawn as none."""
    return {"mean": estimate.center, "low": estimate.low, "high": estimate.high}


def _by_rate(metric: DataFrame, name: str) -> str:
    unit = " %" if is_percent(name) else ""
    first = metric[metric["panel"] == metric["panel"].iloc[0]]
    texts = [
        f"{norm}: "
        + ", ".join(f"{quantity(m, name)}{unit} at {r:g}" for m, r in zip(rows["mean"], rows["rate"], strict=True))
        for norm, rows in first.groupby("norm", sort=False)
    ]
    return "; ".join(texts) + "."
