"""DataFrames to Altair charts, one definition serves the page and the paper.

Frames hold what is drawn and nothing else; means and intervals come from bnexp.aggregates. A norm has one colour, one
dash and one shape everywhere (colours after Okabe & Ito 2008, which colour-blind readers can tell apart).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
from pandas import DataFrame

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
TEXT, LABEL = 13, 12  # pixels
DIGITS = 5  # significant digits of the numbers in a chart: a pixel is coarser
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


@dataclass(frozen=True)
class Quantity:
    """What a vertical axis shows. ``title`` has one text per line."""

    title: tuple[str, ...]
    log: bool = False
    percent: bool = False


class Grid(NamedTuple):
    """Panels side by side and the size of one, in pixels."""

    columns: int
    width: int
    height: int


# --- charts -----------------------------------------------------------------------------------------------------------


def curves(frame: DataFrame, quantity: Quantity, grid: Grid) -> alt.FacetChart:
    """Lines over epochs with bands: panel, norm, epoch, n, mean, low, high; further columns go into the tooltip."""
    return _wrapped(_curve_layers(frame, quantity, _norms(frame), _epochs(frame), VIEW), frame, grid)


def rows_of(rows: Sequence[tuple[DataFrame, Quantity]], grid: Grid) -> alt.VConcatChart:
    """Rows of such panels under one line of heads and over one axis; each row has its own vertical axis."""
    made, every = [], pd.concat([frame for frame, _ in rows])
    for index, (frame, quantity) in enumerate(rows):
        below = set(rows[index + 1][0]["panel"]) if index + 1 < len(rows) else set()
        x = _epochs(every, labelled=not set(frame["panel"]) <= below)
        layers = _curve_layers(frame, quantity, _norms(every), x, f"{VIEW}{index}")
        made.append(_in_row(layers, frame, grid, head=index == 0))
    return alt.vconcat(*made, spacing=10)


def _curve_layers(frame: DataFrame, quantity: Quantity, norms: Sequence[str], x: alt.X, view: str) -> list[alt.Chart]:
    base, bounds = alt.Chart().encode(x=x, color=_color(norms, "stroke")), _bounds(frame, quantity)
    band = base.mark_area(strokeWidth=0, clip=True).encode(
        y=_y("low", quantity, bounds), y2="high:Q", opacity=_picked(0.16)
    )
    y = _y("mean", quantity, bounds)
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=_dash(norms, "stroke"), opacity=_picked(1.0))
    dots = base.mark_point(size=90, opacity=0).encode(y=y, tooltip=_tooltip(frame, quantity))
    return [band, line, dots.properties(name=view)]


def rate_picture(metric: DataFrame, learned: DataFrame, quantity: Quantity, grid: Grid) -> alt.VConcatChart:
    """The final metric and the share that learned against the learning rate.

    Both frames: panel, norm, rate, x (the rate, moved a little apart per norm), mean, low, high; ``metric`` also says
    ``whole``: whether every run learned. Lines join the points where that is so, and the axis is made for these.
    ``metric`` may be empty.
    """
    learned = learned.assign(whole=True)
    every = pd.concat([metric, learned]) if len(metric) else learned
    x, norms = _rates(every), _norms(every)
    share = Quantity(("share that", "learned"), percent=True)
    below = _rate_layers(learned, share, norms, x, (-0.04, 1.04), f"{VIEW}1")
    low = _wrapped(below, learned, grid._replace(height=grid.height // 2))
    if not len(metric):
        return alt.vconcat(low)
    bounds = _bounds(metric, quantity, whole_intervals=True)
    above = _rate_layers(metric, quantity, norms, x, bounds, f"{VIEW}0")
    return alt.vconcat(_wrapped(above, metric, grid), low, spacing=18)


def _rate_layers(
    frame: DataFrame, quantity: Quantity, norms: Sequence[str], x: alt.X, bounds: tuple[float, float], view: str
) -> list[alt.Chart]:
    base, tooltip = alt.Chart().encode(x=x, color=_color(norms, "symbol")), _tooltip(frame, quantity)
    y = _y("mean", quantity, bounds)
    whole, part = base.transform_filter("datum.whole"), base.transform_filter("!datum.whole")
    line = whole.mark_line(strokeWidth=1.5).encode(y=y, opacity=_picked(0.8))
    rule = base.mark_rule(strokeWidth=2, clip=True).encode(
        y=_y("low", quantity, bounds), y2="high:Q", opacity=_picked(1.0)
    )
    shapes = {"y": y, "shape": _shape(norms), "opacity": _picked(1.0), "tooltip": tooltip}
    filled = whole.mark_point(size=70, filled=True).encode(**shapes)
    hollow = part.mark_point(size=70, filled=False, fill="white", strokeWidth=1.8).encode(**shapes)
    return [line, rule, filled, hollow.properties(name=view)]


def percentiles(frame: DataFrame, quantity: Quantity, grid: Grid) -> alt.FacetChart:
    """The 15th, 50th and 85th percentile of one unit over epochs: panel, norm, epoch, p15, p50, p85."""
    base = alt.Chart().encode(x=_epochs(frame), color=_color(_norms(frame), None))
    names = ("p15", "p50", "p85")
    bounds = _padded(float(frame["p15"].min()), float(frame["p85"].max()))
    band = base.mark_area(opacity=0.12, strokeWidth=0).encode(y=_y("p15", quantity, bounds), y2="p85:Q")
    lines = [
        base.mark_line(strokeWidth=2.5 if name == "p50" else 1.2).encode(y=_y(name, quantity, bounds)) for name in names
    ]
    said = [alt.Tooltip("norm:N"), alt.Tooltip("epoch:Q"), *(alt.Tooltip(f"{name}:Q", format=".3~g") for name in names)]
    dots = base.mark_point(size=90, opacity=0).encode(y=_y("p50", quantity, bounds), tooltip=said)
    return _wrapped([band, *lines, dots.properties(name=VIEW)], frame, grid)


def fits(lines: DataFrame, points: DataFrame, grid: Grid) -> alt.FacetChart:
    """Curves over the data: ``lines`` has panel, norm, seed, x, y; ``points`` x, y, drawn in every panel."""
    panels = lines[["panel", "norm"]].drop_duplicates("panel")
    everywhere = panels.merge(points, how="cross").assign(dot=True)
    frame = pd.concat([everywhere, lines.assign(dot=False)], ignore_index=True)
    frame["seed"] = frame["seed"].fillna(-1).astype(int)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=None, axis=alt.Axis(format="~g", tickCount=3), scale=alt.Scale(nice=False)),
        y=alt.Y("y:Q", title=None, axis=alt.Axis(format="~g", tickCount=4), scale=alt.Scale(zero=False)),
    )
    dots = base.transform_filter("datum.dot").mark_circle(size=14, color="#9a9a9a", opacity=0.7)
    line = base.transform_filter("!datum.dot").mark_line(strokeWidth=1.3, opacity=0.75)
    drawn = line.encode(color=_color(_norms(lines), None), detail="seed:N", order="x:Q")
    return _wrapped([dots, drawn], frame, grid)


# --- panels -----------------------------------------------------------------------------------------------------------


def _wrapped(layers: Sequence[alt.Chart], frame: DataFrame, grid: Grid) -> alt.FacetChart:
    """One panel per value of ``panel``, in the order of the frame; a line break in it makes a second line."""
    panels = list(dict.fromkeys(frame["panel"]))
    columns = min(grid.columns, len(panels))
    facet = alt.Facet("panel:N", sort=panels, header=_header(any(panels)), title=None)
    made = _layered(layers, frame, grid).facet(facet=facet, columns=columns, spacing=18)
    # else an axis is drawn under the cells that stay empty
    return made.resolve_axis(x="independent") if len(panels) % columns else made


def _in_row(layers: Sequence[alt.Chart], frame: DataFrame, grid: Grid, head: bool) -> alt.FacetChart:
    panels = list(dict.fromkeys(frame["panel"]))
    column = alt.Column("panel:N", sort=panels, header=_header(head), title=None)
    return _layered(layers, frame, grid).facet(column=column).properties(spacing=18)


def _layered(layers: Sequence[alt.Chart], frame: DataFrame, grid: Grid) -> alt.LayerChart:
    made = alt.LayerChart(layer=list(layers), data=_inline(frame))
    return made.properties(width=grid.width, height=grid.height)


def _header(shown: bool) -> alt.Header | None:
    return alt.Header(labelExpr="split(datum.label, '\\n')", labelAnchor="start", title=None) if shown else None


# --- data -------------------------------------------------------------------------------------------------------------


def _inline(frame: DataFrame) -> alt.InlineData:
    return alt.InlineData(values=[{str(key): _value(row[key]) for key in row} for row in frame.to_dict("records")])


def _value(value: Any) -> Any:
    """A cell with few digits, and null for what is not a finite number."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


# --- axes -------------------------------------------------------------------------------------------------------------


def _epochs(frame: DataFrame, labelled: bool = True) -> alt.X:
    quiet: dict[str, Any] = {} if labelled else {"labels": False, "ticks": False}
    ends = [int(frame["epoch"].min()), int(frame["epoch"].max())]
    axis = alt.Axis(format="d", tickCount=max(1, min(6, ends[1] - ends[0])), **quiet)
    domain = alt.Scale(nice=False, domain=ends) if ends[0] < ends[1] else alt.Scale(nice=False)
    return alt.X("epoch:Q", title="epoch" if labelled else None, axis=axis, scale=domain)


def _rates(frame: DataFrame) -> alt.X:
    rates = sorted(set(frame["rate"]))
    marked: Any = rates if len(rates) <= MOST_TICKS else alt.Undefined
    axis = alt.Axis(values=marked, format="~g", labelOverlap=True)
    low, high = float(frame["x"].min()), float(frame["x"].max())
    room = (high / low) ** 0.04
    scale = alt.Scale(type="log", nice=False, domain=[low / room, high * room])
    return alt.X("x:Q", title="learning rate (log scale)", axis=axis, scale=scale)


def _y(column: str, quantity: Quantity, bounds: tuple[float, float]) -> alt.Y:
    scale: dict[str, Any] = {"type": "log"} if quantity.log else {"zero": False}
    ticks = _log_ticks(*bounds) if quantity.log else []
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


def _bounds(frame: DataFrame, quantity: Quantity, whole_intervals: bool = False) -> tuple[float, float]:
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
    bottom, top = _padded(bottom, top)
    return back(bottom), back(top)


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


# --- norms ------------------------------------------------------------------------------------------------------------


def _norms(frame: DataFrame) -> list[str]:
    return [norm for norm in STYLES if norm in set(frame["norm"])]


def _norm_scale(norms: Sequence[str], field: str) -> alt.Scale:
    return alt.Scale(domain=norms, range=[getattr(STYLES[norm], field) for norm in norms])


def _legend(kind: str | None) -> alt.Legend | None:
    """Above the panels, where it hides no data; ``kind``: stroke, symbol, or None for no legend."""
    if kind is None:
        return None
    look: dict[str, Any] = {"symbolSize": 110}
    if kind == "stroke":
        look = {"symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolSize": 600}
    return alt.Legend(title=None, orient="top", symbolOpacity=1, columnPadding=18, offset=6, **look)


def _color(norms: Sequence[str], legend: str | None) -> alt.Color:
    return alt.Color("norm:N", scale=_norm_scale(norms, "color"), legend=_legend(legend))


def _dash(norms: Sequence[str], legend: str | None) -> alt.StrokeDash:
    return alt.StrokeDash("norm:N", scale=_norm_scale(norms, "dash"), legend=_legend(legend))


def _shape(norms: Sequence[str]) -> alt.Shape:
    return alt.Shape("norm:N", scale=_norm_scale(norms, "shape"), legend=_legend("symbol"))


def _picked(opacity: float) -> alt.OpacityValue:
    """Full opacity for the norms that are picked in the legend (all, if none is)."""
    return alt.OpacityValue(FADED * opacity, condition={"param": PICKED, "value": opacity})


def _tooltip(frame: DataFrame, quantity: Quantity) -> list[alt.Tooltip]:
    words = {"norm": "norm:N", "lr": "lr:N", "rate": "rate:Q", "epoch": "epoch:Q", "n": "n:Q"}
    titles = {"rate": "lr"}
    said = [alt.Tooltip(field, title=titles.get(name, name)) for name, field in words.items() if name in frame.columns]
    number = ".3~%" if quantity.percent else ".3~g"
    return [*said, *(alt.Tooltip(f"{name}:Q", format=number) for name in ("mean", "low", "high"))]


# --- specs --------------------------------------------------------------------------------------------------


def to_spec(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart's Vega-Lite spec with fonts and sizes."""
    config: dict[str, Any] = {
        "font": FONT,
        "background": "white",
        "aria": False,  # the page describes each figure in words
        "axis": {"labelFontSize": LABEL, "titleFontSize": TEXT, "titleFontWeight": "normal", "gridColor": "#e4e4e4"},
        "legend": {"labelFontSize": TEXT},
        "header": {"labelFontSize": TEXT, "labelFontWeight": "bold", "labelLineHeight": 16},
        "view": {"stroke": "#cccccc"},
    }
    spec = chart.to_dict()
    return {**spec, "config": config, "padding": 8, "params": _selection(spec)}


def _selection(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Picking norms by clicks on the legend, and moving or stretching the axes of a row of panels with the mouse.

    Altair cannot yet share one selection among rows of panels, and Vega-Lite binds scales of one row only.
    """
    text = str(spec)
    views = sorted(set(re.findall(rf"'name': '({VIEW}\d*)'", text)))
    select = {"type": "point", "fields": ["norm"], "toggle": "true"}
    picks = {"name": PICKED, "select": select, "bind": "legend", "views": views}
    moved = {"type": "interval", "clear": "dblclick", "translate": DRAG, "zoom": WHEEL}
    zooms = [{"name": f"{ZOOM}{view}", "select": moved, "bind": "scales", "views": [view]} for view in views]
    return [*([picks] if f"'param': '{PICKED}'" in text else []), *zooms]
