"""Vega-Lite specs to pictures, and to the script that draws them in a browser. vl-convert only here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

Spec = Mapping[str, Any]

PNG_DPI = 300  # what journals ask of pictures with lines and letters
POINTS = 72 / 25.4  # to a millimetre


def to_svg(spec: Spec) -> str:
    """The picture as SVG text, in CSS pixels, without what only a mouse finds."""
    import vl_convert

    svg = str(vl_convert.vegalite_to_svg(dict(spec), vl_version=_version(spec)))
    return re.sub(r'<path [^>]*opacity="0"[^>]*/>', "", svg)


def size_of(svg: str) -> tuple[float, float]:
    """Width and height of the picture in its own units."""
    found = re.match(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"', svg)
    assert found is not None, "vl-convert writes width and height first"
    return float(found[1]), float(found[2])


def for_page(svg: str, prefix: str) -> str:
    """An SVG element for a page that says in words what it shows; ``prefix`` keeps its ids apart from others'."""
    svg = re.sub(r' (?:role|class|pointer-events|aria-[a-z]+)="[^"<>]*"', "", svg)
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"\d+\.\d+", _tenth, path[0]), svg)
    # vl-convert numbers ids through all it draws: count anew, so that a page does not depend on what came before
    places = {name: index for index, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]*)"', svg)), start=1)}
    svg = re.sub(r'(\bid="|url\(#)([^")]*)', lambda match: f"{match[1]}{prefix}-{places[match[2]]}", svg)
    return svg[svg.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def _tenth(number: re.Match[str]) -> str:
    """A coordinate to a tenth of a pixel, which is finer than eyes and screens."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def to_file(svg: str, kind: str, millimetres: float) -> bytes:
    """The content of a png, svg or pdf file of this width.

    vl-convert embeds the used part of each font in a pdf (TrueType in CID fonts, none of Type 3), draws letters as
    dots in a png, and leaves the names of fonts in an svg. It takes an SVG's unit for a point in the first two.
    """
    import vl_convert

    if kind == "svg":
        return _sized(svg, millimetres, "mm").encode("utf-8")
    sized = _sized(svg, millimetres * POINTS, "")
    return bytes(vl_convert.svg_to_png(sized, ppi=PNG_DPI) if kind == "png" else vl_convert.svg_to_pdf(sized))


def _sized(svg: str, width: float, unit: str) -> str:
    own_width, own_height = size_of(svg)
    sizes = f'width="{width:.2f}{unit}" height="{width * own_height / own_width:.2f}{unit}"'
    return re.sub(r'width="[\d.]+" height="[\d.]+"', sizes, svg, count=1)


def packed(spec: Spec) -> dict[str, Any]:
    """The spec with its data column by column, a sixth of the text of records; the page's script unpacks it.

    A column of texts is ``{"of": [distinct texts], "at": [place of each row's text]}``. (CSV inside a spec is as short,
    but Vega reads it with ``new Function``, which the page's policy forbids.)
    """
    return {**spec, "datasets": {name: _columns(rows) for name, rows in spec.get("datasets", {}).items()}}


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: _column([row[name] for row in rows]) for name in (rows[0] if rows else ())}


def _column(cells: list[Any]) -> Any:
    if not all(isinstance(cell, str) for cell in cells):
        return [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells]
    places = {text: place for place, text in enumerate(dict.fromkeys(cells))}
    return {"of": list(places), "at": [places[cell] for cell in cells]}


def script(spec: Spec, snippet: str) -> str:
    """Vega, the spec's Vega-Lite and Vega-Embed as one script; it ends with the snippet, which calls ``vegaEmbed``."""
    return _bundle(snippet, _version(spec))


@cache
def _bundle(snippet: str, version: str | None) -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle(snippet, vl_version=version))


def _version(spec: Spec) -> str | None:
    """The Vega-Lite version that the spec was written for, if vl-convert has it; else vl-convert's latest."""
    import vl_convert

    found = re.search(r"/v(\d+\.\d+)[.\d]*\.json$", str(spec.get("$schema", "")))
    return found[1] if found and found[1] in vl_convert.get_vegalite_versions() else None
