"""2×2 effects of a norm's switches, where a study has all four cells: main effects and interaction, seed by seed.

With x₀₀, x₁₀, x₀₁, x₁₁ one seed's values on the metric's scale (the first index is the first switch):

    first switch    ((x₁₀ − x₀₀) + (x₁₁ − x₀₁)) / 2
    second switch   ((x₀₁ − x₀₀) + (x₁₁ − x₁₀)) / 2
    interaction     (x₁₁ − x₀₁) − (x₁₀ − x₀₀)

each with a t interval over seeds; on the log scale they are ratios, the interaction a ratio of ratios.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnexp.comparison import intervals
from bnexp.comparison.entries import Entry
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.metrics import Metric
from bnexp.comparison.rows import failed_count


@dataclass(frozen=True)
class Design:
    """Four norms that differ in two switches: neither, the first, the second, both."""

    first: str
    second: str
    norms: tuple[str, str, str, str]


DESIGNS = (
    Design("γ", "β", ("standardize", "gamma", "beta", "full")),
    Design("centring", "scaling", ("none", "center", "scale", "standardize")),
    Design("standardizing", "γ and β", ("none", "standardize", "affine", "full")),
)


@dataclass(frozen=True)
class Effects:
    """The effects of one design at one setting of the other fields.

    ``n`` is the number of seeds that all four cells have. The estimates are None where ``note`` says why.
    """

    setting: dict[str, str]
    design: Design
    n: int
    first: Estimate | None
    second: Estimate | None
    interaction: Estimate | None
    note: str = ""

    @property
    def named(self) -> dict[str, Estimate | None]:
        """The three estimates by what they are the effect of."""
        design = self.design
        both = f"interaction of {design.first} with {design.second}"
        return {design.first: self.first, design.second: self.second, both: self.interaction}


def effects_of(entries: Sequence[Entry], metric: Metric) -> tuple[Effects, ...]:
    """Every design whose four cells are there, at every setting of the other fields."""
    if not entries or "norm" not in entries[0].setting:
        return ()
    own = _own_fields(entries)
    grids: dict[tuple[tuple[str, str], ...], dict[str, Entry]] = {}
    bare: dict[tuple[tuple[str, str], ...], Entry] = {}  # norm none has no placement and stands at every one
    for entry in entries:
        others = tuple((leaf, value) for leaf, value in entry.setting.items() if leaf not in ("norm", *own))
        if entry.setting["norm"] == "none" and "placement" in entry.setting:
            bare[tuple(pair for pair in others if pair[0] != "placement")] = entry
        else:
            grids.setdefault(others, {})[entry.setting["norm"]] = entry
    found = []
    for others, grid in grids.items():
        none = bare.get(tuple(pair for pair in others if pair[0] != "placement"))
        cells = grid if none is None else {"none": none, **grid}
        found += [
            _effects(dict(others), design, [cells[norm] for norm in design.norms], metric)
            for design in DESIGNS
            if set(design.norms) <= set(cells)
        ]
    return tuple(found)


def _own_fields(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Initial values of which each norm has one (``affine`` started as ``standardize``): they belong to the norm."""
    found = []
    for leaf in ("gamma_init", "beta_init"):
        if leaf not in entries[0].setting:
            continue
        values: dict[str, set[str]] = {}
        for entry in entries:
            values.setdefault(entry.setting["norm"], set()).add(entry.setting[leaf])
        if all(len(several) == 1 for several in values.values()):
            found.append(leaf)
    return tuple(found)


def _effects(setting: dict[str, str], design: Design, cells: Sequence[Entry], metric: Metric) -> Effects:
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    why_not = _why_not(design, cells, seeds, metric)
    if why_not:
        return Effects(setting, design, len(seeds), None, None, None, why_not)
    values = np.array(
        [[metric.on_scale(cell.runs[seed].values[metric.name], False) for seed in seeds] for cell in cells]
    )
    if not np.isfinite(values).all():
        return Effects(setting, design, len(seeds), None, None, None, "a value is zero or not finite: no mean effect")
    x00, x10, x01, x11 = values
    rounding = 2 * metric.rounding(values.ravel().tolist())
    main, both = ("difference", "difference of differences") if metric.scale == "raw" else ("ratio", "ratio of ratios")

    def estimate(contrast: NDArray[np.float64], what: str) -> Estimate:
        return intervals.mean_estimate(contrast.tolist(), metric.scale, f"mean {what}", "seed", rounding)

    first = estimate(((x10 - x00) + (x11 - x01)) / 2, main)
    second = estimate(((x01 - x00) + (x11 - x10)) / 2, main)
    interaction = estimate((x11 - x01) - (x10 - x00), both)
    return Effects(setting, design, len(seeds), first, second, interaction)


def _why_not(design: Design, cells: Sequence[Entry], seeds: Sequence[int], metric: Metric) -> str:
    """Failed runs are never dropped: with one in a cell there is no mean effect (rule 5)."""
    failed = [
        f"{norm} {count} of {len(cell.runs)}"
        for norm, cell in zip(design.norms, cells, strict=True)
        if (count := failed_count(cell.runs.values(), metric))
    ]
    if failed:
        return f"no mean effect: {metric.failing.failed}: {', '.join(failed)}"
    if not seeds:
        return "no seed has finished in all four cells"
    for seed in seeds:
        if (
            len({(cell.runs[seed].init_id, cell.runs[seed].order_id) for cell in cells}) > 1
            or not cells[0].runs[seed].init_id
        ):
            return "the four cells do not share initial weights and minibatches"
    if any(math.isnan(cell.runs[seed].values.get(metric.name, math.nan)) for cell in cells for seed in seeds):
        return f"{metric.name} was not recorded in every run"
    return ""
