"""What charts are made of: how a line looks, axes, and the spec with its fonts and what a mouse can do.

A norm has one colour, one dash and one shape everywhere (colours after Okabe & Ito 2008, which colour-blind readers can
tell apart).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
from pandas import DataFrame

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
TEXT, LABEL = 13, 12  # pixels
FADED = 0.07  # factor of the opacity of norms that are not picked in the legend
MOST_TICKS = 8
PICKED, VIEW, ZOOM = "picked", "points", "zoom-"  # names of the selections and of the views where they live
# A finger and a bare wheel scroll the page; only a mouse that drags, and a wheel with shift, reach into a chart.
DRAG = "[pointerdown[event.pointerType === 'mouse'], window:pointerup] > window:pointermove!"
WHEEL = "wheel![event.shiftKey]"


class Style(NamedTuple):
    """How a norm looks."""

    color: str
    dash: tuple[int, ...]
    shape: str


STYLES = {
    "none": Style("#454545", (2, 2), "circle"),
    "affine": Style("#B87800", (6, 3), "diamond"),
    "center": Style("#3A9BD0", (1, 3), "triangle-left"),
    "scale": Style("#882255", (10, 3, 2, 3, 2, 3), "triangle-right"),
    "standardize": Style("#D55E00", (10, 4), "square"),
    "gamma": Style("#C0579A", (8, 3, 2, 3), "cross"),
    "beta": Style("#009E73", (4, 2), "triangle-down"),
    "full": Style("#0072B2", (1, 0), "triangle-up"),
}


# Lines that are not norms: what one network is measured against.
KINDS = {
    "minibatches": Style("#0072B2", (1, 0), "circle"),
    "expected of minibatches": Style("#454545", (2, 2), "square"),
    "γ = SD": Style("#D55E00", (10, 4), "diamond"),
    "full batch": Style("#009E73", (4, 2), "cross"),
    "from γ = 1, β = 0": Style("#0072B2", (1, 0), "triangle-up"),
    "from the identity": Style("#D55E00", (10, 4), "triangle-down"),
}
LOOKS = {**STYLES, **KINDS}


class Lines(NamedTuple):
    """The column that tells lines apart, ``norm`` or ``line``, and its values in the order of the legend."""

    column: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Quantity:
    """What a vertical axis shows. ``title`` has one text per line; ``ticks``: where, if not where it suits."""

    title: tuple[str, ...]
    log: bool = False
    percent: bool = False
    ticks: tuple[float, ...] = ()


class Grid(NamedTuple):
    """Panels side by side and the size of one, in pixels."""

    columns: int
    width: int
    height: int


# --- axes -------------------------------------------------------------------------------------------------------------


def time_of(frame: DataFrame) -> str:
    """The column of the horizontal axis: epochs, where the frame has them, else optimizer steps or layers."""
    return next(name for name in ("epoch", "step", "layer") if name in frame.columns)


def epochs(frame: DataFrame, labelled: bool = True) -> alt.X:
    """Epochs (steps, layers) from the first to the last drawn; ``labelled``: whether numbers stand at the axis."""
    quiet: dict[str, Any] = {} if labelled else {"labels": False, "ticks": False}
    time = time_of(frame)
    ends = [int(frame[time].min()), int(frame[time].max())]
    axis = alt.Axis(format="d", tickCount=max(1, min(6, ends[1] - ends[0])), **quiet)
    domain = alt.Scale(nice=False, domain=ends) if ends[0] < ends[1] else alt.Scale(nice=False)
    return alt.X(f"{time}:Q", title=time if labelled else None, axis=axis, scale=domain)


def rates(frame: DataFrame) -> alt.X:
    """Learning rates on a log axis: each that was trained is marked, of many only the decades."""
    known, low, high = sorted(set(frame["rate"])), float(frame["x"].min()), float(frame["x"].max())
    decades = [float(f"1e{power}") for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    marked = known if len(known) <= MOST_TICKS or len(decades) < 2 else decades
    axis = alt.Axis(values=marked, format="~g", labelOverlap=True)
    room = (high / low) ** 0.04
    scale = alt.Scale(type="log", nice=False, domain=[low / room, high * room])
    return alt.X("x:Q", title="learning rate (log scale)", axis=axis, scale=scale)


def vertical(column: str, quantity: Quantity, bounds: tuple[float, float]) -> alt.Y:
    """The axis of a column, between fixed ends."""
    scale: dict[str, Any] = {"type": "log"} if quantity.log else {"zero": False}
    ticks = _log_ticks(*bounds) if quantity.log else list(quantity.ticks)
    shown: dict[str, Any] = {"values": ticks} if ticks else {"tickCount": 5}
    if quantity.log:
        shown["labelExpr"] = "format(datum.value, datum.value < 0.001 ? '.0e' : '~g')"
    axis = alt.Axis(format="~%" if quantity.percent else "~g", titleLineHeight=15, **shown)
    return alt.Y(
        f"{column}:Q", title=list(quantity.title), axis=axis, scale=alt.Scale(domain=list(bounds), nice=False, **scale)
    )


def _log_ticks(low: float, high: float) -> list[float]:
    """Decades; where these are fewer than three, also numbers between them; none where that is not enough either."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)):
        ticks = [tick for decade in decades for step in steps if low <= (tick := float(f"{step}e{decade}")) <= high]
        if len(ticks) >= 3:
            return ticks
    return []


def bounds_of(frame: DataFrame, quantity: Quantity, whole_intervals: bool = False) -> tuple[float, float]:
    """The ends of the vertical axis.

    They show every mean, and of the bands as much as triples the height: the band of two runs would squeeze all else.
    ``whole_intervals``: the intervals of points where every run learned are shown to their ends.
    """
    to, back = (math.log, math.exp) if quantity.log else (float, float)
    low, high = to(frame["mean"].min()), to(frame["mean"].max())
    room = math.inf if whole_intervals else max(high - low, 0.05 * abs(high), 1e-6)
    shown = frame[frame["whole"].astype(bool)] if whole_intervals else frame
    ends = [value for name in ("low", "high") for value in shown[name].astype(float) if math.isfinite(value)]
    scaled = [low, high, *(to(value) for value in ends if value > 0 or not quantity.log)]
    bottom, top = max(min(scaled), low - room), min(max(scaled), high + room)
    if quantity.percent and not quantity.log:
        bottom, top = max(bottom, 0.0), min(top, 1.0)
    bottom, top = padded(bottom, top)
    return back(bottom), back(top)


def padded(low: float, high: float) -> tuple[float, float]:
    """Ends with a little room beyond them."""
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


# --- lines ------------------------------------------------------------------------------------------------------------


def lines_of(frame: DataFrame) -> Lines:
    """Which lines a frame has."""
    column = "norm" if "norm" in frame.columns else "line"
    return Lines(column, tuple(name for name in LOOKS if name in set(frame[column])))


def _look(names: Lines, field: str) -> alt.Scale:
    return alt.Scale(domain=names.names, range=[getattr(LOOKS[name], field) for name in names.names])


def _legend(kind: str | None) -> alt.Legend | None:
    """Above the panels, where it hides no data; ``kind``: stroke, symbol, or None for no legend."""
    if kind is None:
        return None
    look: dict[str, Any] = {"symbolSize": 110}
    if kind == "stroke":
        look = {"symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolSize": 600}
    return alt.Legend(title=None, orient="top", symbolOpacity=1, columnPadding=18, offset=6, **look)


def color(names: Lines, legend: str | None) -> alt.Color:
    """The colours of lines, with a legend of this kind."""
    return alt.Color(f"{names.column}:N", scale=_look(names, "color"), legend=_legend(legend))


def dash(names: Lines, legend: str) -> alt.StrokeDash:
    """The dashes of lines."""
    return alt.StrokeDash(f"{names.column}:N", scale=_look(names, "dash"), legend=_legend(legend))


def shape(names: Lines) -> alt.Shape:
    """The shapes of points."""
    return alt.Shape(f"{names.column}:N", scale=_look(names, "shape"), legend=_legend("symbol"))


def picked(opacity: float) -> alt.OpacityValue:
    """Full opacity for the norms that are picked in the legend (all, if none is)."""
    return alt.OpacityValue(FADED * opacity, condition={"param": PICKED, "value": opacity})


def tooltip_of(frame: DataFrame, quantity: Quantity) -> list[alt.Tooltip]:
    """What a point says of itself."""
    words = {
        "norm": "norm:N",
        "line": "line:N",
        "lr": "lr:N",
        "rate": "rate:Q",
        "epoch": "epoch:Q",
        "layer": "layer:Q",
        "n": "n:Q",
    }
    titles = {"rate": "lr"}
    said = [alt.Tooltip(field, title=titles.get(name, name)) for name, field in words.items() if name in frame.columns]
    number = ".3~%" if quantity.percent else ".3~g"
    return [*said, *(alt.Tooltip(f"{name}:Q", format=number) for name in ("mean", "low", "high"))]
