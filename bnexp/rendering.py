"""Vega-Lite specs to pictures, and to the script that draws them in a browser. vl-convert only here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

Spec = Mapping[str, Any]

PNG_SCALE = 2  # pixels per CSS pixel


def to_svg(spec: Spec, prefix: str) -> str:
    """An SVG element for a page that says in words what it shows; ``prefix`` keeps its ids apart from others'."""
    svg = to_file(spec, "svg").decode("utf-8")
    svg = re.sub(r'<path [^>]*opacity="0"[^>]*/>', "", svg)  # what only a mouse finds
    # vl-convert numbers ids through all it draws: count anew, so that a page does not depend on what came before
    places = {name: index for index, name in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]*)"', svg)), start=1)}
    svg = re.sub(r'(\bid="|url\(#)([^")]*)', lambda match: f"{match[1]}{prefix}-{places[match[2]]}", svg)
    return svg[svg.index("<svg") :].replace("<svg ", '<svg aria-hidden="true" ', 1)


def to_file(spec: Spec, kind: str) -> bytes:
    """The content of a png, svg or pdf file."""
    import vl_convert

    version = _version(spec)
    if kind == "png":
        return bytes(vl_convert.vegalite_to_png(dict(spec), vl_version=version, scale=PNG_SCALE))
    if kind == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(dict(spec), vl_version=version))
    return str(vl_convert.vegalite_to_svg(dict(spec), vl_version=version)).encode("utf-8")


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
