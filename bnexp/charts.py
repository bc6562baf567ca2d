"""DataFrames to Altair charts, one definition serves the page and the paper.

Frames hold what is drawn and nothing else; means and intervals come from bnexp.aggregates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
from pandas import DataFrame

from bnexp.chart_parts import (
    DRAG,
    FONT,
    LABEL,
    PICKED,
    TEXT,
    VIEW,
    WHEEL,
    ZOOM,
    Grid,
    Lines,
    Quantity,
    bounds_of,
    color,
    dash,
    epochs,
    lines_of,
    padded,
    picked,
    rates,
    shape,
    time_of,
    tooltip_of,
    vertical,
)

DIGITS = 5  # significant digits of the numbers in a chart: a pixel is coarser


class Drawing(NamedTuple):
    """A chart, whose data have names only, and the frames that bear them."""

    chart: alt.TopLevelMixin
    frames: Sequence[DataFrame]


# --- charts -----------------------------------------------------------------------------------------------------------


def curves(frame: DataFrame, quantity: Quantity, grid: Grid) -> Drawing:
    """Lines over epochs (layers) with bands: panel, norm, epoch, n, mean, low, high; the tooltip says more."""
    layers = _curve_layers(frame, quantity, lines_of(frame), epochs(frame), VIEW)
    return Drawing(_wrapped(layers, frame, grid), [frame])


def rows_of(rows: Sequence[tuple[DataFrame, Quantity]], grid: Grid) -> Drawing:
    """Rows of such panels under one line of heads and over one axis; each row has its own vertical axis."""
    made, every = [], pd.concat([frame for frame, _ in rows])
    for index, (frame, quantity) in enumerate(rows):
        below = set(rows[index + 1][0]["panel"]) if index + 1 < len(rows) else set()
        x = epochs(every, labelled=not set(frame["panel"]) <= below)
        layers = _curve_layers(frame, quantity, lines_of(every), x, f"{VIEW}{index}")
        made.append(_in_row(layers, frame, grid, head=index == 0))
    return Drawing(alt.vconcat(*made, spacing=10), [frame for frame, _ in rows])


def _curve_layers(frame: DataFrame, quantity: Quantity, names: Lines, x: alt.X, view: str) -> list[alt.Chart]:
    base, bounds = alt.Chart().encode(x=x, color=color(names, "stroke")), bounds_of(frame, quantity)
    band = base.mark_area(strokeWidth=0, clip=True).encode(
        y=vertical("low", quantity, bounds), y2="high:Q", opacity=picked(0.16)
    )
    y = vertical("mean", quantity, bounds)
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash(names, "stroke"), opacity=picked(1.0))
    dots = base.mark_point(size=90, opacity=0).encode(y=y, tooltip=tooltip_of(frame, quantity))
    return [band, line, dots.properties(name=view)]


def rate_picture(metric: DataFrame, learned: DataFrame, quantity: Quantity, grid: Grid) -> Drawing:
    """The final metric and the share that learned against the learning rate; either may be empty.

    Both frames: panel, norm, rate, x (the rate, moved a little apart per norm), mean, low, high; ``metric`` also says
    ``whole``: whether every run learned. Lines join the points where that is so, and the axis is made for these.
    """
    every = pd.concat([frame for frame in (metric, learned) if len(frame)])
    x, names = rates(every), lines_of(every)
    charts, frames = [], []
    if len(metric):
        bounds = bounds_of(metric, quantity, whole_intervals=True)
        charts.append(_wrapped(_rate_layers(metric, quantity, names, x, bounds, f"{VIEW}0"), metric, grid))
        frames.append(metric)
    if len(learned):
        shares, share = learned.assign(whole=True), Quantity(("share that", "learned"), percent=True, ticks=(0, 0.5, 1))
        layers = _rate_layers(shares, share, names, x, (-0.08, 1.08), f"{VIEW}1")
        charts.append(_wrapped(layers, shares, grid._replace(height=grid.height // 2)))
        frames.append(shares)
    return Drawing(alt.vconcat(*charts, spacing=18), frames)


def _rate_layers(
    frame: DataFrame, quantity: Quantity, names: Lines, x: alt.X, bounds: tuple[float, float], view: str
) -> list[alt.Chart]:
    base, tooltip = alt.Chart().encode(x=x, color=color(names, "symbol")), tooltip_of(frame, quantity)
    y = vertical("mean", quantity, bounds)
    whole, part = base.transform_filter("datum.whole"), base.transform_filter("!datum.whole")
    line = whole.mark_line(strokeWidth=1.5).encode(y=y, opacity=picked(0.8))
    rule = base.mark_rule(strokeWidth=2, clip=True).encode(
        y=vertical("low", quantity, bounds), y2="high:Q", opacity=picked(1.0)
    )
    shapes = {"y": y, "shape": shape(names), "opacity": picked(1.0), "tooltip": tooltip}
    filled = whole.mark_point(size=70, filled=True).encode(**shapes)
    hollow = part.mark_point(size=70, filled=False, fill="white", strokeWidth=1.8).encode(**shapes)
    return [line, rule, filled, hollow.properties(name=view)]


def percentiles(frame: DataFrame, quantity: Quantity, grid: Grid) -> Drawing:
    """The 15th, 50th and 85th percentile of one unit: panel, norm, epoch or step, p15, p50, p85."""
    base = alt.Chart().encode(x=epochs(frame), color=color(lines_of(frame), None))
    names = ("p15", "p50", "p85")
    bounds = padded(float(frame["p15"].min()), float(frame["p85"].max()))
    band = base.mark_area(opacity=0.12, strokeWidth=0).encode(y=vertical("p15", quantity, bounds), y2="p85:Q")
    lines = [
        base.mark_line(strokeWidth=2.5 if name == "p50" else 1.2).encode(y=vertical(name, quantity, bounds))
        for name in names
    ]
    numbers = [alt.Tooltip(f"{name}:Q", format=".3~g") for name in names]
    said = [alt.Tooltip("norm:N"), alt.Tooltip(f"{time_of(frame)}:Q"), *numbers]
    dots = base.mark_point(size=90, opacity=0).encode(y=vertical("p50", quantity, bounds), tooltip=said)
    return Drawing(_wrapped([band, *lines, dots.properties(name=VIEW)], frame, grid), [frame])


def fits(lines: DataFrame, points: DataFrame, grid: Grid) -> Drawing:
    """Curves over the data: ``lines`` has panel, norm, seed, x, y; ``points`` x, y, drawn in every panel."""
    panels = lines[["panel", "norm"]].drop_duplicates("panel")
    everywhere = panels.merge(points, how="cross").assign(dot=True)
    frame = pd.concat([everywhere, lines.assign(dot=False)], ignore_index=True)
    frame["seed"] = frame["seed"].fillna(-1).astype(int)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=None, axis=alt.Axis(format="~g", tickCount=2), scale=alt.Scale(nice=False)),
        y=alt.Y("y:Q", title=None, axis=alt.Axis(format="~g", tickCount=4), scale=alt.Scale(zero=False)),
    )
    at = [alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("x", "y")]
    dots = base.transform_filter("datum.dot").mark_circle(size=14, color="#9a9a9a", opacity=0.7).encode(tooltip=at)
    line = base.transform_filter("!datum.dot").mark_line(strokeWidth=1.3, opacity=0.75)
    drawn = line.encode(color=color(lines_of(lines), None), detail="seed:N", order="x:Q", tooltip=["norm:N", "seed:N"])
    return Drawing(_wrapped([dots.properties(name=VIEW), drawn], frame, grid), [frame])


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
    made = alt.LayerChart(layer=list(layers), data=alt.NamedData(name=_name(frame)))
    return made.properties(width=grid.width, height=grid.height)


def _header(shown: bool) -> alt.Header | None:
    return alt.Header(labelExpr="split(datum.label, '\\n')", labelAnchor="start", title=None) if shown else None


# --- data -------------------------------------------------------------------------------------------------------------


def _name(frame: DataFrame) -> str:
    """A name that says what the frame holds: equal frames are written once."""
    return f"data-{int(pd.util.hash_pandas_object(frame, index=False).sum()) & (2**64 - 1):016x}"


def _rows(frame: DataFrame) -> list[dict[str, Any]]:
    return [{str(key): _value(row[key]) for key in row} for row in frame.to_dict("records")]


def _value(value: Any) -> Any:
    """A cell with few digits, and null for what is not a finite number."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


# --- specs --------------------------------------------------------------------------------------------------


def to_spec(drawing: Drawing) -> dict[str, Any]:
    """The chart's Vega-Lite spec with data, fonts and sizes."""
    config: dict[str, Any] = {
        "font": FONT,
        "background": "white",
        "aria": False,  # the page describes each figure in words
        "axis": {"labelFontSize": LABEL, "titleFontSize": TEXT, "titleFontWeight": "normal", "gridColor": "#e4e4e4"},
        "legend": {"labelFontSize": TEXT},
        "header": {"labelFontSize": TEXT, "labelFontWeight": "bold", "labelLineHeight": 16},
        "view": {"stroke": "#cccccc"},
    }
    spec = drawing.chart.to_dict(validate=False)  # half of the time; tests hold every kind of chart against the schema
    datasets = {_name(frame): _rows(frame) for frame in drawing.frames}
    return {**spec, "config": config, "padding": 8, "params": _selection(spec), "datasets": datasets}


def _selection(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Picking lines by clicks on the legend, and moving or stretching the axes of a row of panels with the mouse.

    Altair cannot yet share one selection among rows of panels, and Vega-Lite binds scales of one row only.
    """
    parts = list(_parts(spec))
    views = sorted({part["name"] for part in parts if str(part.get("name", "")).startswith(VIEW)})
    field = "line" if any(part.get("field") == "line" for part in parts) else "norm"
    select = {"type": "point", "fields": [field], "toggle": "true"}
    picks = {"name": PICKED, "select": select, "bind": "legend", "views": views}
    moved = {"type": "interval", "clear": "dblclick", "translate": DRAG, "zoom": WHEEL}
    zooms = [{"name": f"{ZOOM}{view}", "select": moved, "bind": "scales", "views": [view]} for view in views]
    return [*([picks] if any(part.get("param") == PICKED for part in parts) else []), *zooms]


def _parts(spec: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping in a spec."""
    if isinstance(spec, Mapping):
        yield spec
    for value in spec.values() if isinstance(spec, Mapping) else spec if isinstance(spec, list) else ():
        yield from _parts(value)


def narrowed(spec: Any, width: int, to: int) -> Any:
    """The same spec with panels of one width made as wide as ``to``; data and texts stay."""
    if isinstance(spec, dict):
        return {
            key: to if key == "width" and value == width else value if key == "datasets" else narrowed(value, width, to)
            for key, value in spec.items()
        }
    return [narrowed(value, width, to) for value in spec] if isinstance(spec, list) else spec


def to_chart(spec: Mapping[str, Any]) -> alt.Chart:
    """A picture's specification as an Altair chart, which a notebook shows."""
    found: alt.Chart = alt.Chart.from_dict(dict(spec))
    return found
