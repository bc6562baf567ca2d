"""Figures of what the networks answer: fits of a regression with one feature, drawn over its data."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, measured, rates_by_training
from bnexp.chart_parts import Grid
from bnexp.data import load_dataset
from bnexp.errors import DataError
from bnexp.figure_parts import Figure, Source, make_figure, make_view
from bnexp.results import Results
from bnexp.spec import DataFields

FITS = "What the networks answer"
MOST_FITS = 10  # lines in a panel: more seeds hide each other


def fits(source: Source) -> Iterator[Figure]:
    """One panel per norm, one line per seed, each norm at the learning rate with the lowest training loss."""
    runs = source.parts.runs
    runs = runs[runs["block"] == next(iter(source.parts.blocks))]
    chosen = rates_by_training(source.results, runs) if source.parts.rates else {}
    of_run = zip(runs["block"], runs["norm"], runs["rate"], strict=True)
    runs = runs[[chosen.get((block, norm), rate) == rate for block, norm, rate in of_run]]
    lines = fit_lines(source.results, runs)
    if lines is None:
        return
    shown = sorted(set(lines["norm"]), key=LEGEND.index)
    lines = lines.assign(panel=lines["norm"]).sort_values("norm", key=lambda s: s.map(shown.index), kind="stable")
    points = data_points(source.results, source.comparison.group.get("data"))
    block = next(iter(source.parts.blocks))
    rates = "; each norm at the learning rate with the lowest training loss" if chosen else ""
    caption = (
        f"{f'At {block}. ' if block else ''}Outputs by population statistics over the range of the training rows, one "
        f"line per seed (at most {MOST_FITS}), in SDs of the training target{rates}. Dots: the training rows. No "
        "intervals: each line is one network.",
    )
    alt = f"Fitted curves over the data, one panel per norm: {', '.join(shown)}. {caption[0]}"
    grid = Grid(min(5, len(shown)), 720 // min(5, len(shown)) - 30, 170)
    view = make_view(caption, alt, charts.fits(lines, points, grid), _drawn(lines, points))
    yield make_figure(source, "fits", FITS, [view])


def fit_lines(results: Results, runs: DataFrame) -> DataFrame | None:
    """Of the last epoch: norm, seed, x, y for the first seeds; None unless there is one feature and one output."""
    frame = measured(results, "predictions", runs)
    if frame is None or frame["x2"].notna().any() or frame["output"].nunique() != 1:
        return None
    seeds = sorted(set(frame["seed"]))[:MOST_FITS]
    frame = frame[frame["seed"].isin(seeds) & (frame["epoch"] == frame["epoch"].max())]
    drawn: DataFrame = frame.rename(columns={"x1": "x", "value_population": "y"})[["norm", "seed", "x", "y"]]
    return drawn


def data_points(results: Results, name: str | None) -> DataFrame:
    """x, y of the training rows; empty where the data cannot be had any more."""
    fields: list[DataFields] = [s.data for s in results.spec.settings if name is None or s.data.name == name]
    try:
        rows = load_dataset(fields[0]).train
    except DataError:
        return DataFrame({"x": pd.Series(dtype=float), "y": pd.Series(dtype=float)})
    return DataFrame({"x": rows.features[:, 0].astype(float), "y": rows.targets.astype(float)})


def _drawn(lines: DataFrame, points: DataFrame) -> DataFrame:
    """The numbers of the figure: the data once, then each network's answers."""
    dots = points.assign(what="training row", norm="", seed="")
    return pd.concat([dots, lines.assign(what="answer")])[["what", "norm", "seed", "x", "y"]]
