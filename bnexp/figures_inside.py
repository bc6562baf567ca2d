"""Figures of what happens inside the networks, for one block at one learning rate."""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, measured, thinned
from bnexp.chart_parts import Grid, Quantity
from bnexp.figure_parts import (
    EVERY_SEED,
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    ROW_WIDTH,
    Figure,
    Source,
    at,
    by_layer,
    make_figure,
    make_view,
    rows_of_panels,
)

TAPS = ("preactivation", "activation", "standardized", "affine")  # a norm's output is the last that exists
INSIDE, UNIT, WEIGHTS = "Activations, layer by layer", "One unit while it trains", "Weights, γ and β"


def activations(source: Source) -> Iterator[Figure]:
    """Mean, SD and saturation, layer by layer, in the order in which numbers pass through a layer."""
    frame = measured(source.results, "activations", source.runs)
    if frame is None:
        return
    frame = by_layer(frame[frame["layer"] <= frame["layers"]])
    output = norm_output(frame)
    places = {
        "preactivation": frame[frame["tap"] == "preactivation"],
        "activation": frame[frame["tap"] == "activation"],
    }
    if (frame["norm"] != "none").any():
        places["norm output"] = output
        if (frame["placement"] == "pre").all():
            places["activation"] = places.pop("activation")  # to the end: the order in which numbers pass
    rows = [
        (Quantity((place, label), percent=column == "saturated"), found, column)
        for place, found in places.items()
        for column, label in (("mean", "mean"), ("sd", "SD"), ("saturated", "saturated"))
        if column != "saturated" or place == "activation"
    ]
    drawn = rows_of_panels(rows)
    if drawn is None:
        return
    caption = (
        f"{at(source)}{EVERY_SEED}; {drawn.n}. Statistics of the probe rows per unit, averaged over the units of a "
        "layer. The preactivation is Wx + b, the norm output is y (for norm none, its input); standardized values "
        "have mean 0 and SD 1 by construction. Saturated: sigmoid outside [.05, .95], |tanh| above .9, relu exactly 0.",
    )
    alt = f"Small line charts of activation statistics per layer over epochs. {caption[0]}"
    yield make_figure(source, "activations", INSIDE, [make_view(caption, alt, drawn.chart, drawn.data)])


def norm_output(frame: DataFrame) -> DataFrame:
    """The rows of the tap that the norm puts out: the last of its taps; its input where there is no norm."""
    before = frame["tap"].where((frame["placement"] == "post") | (frame["tap"] != "activation"))
    ranked = frame.assign(_rank=before.map({tap: index for index, tap in enumerate(TAPS)})).dropna(subset="_rank")
    last = ranked.groupby(["run", "epoch", "layer"])["_rank"].transform("max")
    return ranked[ranked["_rank"] == last].drop(columns="_rank")


def one_unit(source: Source) -> Iterator[Figure]:
    """The paper's Fig. 1 for one unit and one seed."""
    frame = measured(source.results, "units", source.runs)
    if frame is None:
        return
    frame = frame[(frame["seed"] == frame["seed"].min()) & (frame["layer"] == frame["layers"])]
    given = frame[~((frame["placement"] == "post") & (frame["tap"] != "preactivation"))]
    lines = norm_output(given[given["unit"] == given["unit"].min()])
    lines = lines[["norm", "epoch", "layer", "unit", "seed", "p15", "p50", "p85"]].assign(panel=lines["norm"])
    if lines["epoch"].nunique() < FEWEST_EPOCHS:
        return
    shown = sorted(set(lines["norm"]), key=LEGEND.index)
    lines = thinned(lines.sort_values("norm", key=lambda s: s.map(shown.index), kind="stable"), MOST_EPOCHS)
    layer, unit, seed = (int(lines[name].iloc[0]) for name in ("layer", "unit", "seed"))
    grid = Grid(min(3, len(shown)), 560 if len(shown) == 1 else ROW_WIDTH // min(3, len(shown)) - 30, 190)
    caption = (
        f"{at(source)}One run per norm, seed {seed}: no averages, no intervals. The 15th, 50th and 85th percentile "
        f"over the probe rows of what unit {unit} of layer {layer}, the last hidden one, gives to its activation "
        "function: y where γ or β is learned, else the standardized value, else the preactivation Wx + b. Compare "
        "Fig. 1 of Ioffe & Szegedy 2015; it counts steps, this figure epochs.",
    )
    alt = f"Percentile lines of one unit over epochs, one panel per norm: {', '.join(shown)}. {caption[0]}"
    chart = charts.percentiles(
        lines.drop(columns=["layer", "unit", "seed"]), Quantity(("input of the activation",)), grid
    )
    yield make_figure(source, "unit", UNIT, [make_view(caption, alt, chart, lines.drop(columns="panel"))])


def parameters(source: Source) -> Iterator[Figure]:
    """Norms of the weights, of γ and of β."""
    frame = measured(source.results, "parameters", source.runs)
    if frame is None:
        return
    named = (("‖W‖", "weight_norm"), ("‖γ‖", "gamma_norm"), ("‖β‖", "beta_norm"))
    drawn = rows_of_panels([(Quantity((symbol,)), by_layer(frame), column) for symbol, column in named])
    if drawn is None:
        return
    caption = (
        f"{at(source)}{EVERY_SEED}; {drawn.n}. Euclidean norms of the weight matrices and, where they are learned, of "
        "γ and β. The last layer is the output, which has no norm.",
    )
    alt = f"Small line charts of parameter norms per layer over epochs. {caption[0]}"
    yield make_figure(source, "parameters", WEIGHTS, [make_view(caption, alt, drawn.chart, drawn.data)])
