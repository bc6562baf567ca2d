"""DataFrames to Altair charts, and charts to files: one definition serves the page and the paper.

Frames hold what is drawn and nothing else; means and intervals come from bnexp.aggregates. A norm has one colour, one dash
and one shape everywhere (Okabe & Ito 2008, Wong 2011: distinct for colour-blind readers).
"""

from __future__ import annotations

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
PICKED, VIEW = "picked", "points"  # names of the selection and of the views where it lives


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

    @property
    def format(self) -> str:
        """The number format of labels and tooltips."""
        return ".3~%" if self.percent else ".3~g"


class Grid(NamedTuple):
    """Panels side by side and the size of one, in pixels."""

    columns: int
    width: int
    height: int


# --- charts -----------------------------------------------------------------------------------------------------------


def curves(frame: DataFrame, quantity: Quantity, grid: Grid) -> alt.FacetChart:
    """Lines over epochs with bands: panel, norm, epoch, n, mean, low, high; further columns go into the tooltip."""
    return _curves(frame, quantity, grid, VIEW)


def _curves(frame: DataFrame, quantity: Quantity, grid: Grid, view: str, head: bool = True) -> alt.FacetChart:
    base = alt.Chart().encode(x=_epochs(), color=_color(frame))
    y = _y("mean", quantity)
    band = base.mark_area(strokeWidth=0).encode(y=_y("low", quantity), y2="high:Q", opacity=_picked(0.16))
    line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=_dash(frame), opacity=_picked(1.0))
    dots = base.mark_point(size=90, opacity=0).encode(y=y, tooltip=_tooltip(frame, quantity))
    return _faceted([band, line, dots.properties(name=view)], frame, grid, head)


def rows_of(rows: Sequence[tuple[DataFrame, Quantity]], grid: Grid) -> alt.VConcatChart:
    """Rows of panels under one legend and one line of heads; each row has its own vertical axis."""
    made = [_curves(frame, quantity, grid, f"{VIEW}{index}", head=not index) for index, (frame, quantity) in enumerate(rows)]
    return alt.vconcat(*made, spacing=8)


def rate_picture(metric: DataFrame, learned: DataFrame, quantity: Quantity, grid: Grid) -> alt.VConcatChart:
    """The final metric and the share that learned against the learning rate.

    Both frames: panel, norm, rate, x (the rate, moved a little apart per norm), mean, low, high; ``metric`` also says
    ``whole``: false where the mean leaves out runs that did not learn.
    """
    share = Quantity(("share that learned",), percent=True)
    # the same rates under both rows of panels
    rates = sorted(set(metric["rate"]) | set(learned["rate"]))
    above = _against_rate(metric, quantity, rates, grid, f"{VIEW}0")
    low = grid._replace(height=grid.height // 2)
    below = _against_rate(learned.assign(whole=True), share, rates, low, f"{VIEW}1")
    return alt.vconcat(above, below, spacing=14)


def _against_rate(
    frame: DataFrame, quantity: Quantity, rates: Sequence[float], grid: Grid, view: str
) -> alt.FacetChart:
    labelled: Any = list(rates) if len(rates) <= 8 else alt.Undefined
    axis = alt.Axis(values=labelled, format="~g", labelOverlap=True)
    x = alt.X("x:Q", scale=alt.Scale(type="log", nice=False, padding=14), axis=axis, title="learning rate (log scale)")
    base = alt.Chart().encode(x=x, color=_color(frame))
    y, tooltip = _y("mean", quantity), _tooltip(frame, quantity)
    line = base.mark_line(strokeWidth=1.5).encode(y=y, strokeDash=_dash(frame), opacity=_picked(0.8))
    rule = base.mark_rule(strokeWidth=2).encode(
        y=_y("low", quantity), y2="high:Q", opacity=_picked(1.0), tooltip=tooltip
    )
    point = base.encode(y=y, shape=_shape(frame), opacity=_picked(1.0), tooltip=tooltip)
    filled = point.transform_filter("datum.whole").mark_point(size=70, filled=True)
    hollow = point.transform_filter("!datum.whole").mark_point(size=70, filled=False, fill="white", strokeWidth=1.8)
    return _faceted([line, rule, filled, hollow.properties(name=view)], frame, grid)


def percentiles(frame: DataFrame, quantity: Quantity, grid: Grid) -> alt.FacetChart:
    """The 15th, 50th and 85th percentile of one unit over epochs: panel, norm, epoch, p15, p50, p85."""
    color = _color(frame).legend(None)
    base = alt.Chart().encode(x=_epochs(), color=color)
    band = base.mark_area(opacity=0.12).encode(y=_y("p15", quantity), y2="p85:Q")
    thin = [base.mark_line(strokeWidth=1.2).encode(y=_y(name, quantity)) for name in ("p15", "p85")]
    thick = base.mark_line(strokeWidth=2.5).encode(y=_y("p50", quantity))
    said = [alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("p15", "p50", "p85")]
    dots = base.mark_point(size=90, opacity=0).encode(
        y=_y("p50", quantity), tooltip=[alt.Tooltip("norm:N"), alt.Tooltip("epoch:Q"), *said]
    )
    return _faceted([band, *thin, thick, dots], frame, grid)


# --- parts ------------------------------------------------------------------------------------------------------------


def _data(frame: DataFrame) -> alt.InlineData:
    return alt.InlineData(values=[_clean(row) for row in frame.to_dict("records")])


def _clean(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as JSON: few digits, and null for what is not a number."""
    return {str(key): _number(value) if isinstance(value, float) else value for key, value in row.items()}


def _number(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if pd.notna(value) and abs(value) != float("inf") else None


def _norms(frame: DataFrame) -> list[str]:
    return [norm for norm in STYLES if norm in set(frame["norm"])]


def _legend() -> alt.Legend:
    return alt.Legend(title=None, orient="top", symbolSize=260, symbolStrokeWidth=2.5, columnPadding=18, offset=6)


def _scale(frame: DataFrame, field: str) -> alt.Scale:
    norms = _norms(frame)
    return alt.Scale(domain=norms, range=[getattr(STYLES[norm], field) for norm in norms])


def _color(frame: DataFrame) -> alt.Color:
    return alt.Color("norm:N", scale=_scale(frame, "color"), legend=_legend())


def _dash(frame: DataFrame) -> alt.StrokeDash:
    return alt.StrokeDash("norm:N", scale=_scale(frame, "dash"), legend=_legend())


def _shape(frame: DataFrame) -> alt.Shape:
    return alt.Shape("norm:N", scale=_scale(frame, "shape"), legend=_legend())


def _picked(opacity: float) -> alt.OpacityValue:
    """Full opacity for the norms that are picked in the legend (all, if none is)."""
    return alt.OpacityValue(FADED * opacity, condition={"param": PICKED, "value": opacity})


def _epochs() -> alt.X:
    return alt.X("epoch:Q", title="epoch", axis=alt.Axis(format="d", tickMinStep=1, tickCount=6), scale=alt.Scale(nice=False))


def _y(column: str, quantity: Quantity) -> alt.Y:
    scale = alt.Scale(type="log") if quantity.log else alt.Scale(zero=False)
    fmt = "~%" if quantity.percent else "~g"
    axis = alt.Axis(format=fmt, tickCount=5, titleLineHeight=15)
    return alt.Y(f"{column}:Q", title=list(quantity.title), scale=scale, axis=axis)


def _tooltip(frame: DataFrame, quantity: Quantity) -> list[alt.Tooltip]:
    number = quantity.format
    words = {"norm": "norm:N", "lr": "lr:N", "rate": "rate:Q", "epoch": "epoch:Q", "n": "n:Q"}
    said = [alt.Tooltip(field) for name, field in words.items() if name in frame.columns]
    return [*said, *(alt.Tooltip(f"{name}:Q", format=number) for name in ("mean", "low", "high"))]


def _faceted(layers: Sequence[alt.Chart], frame: DataFrame, grid: Grid, head: bool = True) -> alt.FacetChart:
    """One panel per value of ``panel``, in the order of the frame; a line break in it makes a second line."""
    panels = list(dict.fromkeys(frame["panel"]))
    header = alt.Header(labels=head, labelExpr="split(datum.label, '\\n')", labelAnchor="start", title=None)
    facet = alt.Facet("panel:N", sort=panels, header=header, title=None)
    sized = alt.layer(*layers, data=_data(frame)).properties(width=grid.width, height=grid.height)
    return sized.facet(facet=facet, columns=min(grid.columns, len(panels)), spacing=18)


# --- specs and files --------------------------------------------------------------------------------------------------


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
    """Picking norms by clicks on the legend. Altair cannot yet share one selection among rows of panels."""
    views = sorted(set(re.findall(rf"'name': '({VIEW}\d*)'", str(spec))))
    select = {"type": "point", "fields": ["norm"], "toggle": "true"}
    return [{"name": PICKED, "select": select, "bind": "legend", "views": views}] if views else []


def to_svg(spec: Mapping[str, Any], prefix: str) -> str:
    """The spec as an SVG element for a page; ``prefix`` keeps its ids apart from those of other figures."""
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(dict(spec), vl_version=_version()))
    svg = re.sub(r'<path [^>]*opacity="0"[^>]*/>', "", svg)  # what only a mouse finds
    svg = re.sub(r'(id="|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg[svg.index("<svg") :]


def to_file(spec: Mapping[str, Any], kind: str) -> bytes:
    """The spec as the content of a png, svg or pdf file."""
    import vl_convert

    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(dict(spec), vl_version=_version(), scale=2))
    if kind == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(dict(spec), vl_version=_version()))
    return str(vl_convert.vegalite_to_svg(dict(spec), vl_version=_version())).encode()


def script(snippet: str) -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that ends with the snippet, which calls ``vegaEmbed``."""
    import vl_convert

    return str(vl_convert.javascript_bundle(snippet, vl_version=_version()))


def _version() -> str | None:
    """The Vega-Lite of this Altair, if vl-convert has it; else vl-convert's latest."""
    import vl_convert

    wanted = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return wanted if wanted in vl_convert.get_vegalite_versions() else None
