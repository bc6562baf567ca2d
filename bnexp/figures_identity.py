"""Figures of the identity: how close a norm comes to returning its input, and where training takes γ and β."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import bands, measured, thinned
from bnexp.chart_parts import Quantity
from bnexp.figure_parts import (
    FEWEST_EPOCHS,
    MOST_BLOCKS,
    MOST_EPOCHS_SMALL,
    MOST_ROWS,
    TRIPLE,
    Figure,
    Source,
    View,
    broken,
    grid_of,
    make_figure,
    make_view,
    n_text,
    panel_text,
)

IDENTITY, DRIFT = "How close the norm comes to returning its input", "Where training takes γ and β"
RESIDUALS = {
    "minibatch": "minibatches",
    "minibatch_expected": "expected of minibatches",
    "naive": "γ = SD",
    "exact": "full batch",
}
DISTANCES = {
    "γ": {"gamma_from_one": "from γ = 1, β = 0", "gamma_from_root": "from the identity"},
    "β": {"beta_from_zero": "from γ = 1, β = 0", "beta_from_mean": "from the identity"},
}


def identity(source: Source) -> Iterator[Figure]:
    """What is left of a norm's input where γ and β are set to return it; one panel per block and norm."""
    frame = _panels(source)
    if frame is None:
        return
    layers = _layers(frame)
    text = (
        "RMS over rows of γâ + β − a, in SDs of the unit, mean over units (Ioffe & Szegedy 2015, sec. 3). Full batch: "
        "γ = √(variance + ε), β = the mean, statistics of all rows; what is left is rounding. γ = SD: the same but for "
        "ε. Minibatches: γ and β as in full batch, statistics of each minibatch of B rows; expected: √((κ + 3)/4B), κ "
        "the kurtosis."
    )
    quantity = Quantity(("residual", "(SDs, log scale)"), log=True)
    views = [view for layer in layers for view in _view(frame, layer, RESIDUALS, quantity, text, (layer,), len(layers))]
    if views:
        yield make_figure(source, "identity", IDENTITY, views, {"layer": layers})


def drift(source: Source) -> Iterator[Figure]:
    """The distance of γ and β from 1 and 0, and from the values that return the norm's input."""
    frame = _panels(source)
    if frame is None:
        return
    layers = _layers(frame)
    views: list[View] = []
    for symbol, columns in DISTANCES.items():
        identity_value, start = ("√(variance + ε)", "1") if symbol == "γ" else ("the mean of the norm's input", "0")
        text = f"RMS over units of {symbol} − {start} and of {symbol} − {identity_value}, where {symbol} is learned."
        quantity = Quantity((f"distance of {symbol}",))
        for layer in layers:
            views += _view(frame, layer, columns, quantity, text, (symbol, layer), 2 * len(layers))
    if views:
        yield make_figure(source, "drift", DRIFT, views, {"parameter": tuple(DISTANCES), "layer": layers})


def _panels(source: Source) -> DataFrame | None:
    """The table, each block at the learning rate of the other figures, with ``panel``: block and norm."""
    runs = source.parts.runs
    rate = source.rate
    runs = runs[runs["block"].isin(list(source.parts.blocks)[:MOST_BLOCKS]) & (runs["rate"] == rate)]
    frame = measured(source.results, "identity", runs)
    if frame is None:
        return None
    several = frame["norm"].nunique() > 1
    heads = [
        ", ".join(part for part in (panel_text(block, rate), norm if several else "") if part)
        for block, norm in zip(frame["block"], frame["norm"], strict=True)
    ]
    return frame.assign(panel=[broken(head, TRIPLE.width) for head in heads])


def _layers(frame: DataFrame) -> list[str]:
    return [str(layer) for layer in sorted(set(frame["layer"]))]


def _view(
    frame: DataFrame,
    layer: str,
    columns: Mapping[str, str],
    shown: Quantity,
    text: str,
    picked: tuple[str, ...],
    views: int,
) -> Iterator[View]:
    frame = frame[frame["layer"] == int(layer)]
    most = MOST_ROWS // (views * len(columns) * frame["panel"].nunique())
    frame = thinned(frame, max(FEWEST_EPOCHS, min(MOST_EPOCHS_SMALL, most)))
    parts = [
        bands(frame, ["panel", "epoch"], column, shown.log).assign(line=word)
        for column, word in columns.items()
        if column in frame.columns and frame[column].notna().any()
    ]
    lines = pd.concat(parts) if parts else DataFrame({"epoch": []})
    if lines["epoch"].nunique() < FEWEST_EPOCHS:
        return
    panels = [panel for panel in dict.fromkeys(frame["panel"]) if panel in set(lines["panel"])]
    lines = lines.sort_values("panel", key=lambda column: column.map(panels.index), kind="stable")
    mean = "geometric means" if shown.log else "means"
    caption = (f"Layer {layer}. {text}", f"Lines: {mean} over seeds with 95 % Student-t bands; {n_text(lines)}.")
    alt = f"Line chart over epochs, {len(panels)} panels. {caption[0]}"
    data = lines[["panel", "line", "epoch", "n", "mean", "low", "high"]]
    yield make_view(caption, alt, charts.curves(data, shown, grid_of(len(panels))), data, picked)
