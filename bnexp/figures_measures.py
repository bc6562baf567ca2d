"""Figures of the measures: how far activations move, what the layers below do to a gradient, and the loss along it.

Each is drawn for one block at a time at one learning rate, which readers may switch; what stands first is what the
other figures of the networks' inside show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from pandas import DataFrame

from bnexp import charts
from bnexp.aggregates import bands, measured
from bnexp.chart_parts import Quantity
from bnexp.figure_cases import MOST_SETTINGS, Case, cases, choices, epochs_of, spread
from bnexp.figure_parts import (
    EVERY_SEED,
    Figure,
    Rows,
    Source,
    View,
    by_layer,
    gaps_text,
    grid_of,
    make_figure,
    make_view,
    n_text,
    ordered,
    panel_text,
    rows_of_panels,
)
from bnexp.figures_inside import norm_output

SHIFT, LANDSCAPE = "How far activations have moved", "The loss along the gradient"
ICS, RANK, GRADIENTS = "Internal covariate shift", "How many directions activations use", "Gradients, layer by layer"
FEWEST_LAYERS = 3  # two points are no curve
MOST_SIDE_BY_SIDE = 4  # learning rates in one row
# Squared SDs: the rounding of float32 and what ε does to a standardized value lie below, a millionth of an SD² above.
ROUNDING = 1e-9
GEOMETRIC = EVERY_SEED.replace("means", "geometric means")


# --- shift ------------------------------------------------------------------------------------------------------------

SINCE = {"start": "the start", "previous": "the reading before"}
PARTS = {
    "moved_mean": (("Δmean²", "(SD², log scale)"), "the mean"),
    "moved_scale": (("Δscale²", "(SD², log scale)"), "the scale"),
    "moved_reshuffle": (("reshuffling", "(SD², log scale)"), "reshuffling"),
}


def shift(source: Source) -> Iterator[Figure]:
    """The three parts of E(a′ − a)², of what the next layer receives."""
    made = cases(source, len(SINCE))
    views = [view for case in made for since in SINCE for view in _shift_view(source, case, since, len(made) * 2)]
    if views:
        yield make_figure(source, "shift", SHIFT, views, choices(made, since=tuple(SINCE.values())))


def _shift_view(source: Source, case: Case, since: str, views: int) -> Iterator[View]:
    frame = measured(source.results, "shift", case.runs)
    if frame is None:
        return
    frame = by_layer(received(frame[frame["since"] == since]))
    above = {column: frame[~_at_rounding(frame, column)] for column in PARTS}
    rows = [(Quantity(title, log=True), above[column], column) for column, (title, _) in PARTS.items()]
    drawn = rows_of_panels(rows, most=epochs_of(views, 3 * len(frame[["panel", "norm"]].drop_duplicates())))
    if drawn is None:
        return
    caption = (
        f"{case.lead}What the next layer receives, each unit in SDs of its own at {SINCE[since]}, means over units; "
        "the mean squared move of a probe row is the sum of three: Δmean², the change of the unit's mean; Δscale², "
        "that of its SD; and reshuffling, rows changing places, which grows with the SD.",
        f"{GEOMETRIC}; {drawn.n}.",
        _zeros(frame),
        drawn.gaps,
        case.missing,
    )
    alt = f"Line charts of three parts of the shift of activations over epochs, per layer. {caption[0]}"
    yield make_view(caption, alt, drawn.chart, drawn.data, (case.block, case.rate, SINCE[since]))


def received(frame: DataFrame) -> DataFrame:
    """The rows of the tap that the next layer reads: the activation, or the norm's output where that comes after."""
    before = (frame["placement"] == "pre") & (frame["tap"] == "activation")
    return pd.concat([frame[before], norm_output(frame[frame["placement"] == "post"])])


def _at_rounding(frame: DataFrame, column: str) -> pd.Series[bool]:
    """Rows of lines that are nothing but rounding from end to end."""
    return frame.groupby(["panel", "norm"])[column].transform("max") < ROUNDING


def _zeros(frame: DataFrame) -> str:
    gone = {word: sorted(set(frame[_at_rounding(frame, column)]["norm"])) for column, (_, word) in PARTS.items()}
    said = [f"{word} of {' and '.join(norms)}" for word, norms in gone.items() if norms]
    return f"Zero but for rounding, and not drawn: {'; '.join(said)}." if said else ""


# --- one row per layer and epoch --------------------------------------------------------------------------------------


class Layered(NamedTuple):
    """A figure of a table that has layers: title, rows (axis title, log scale, column), definition, first layer."""

    title: str
    rows: Sequence[tuple[tuple[str, ...], bool, str]]
    definition: str
    first_layer: int = 1


LAYERED = {
    "ics": Layered(
        ICS,
        (
            (("relative", "(log scale)"), True, "relative"),
            (("absolute", "(loss/weight, log scale)"), True, "difference"),
        ),
        "How much the gradient G of a layer's weights changes when the layers below take the optimizer's next step: "
        "relative ‖G − G′‖/‖G‖, absolute ‖G − G′‖ (Santurkar et al. 2018, Def. 2.1), on the minibatch of the epoch's "
        "first step. Layer 1 has nothing below it; the last layer is the output.",
        first_layer=2,
    ),
    "rank": Layered(
        RANK,
        ((("effective rank",), False, "effective_rank"), (("centred",), False, "effective_rank_centered")),
        "How many directions the values that the next layer receives use on the probe rows: (Σλ)²/Σλ² of the "
        "eigenvalues λ of HHᵀ (after Daneshmand et al. 2020); above as they are, below less each unit's mean.",
    ),
    "gradients": Layered(
        GRADIENTS,
        ((("∑(∂L/∂a)²", "(log scale)"), True, "gradient_square"),),
        "The gradient that arrives at a layer's preactivations a: the sum over probe rows of (∂ mean loss/∂a)², mean "
        "over units (after Yang et al. 2019). The last layer is the output.",
    ),
}


def layered(source: Source) -> Iterator[Figure]:
    """What the layers below do to a gradient, the rank of activations, and the gradients themselves."""
    made = cases(source)
    for table in LAYERED:
        views = [view for case in made for view in _layered_view(source, case, table, len(made))]
        if views:
            yield make_figure(source, table, LAYERED[table].title, views, choices(made))


def _layered_view(source: Source, case: Case, table: str, views: int) -> Iterator[View]:
    what, frame = LAYERED[table], measured(source.results, table, case.runs)
    if frame is None:
        return
    frame = received(frame) if "tap" in frame.columns else frame
    frame = frame[frame["layer"] >= what.first_layer]
    drawn = _by_epoch(what, frame, views) or _by_layer(what, frame)
    if drawn is None:
        return
    means = GEOMETRIC if what.rows[0][1] else EVERY_SEED
    caption = (f"{case.lead}{what.definition}", f"{means}; {drawn.n}.", drawn.gaps, case.missing)
    alt = f"Line charts over epochs or layers. {caption[0]}"
    yield make_view(caption, alt, drawn.chart, drawn.data, (case.block, case.rate))


def _by_epoch(what: Layered, frame: DataFrame, views: int) -> Rows | None:
    frame = by_layer(frame)
    rows = [(Quantity(title, log), frame, column) for title, log, column in what.rows]
    most = epochs_of(views, len(rows) * len(frame[["panel", "norm"]].drop_duplicates()))
    return rows_of_panels(rows, 150, most)


def _by_layer(what: Layered, frame: DataFrame) -> Rows | None:
    """Of a table with one or two epochs: its first row's column from layer to layer, one panel per epoch."""
    title, log, column = what.rows[0]
    frame = frame.dropna(subset=column).assign(
        panel=[f"epoch {epoch}" for epoch in frame.dropna(subset=column)["epoch"]]
    )
    if frame["layer"].nunique() < FEWEST_LAYERS:
        return None
    lines = ordered(bands(frame, ["panel", "norm", "layer"], column, log), frame, "layer")
    gaps = len(frame[["panel", "norm", "layer"]].drop_duplicates()) - len(lines)
    chart = charts.curves(lines, Quantity(title, log), grid_of(lines["panel"].nunique()))
    return Rows(chart, n_text(lines), gaps_text(gaps), lines)


# --- landscape --------------------------------------------------------------------------------------------------------

RULES = {"lr": "the learning rate", "relative": "relative to the weights"}
ALONG = {
    "loss_range": ("loss:", "greatest − least"),
    "gradient_change_max": ("greatest change", "of the gradient"),
    "effective_smoothness": ("greatest change", "per distance"),
}


def landscape(source: Source) -> Iterator[Figure]:
    """Loss and gradient along the gradient; learning rates side by side."""
    blocks = list(source.parts.blocks)[:MOST_SETTINGS]
    views = [view for block in blocks for rule in RULES for view in _landscape_view(source, block, rule, len(blocks))]
    if views:
        options = {"setting": blocks, "step length": tuple(RULES.values())}
        yield make_figure(source, "landscape", LANDSCAPE, views, options)


def _landscape_view(source: Source, block: str, rule: str, blocks: int) -> Iterator[View]:
    runs = source.parts.runs[source.parts.runs["block"] == block]
    frame = measured(
        source.results, "landscape", runs[runs["rate"].isin(spread(source.parts.rates or ("",), MOST_SIDE_BY_SIDE))]
    )
    if frame is None or not (frame["step_rule"] == rule).any():
        return
    frame = frame[frame["step_rule"] == rule].sort_values("rate", key=_as_numbers, kind="stable")
    frame = frame.assign(
        panel=[panel_text("", rate) for rate in frame["rate"]], loss_range=frame["loss_max"] - frame["loss_min"]
    )
    rows = [(Quantity(title, log=True), frame, column) for column, title in ALONG.items()]
    lines = len(frame[["panel", "norm"]].drop_duplicates())
    drawn = rows_of_panels(rows, 120, epochs_of(2 * blocks, 3 * lines))
    if drawn is None:
        return
    caption = (
        f"{f'At {block}. ' if block else ''}Steps of eight lengths, half to four times {_unit_step(rule)}, against the "
        "gradient on the minibatch of the epoch's first step (Santurkar et al. 2018, Fig. 4): the range of the loss "
        "over the eight, the greatest change of the gradient, and the greatest change per distance moved, the "
        "effective β-smoothness. Log scales.",
        f"{GEOMETRIC}; {drawn.n}.",
        drawn.gaps,
        Case(block, "", runs).missing,
    )
    alt = f"Line charts of loss and gradient along the gradient over epochs. {caption[0]}"
    yield make_view(caption, alt, drawn.chart, drawn.data, (block, RULES[rule]))


def _unit_step(rule: str) -> str:
    return "the learning rate" if rule == "lr" else "one fixed share of the weights' norm"


def _as_numbers(column: pd.Series[str]) -> pd.Series[float]:
    return column.map(lambda rate: float(rate or 0))
