"""Vega-Lite specs to pictures, and to the script that draws them in a browser. vl-convert only here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

Spec = Mapping[str, Any]

PNG_SCALE = 2  # pixels per CSS pixel


def to_svg(spec: Spec, prefix: str) -> str:
    """An SVG element for a page; ``prefix`` keeps its ids apart from those of other figures."""
    svg = to_file(spec, "svg").decode("utf-8")
    svg = re.sub(r'<path [^>]*opacity="0"[^>]*/>', "", svg)  # what only a mouse finds
    svg = re.sub(r' (?:role|class|pointer-events|aria-[a-z]+)="[^"<>]*"', "", svg)  # the page says what the whole shows
    svg = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"\d+\.\d+", _tenth, path[0]), svg)
    # vl-convert numbers ids through all it draws: count anew, so that a page does not depend on what came before
    places = {name: index for index, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]*)"', svg)), start=1)}
    svg = re.sub(r'(\bid="|url\(#)([^")]*)', lambda match: f"{match[1]}{prefix}-{places[match[2]]}", svg)
    return svg[svg.index("<svg") :]


def _tenth(number: re.Match[str]) -> str:
    """A coordinate to a tenth of a pixel, which is finer than eyes and screens."""
    return f"{float(number[0]):.1f}".removesuffix(".0")


def to_file(spec: Spec, kind: str) -> bytes:
    """The content of a png, svg or pdf file."""
    import vl_convert

    version = _version(spec)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(dict(spec), vl_version=version, scale=PNG_SCALE))
    if kind == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(dict(spec), vl_version=version))
    return str(vl_convert.vegalite_to_svg(dict(spec), vl_version=version)).encode("utf-8")


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
