"""The README's picture from two finished studies: python tests/scripts/showcase.py results/oddness results/lr-range

Above: what networks with each norm answer on one bump. In the middle: XOR, each norm at its best learning rate. Below:
accuracy and share that learned against the learning rate.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt

from bnexp import chart_parts, rendering
from bnexp.comparison import compare_runs
from bnexp.figures import figures_of
from bnexp.results import load_results

PICTURE = Path(__file__).parents[2] / "configs" / "measured" / "showcase.svg"
ONLY_HERE = ("$schema", "config", "padding", "params", "datasets")  # of a whole picture, not of its parts


def part(spec: Mapping[str, Any], title: str) -> dict[str, Any]:
    inner = {key: value for key, value in spec.items() if key not in ONLY_HERE}
    head = {"text": title, "anchor": "start", "fontSize": 15, "offset": 12}
    return {"vconcat": [inner], "title": head}


def spec_of(folder: str, figure: str) -> Mapping[str, Any]:
    results = load_results([Path(folder)])[0]
    comparison = compare_runs(results)[0]
    return next(found.first.spec for found in figures_of(results, comparison)[0] if found.name.endswith(figure))


def best_of(folder: str, data: str) -> dict[str, Any]:
    """Accuracy of each norm at its best learning rate, with its 95 % interval; one panel per activation."""
    results = load_results([Path(folder)])[0]
    found = next(one for one in compare_runs(results) if one.group.get("data") == data)
    rows = [
        {
            "panel": row.setting["activation"],
            "norm": row.setting["norm"],
            "shown": row.setting["norm"] + (", after" if row.setting["placement"] == "post" else ""),
            **{name: getattr(row.estimate, name) for name in ("center", "low", "high")},
        }
        for row in found.best_rows
        if row.estimate
    ]
    norms = [norm for norm in chart_parts.STYLES if norm in {row["norm"] for row in rows}]
    order = [*norms, "standardize, after"]
    colors = alt.Scale(domain=norms, range=[chart_parts.STYLES[norm].color for norm in norms])
    base = alt.Chart().encode(
        x=alt.X("shown:N", sort=order, title=None, axis=alt.Axis(labelAngle=-35)),
        color=alt.Color("norm:N", scale=colors, legend=None),
    )
    y = alt.Y("center:Q", title=["test accuracy"], axis=alt.Axis(format="~%"), scale=alt.Scale(domain=[0.4, 1]))
    layers = [
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(size=70, filled=True),
    ]
    layers[1] = layers[1].encode(y=y)
    drawn = alt.LayerChart(layer=layers, data=alt.InlineData(values=rows)).properties(width=215, height=130)
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    header = alt.Header(labelFontSize=13, labelFontWeight="bold", labelAnchor="start", title=None)
    return dict(drawn.facet(column=alt.Column("panel:N", sort=panels, header=header, title=None)).to_dict())


def without_selection(value: Any) -> Any:
    """A chart for paper: nothing to click, everything as if it were picked."""
    if isinstance(value, dict) and isinstance(condition := value.get("condition"), dict) and "param" in condition:
        return {"value": condition["value"]}
    if isinstance(value, dict):
        return {key: without_selection(inner) for key, inner in value.items()}
    return [without_selection(item) for item in value] if isinstance(value, list) else value


def main(oddness: str, rates: str) -> None:
    parts = (spec_of(oddness, "fits"), best_of(oddness, "xor"), spec_of(rates, "learning-rate"))
    titles = (
        "One bump, 64 points, two hidden layers of 64 tanh units, norm before the activation: the fit of each seed",
        "XOR, 4000 points, each norm at its best learning rate (bars: 95 % over seeds)",
        "Digits, 64-64, 15 epochs: final test accuracy and share that learned, by learning rate",
    )
    whole = {key: value for key, value in parts[0].items() if key in ONLY_HERE and key != "params"}
    whole["vconcat"] = [part(*each) for each in zip(parts, titles, strict=True)]
    whole["datasets"] = {name: rows for spec in parts for name, rows in spec.get("datasets", {}).items()}
    whole["spacing"] = 34
    whole["resolve"] = {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "independent")}
    PICTURE.write_text(rendering.for_page(rendering.to_svg(without_selection(whole)), "showcase"), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
