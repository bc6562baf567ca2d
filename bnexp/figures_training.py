"""Figures of how training went: learning curves, and the final metric against the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import KNOB, LEGEND, Cut, bands, chosen_rates, measured, rates_by_training, thinned
from bnexp.charts import Grid, Quantity
from bnexp.comparison import Comparison, Estimate, Row
from bnexp.figure_parts import (
    FEWEST_EPOCHS,
    MOST_BLOCKS,
    MOST_EPOCHS,
    PAIR,
    SINGLE,
    Figure,
    Source,
    make_figure,
    n_text,
    ordered,
    panel_text,
)
from bnexp.summary import spoken
from bnexp.wording import is_percent, quantity

MOST_PANELS = 6  # with a panel per learning rate; more become one panel per block, each norm at its best rate
MOST_LISTED = 6  # points that a caption names one by one
MOST_COUNTED = 3  # norms whose diverged runs the head of a panel counts one by one
SAID_PANELS = 4  # panels whose last values stand in the alternative text
LOSS = "Training loss over epochs"
GAPS = "{} points are left out: a run's value there is infinite, or zero on the log scale."


# --- learning curves --------------------------------------------------------------------------------------------------


def learning_curves(source: Source) -> Iterator[Figure]:
    """Training loss and the compared metric over epochs."""
    runs, how = _curve_panels(source)
    frame = measured(source.results, "curves", runs)
    if frame is None:
        return
    metric = source.comparison.metric
    loss_unit = "squared SDs of the target" if "unexplained" in metric or "r2" in metric else "nats"
    titles = {"train_loss": ("training loss", f"({loss_unit}, log scale)"), metric: _metric_lines(source.comparison)}
    for column, title in titles.items():
        log = column == "train_loss" or source.comparison.scale == "log"
        if column in frame.columns and frame[column].notna().any():
            by = ["panel", "norm", "rate", "epoch"]
            lines = ordered(bands(frame, by, column, log), runs)
            gaps = len(frame.dropna(subset=column)[by].drop_duplicates()) - len(lines)
            words = f"{how}. {GAPS.format(gaps)}" if gaps else f"{how}."
            if lines["epoch"].nunique() >= FEWEST_EPOCHS:
                yield _curve_figure(source, runs, lines, Quantity(title, log, is_percent(column)), column, words)


def _curve_figure(source: Source, runs: DataFrame, lines: DataFrame, shown: Quantity, column: str, how: str) -> Figure:
    lines = thinned(lines, MOST_EPOCHS).rename(columns={"rate": "lr"})
    lines = lines if (lines["lr"] != "").any() else lines.drop(columns="lr")
    grid = SINGLE if lines["panel"].nunique() == 1 else PAIR
    mean = "geometric means" if shown.log else "means"
    what = shown.title[0]
    where = "mean over the epoch's minibatches, each before its step" if column == "train_loss" else "after each epoch"
    caption = (
        f"{_capital(what)} ({where}), {how} Lines: {mean} over seeds with 95 % Student-t bands; {n_text(lines)}.",
        _missing_text(runs),
    )
    alt = f"Line chart of {what} against epoch, {how} {_last_values(lines, column)}"
    return make_figure(
        source,
        column.replace("_", "-"),
        f"{_capital(what)} over epochs",
        caption,
        alt,
        charts.curves(lines, shown, grid),
    )


def _curve_panels(source: Source) -> tuple[DataFrame, str]:
    """The runs whose curves are drawn with the head of their panel, and how their learning rates were chosen."""
    parts, comparison = source.parts, source.comparison
    runs = parts.runs[parts.runs["block"].isin(list(parts.blocks)[:MOST_BLOCKS])]
    if not parts.rates:
        return _headed(runs, ["block"]), "every norm as the spec says"
    if len(runs[["block", "rate"]].drop_duplicates()) <= MOST_PANELS:
        return _headed(runs, ["block", "rate"]), "one panel per learning rate"
    chosen, by = chosen_rates(parts, comparison), f"by {spoken(comparison.tuned_by)} for most seeds"
    if not chosen:
        chosen, by = rates_by_training(source.results, runs), "by its final training loss"
    of_run = zip(runs["block"], runs["norm"], runs["rate"], strict=True)
    runs = runs[[chosen.get((block, norm)) == rate for block, norm, rate in of_run]]
    return _headed(runs, ["block"]), f"each norm at its best learning rate, chosen {by}: {_rates_text(chosen)}"


def _rates_text(chosen: Mapping[tuple[str, str], str]) -> str:
    """The commonest rate, then what has another one."""
    rates = list(chosen.values())
    usual = max(dict.fromkeys(rates), key=rates.count)
    others = [
        f"{panel_text(block, '')} {norm} {rate}".strip() for (block, norm), rate in chosen.items() if rate != usual
    ]
    if not others:
        return f"lr {usual} for all"
    more = f"; and {len(others) - MOST_LISTED} more" if len(others) > MOST_LISTED else ""
    return f"lr {usual}, but for {'; '.join(others[:MOST_LISTED])}{more}"


def _headed(runs: DataFrame, fields: list[str]) -> DataFrame:
    """Add ``panel``, its head: block and learning rate, and on a second line the runs that are in no line."""
    ordered = runs.assign(_rate=[float(rate or 0) for rate in runs["rate"]])
    blocks = list(dict.fromkeys(runs["block"]))
    ordered = ordered.assign(_block=ordered["block"].map(blocks.index)).sort_values(["_block", "_rate"], kind="stable")
    parts = []
    for _, group in ordered.groupby(fields, sort=False):
        first = group.iloc[0]
        head = panel_text(first["block"], first["rate"] if "rate" in fields else "")
        absent = [text for status in ("diverged", "unfinished") if (text := _absent(group, status))]
        parts.append(group.assign(panel="\n".join(filter(None, [head, *absent]))))
    return pd.concat(parts).drop(columns=["_rate", "_block"])


def _absent(runs: DataFrame, status: str) -> str:
    """``diverged: beta 5 of 5, full 5 of 5``."""
    odd = runs["status"] == "diverged" if status == "diverged" else ~runs["status"].isin(["done", "diverged"])
    counts = [
        f"{norm} {int(odd[runs['norm'] == norm].sum())} of {int((runs['norm'] == norm).sum())}"
        for norm in LEGEND
        if odd[runs["norm"] == norm].any()
    ]
    if len(counts) > MOST_COUNTED:
        return f"{status}: {int(odd.sum())} of {len(runs)} runs, of {len(counts)} norms"
    return f"{status}: {', '.join(counts)}" if counts else ""


def _missing_text(runs: DataFrame) -> str:
    if (runs["status"] == "done").all():
        return ""
    return "Runs that diverged or are not finished are in no line; the head of a panel counts them."


def _last_values(lines: DataFrame, column: str) -> str:
    """The values at the last epoch, in words, for those who do not see the figure."""
    texts = []
    for panel, group in list(lines.groupby("panel", sort=False))[:SAID_PANELS]:
        last = group[group["epoch"] == group["epoch"].max()].sort_values("norm", key=lambda s: s.map(LEGEND.index))
        unit = " %" if is_percent(column) else ""
        said = ", ".join(f"{n} {quantity(m, column)}{unit}" for n, m in zip(last["norm"], last["mean"], strict=True))
        head = str(panel).split("\n")[0]
        texts.append(f"{head}: {said}" if head else said)
    return f"Last epoch: {'; '.join(texts)}."


def _metric_lines(comparison: Comparison) -> tuple[str, ...]:
    """The metric as the lines of an axis title."""
    name = comparison.metric.replace("_", " ")
    if "unexplained" in name:
        return name.replace("unexplained", "unexplained variance"), "(share, log scale)"
    return (name, "(log scale)") if comparison.scale == "log" else (name,)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- the learning rate ------------------------------------------------------------------------------------------------


def rate_picture(source: Source) -> Iterator[Figure]:
    """The final metric and the share that learned against the learning rate, where that varies."""
    parts, comparison = source.parts, source.comparison
    if len(parts.rates) < 2:
        return
    metric, learned = _points(parts, comparison)
    if not len(learned):
        return
    shown = Quantity(_metric_lines(comparison), comparison.scale == "log", is_percent(comparison.metric))
    grid = Grid(1, 560, 240) if learned["panel"].nunique() == 1 else PAIR._replace(height=170)
    what = shown.title[0]
    below = (
        "The share of runs that learned is drawn with exact 95 % intervals (Clopper–Pearson). Norms stand a little "
        "apart so that intervals do not hide one another; the learning rates are those marked on the axis."
    )
    above = [f"No setting has a {what} that can be drawn: its runs diverged, or their median did."]
    alt = f"Share of runs that learned against learning rate per norm. {above[0]}"
    if len(metric):
        metric, outside = _in_frame(metric, comparison)
        above = _rate_captions(metric, what, outside)
        alt = f"Final {what} against learning rate per norm. {_by_rate(metric, comparison.metric)}"
    chart = charts.rate_picture(metric, learned, shown, grid)
    yield make_figure(source, "learning-rate", "Against the learning rate", [*above, below], alt, chart)


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
