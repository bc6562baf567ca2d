"""Figures of what happens inside the networks, for one block at one learning rate at a time."""

from __future__ import annotations

from collections.abc import Iterator

from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import LEGEND, measured, thinned
from bnexp.chart_parts import Grid, Quantity
from bnexp.figure_cases import Case, cases, choices, epochs_of
from bnexp.figure_parts import (
    EVERY_SEED,
    FEWEST_EPOCHS,
    MOST_EPOCHS,
    MOST_ROWS,
    ROW_WIDTH,
    SINGLE,
    Figure,
    Source,
    View,
    by_layer,
    make_figure,
    make_view,
    rows_of_panels,
)

PLACES = {
    "activation": "The activation: what the activation function puts out.",
    "norm output": "The norm's output: y where γ or β is learned, else the standardized value; for none its input.",
    "preactivation": "The preactivation Wx + b.",
}
STATISTICS = {"mean": "mean", "sd": "SD", "saturated": "saturated"}
SATURATED = "Saturated: sigmoid outside [.05, .95], |tanh| above .9, relu exactly 0."
TAPS = ("preactivation", "activation", "standardized", "affine")  # a norm's output is the last that exists
MOST_UNITS = 4  # tracked units among which a reader may switch
INSIDE, UNIT, WEIGHTS = "Activations, layer by layer", "One unit while it trains", "Weights, γ and β"


def activations(source: Source) -> Iterator[Figure]:
    """Mean, SD and saturation, layer by layer, of what the norm is given, of what it puts out, and after that."""
    made = cases(source, len(PLACES))
    views = [view for case in made for place in PLACES for view in _activation_view(source, case, place, len(made))]
    if views:
        yield make_figure(source, "activations", INSIDE, views, choices(made, of=sorted(PLACES, key=_in_order)))


def _activation_view(source: Source, case: Case, place: str, made: int) -> Iterator[View]:
    frame = measured(source.results, "activations", case.runs)
    if frame is None or (place == "norm output" and (frame["norm"] == "none").all()):
        return
    frame = frame[frame["layer"] <= frame["layers"]]
    frame = by_layer(norm_output(frame) if place == "norm output" else frame[frame["tap"] == place])
    rows = [(Quantity((label,), percent=label == "saturated"), frame, column) for column, label in STATISTICS.items()]
    most = epochs_of(made * len(PLACES), len(rows) * len(frame[["panel", "norm"]].drop_duplicates()))
    drawn = rows_of_panels(rows if place == "activation" else rows[:2], most=most)
    if drawn is None:
        return
    caption = (
        f"{case.lead}{PLACES[place]} Statistics of the probe rows per unit, averaged over the units of a layer.",
        SATURATED if "saturated" in set(drawn.data["quantity"]) else "",
        f"{EVERY_SEED}; {drawn.n}.",
        drawn.gaps,
        case.missing,
    )
    alt = f"Small line charts of activation statistics per layer over epochs. {caption[0]}"
    yield make_view(caption, alt, drawn.chart, drawn.data, (case.block, case.rate, place))


def _in_order(place: str) -> int:
    return ("preactivation", "norm output", "activation").index(place)


def norm_output(frame: DataFrame) -> DataFrame:
    """The rows of the tap that the norm puts out: the last of its taps; its input where there is no norm."""
    before = frame["tap"].where((frame["placement"] == "post") | (frame["tap"] != "activation"))
    ranked = frame.assign(_rank=before.map({tap: index for index, tap in enumerate(TAPS)})).dropna(subset="_rank")
    last = ranked.groupby(["run", "epoch", "layer"])["_rank"].transform("max")
    return ranked[ranked["_rank"] == last].drop(columns="_rank")


def one_unit(source: Source) -> Iterator[Figure]:
    """The paper's Fig. 1 for one unit at a time and one seed."""
    made = cases(source, MOST_UNITS)
    views = [view for case in made for view in _unit_views(source, case, len(made))]
    if views:
        units = sorted({view.picked[2] for view in views}, key=int)
        yield make_figure(source, "unit", UNIT, views, choices(made, unit=units))


def _unit_views(source: Source, case: Case, made: int) -> Iterator[View]:
    traced = measured(source.results, "shift_steps", case.runs)
    frame, time = (measured(source.results, "units", case.runs), "epoch") if traced is None else (traced, "step")
    if frame is None:
        return
    frame = frame[(frame["seed"] == frame["seed"].min()) & (frame["layer"] == frame["layers"])]
    given = frame[~((frame["placement"] == "post") & (frame["tap"] != "preactivation"))]
    for unit in sorted(set(given["unit"]))[:MOST_UNITS]:
        lines = norm_output(given[given["unit"] == unit])
        shown = sorted(set(lines["norm"]), key=LEGEND.index)
        lines = lines.sort_values(["norm", time], key=lambda s: s.map(shown.index) if s.name == "norm" else s)
        most = MOST_ROWS // (made * MOST_UNITS * len(shown))
        lines = thinned(lines, max(FEWEST_EPOCHS, min(MOST_EPOCHS, most)), time)
        lines = lines[["norm", time, "layer", "unit", "seed", "p15", "p50", "p85"]].assign(panel=lines["norm"])
        if lines[time].nunique() >= FEWEST_EPOCHS:
            yield _unit_view(case, lines, shown, time)


def _unit_view(case: Case, lines: DataFrame, shown: list[str], time: str) -> View:
    layer, unit, seed = (int(lines[name].iloc[0]) for name in ("layer", "unit", "seed"))
    grid = Grid(min(3, len(shown)), SINGLE.width if len(shown) == 1 else ROW_WIDTH // min(3, len(shown)) - 30, 190)
    caption = (
        f"{case.lead}One run per norm, seed {seed}: no averages, no intervals. The 15th, 50th and 85th percentile "
        f"over the probe rows of what unit {unit} of layer {layer}, the last hidden one, gives to its activation "
        "function: y where γ or β is learned, else the standardized value, else the preactivation Wx + b. Compare "
        f"Fig. 1 of Ioffe & Szegedy 2015{'' if time == 'step' else '; it counts steps, this figure epochs'}.",
        case.missing,
    )
    alt = f"Percentile lines of one unit over {time}s, one panel per norm: {', '.join(shown)}. {caption[0]}"
    drawn = lines.drop(columns=["layer", "unit", "seed"])
    chart = charts.percentiles(drawn, Quantity(("input of the activation",)), grid)
    return make_view(caption, alt, chart, lines.drop(columns="panel"), (case.block, case.rate, str(unit)))


def parameters(source: Source) -> Iterator[Figure]:
    """Norms of the weights, of γ and of β."""
    made = cases(source)
    views = [view for case in made for view in _parameter_view(source, case, len(made))]
    if views:
        yield make_figure(source, "parameters", WEIGHTS, views, choices(made))


def _parameter_view(source: Source, case: Case, made: int) -> Iterator[View]:
    frame = measured(source.results, "parameters", case.runs)
    if frame is None:
        return
    frame = by_layer(frame)
    named = {"weight_norm": "‖W‖", "gamma_norm": "‖γ‖", "beta_norm": "‖β‖"}
    most = epochs_of(made, len(named) * len(frame[["panel", "norm"]].drop_duplicates()))
    drawn = rows_of_panels([(Quantity((symbol,)), frame, column) for column, symbol in named.items()], most=most)
    if drawn is None:
        return
    caption = (
        f"{case.lead}Euclidean norms of the weight matrices and, where they are learned, of γ and β. The last layer is "
        "the output, which has no norm.",
        f"{EVERY_SEED}; {drawn.n}.",
        drawn.gaps,
        case.missing,
    )
    alt = f"Small line charts of parameter norms per layer over epochs. {caption[0]}"
    yield make_view(caption, alt, drawn.chart, drawn.data, (case.block, case.rate))
