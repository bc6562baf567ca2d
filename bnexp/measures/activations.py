"""Activation statistics on the probe set, per layer and tap, and percentiles of the tracked units.

Per unit first, over the probe rows, then averaged over the units of the layer; SDs are biased. Percentiles are those of
single units and are never averaged: averages over units hide the drift of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bnexp.layout import Column, Table, tracked_units
from bnexp.measures.base import LAYER, TAP, Measure, Reading, Record, ascending, learns_affine

NEAR_ZERO = 0.05  # |x| at most this
SATURATED_SLOPE = 0.0475  # sigmoid: g(1 − g) below this, i.e. g outside [.05, .95]
SATURATED_TANH = 0.9
PERCENTILES = (0.15, 0.50, 0.85)  # of the paper's Fig. 1

LAYER_TABLE = Table(
    "activations",
    (LAYER, TAP),
    (
        Column("mean", "activation", "mean over units of the unit means"),
        Column("mean_spread", "activation", "SD over units of the unit means"),
        Column("sd", "activation", "mean over units of the unit SDs", log=True),
        Column("min", "activation", "mean over units of the unit minima"),
        Column("max", "activation", "mean over units of the unit maxima"),
        Column("near_zero", "share", f"probe rows with |x| ≤ {NEAR_ZERO}"),
        Column("saturated", "share", "activation only: sigmoid outside [.05, .95], |tanh| > .9, relu exactly 0"),
        Column("dead", "share", "activation of relu only: units that are 0 on every probe row"),
    ),
)
UNIT_TABLE = Table(
    "units",
    (LAYER, TAP, Column("unit", "", "index of a tracked unit, from 0")),
    (
        Column("mean", "activation", "mean over the probe rows"),
        Column("sd", "activation", "biased SD over the probe rows", log=True),
        Column("p15", "activation", "15th percentile (nearest rank)"),
        Column("p50", "activation", "median (nearest rank)"),
        Column("p85", "activation", "85th percentile (nearest rank)"),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per layer and tap, and one per layer, tap and tracked unit."""
    affine = learns_affine(reading.runs)
    for layer, taps in enumerate(reading.taps, start=1):
        for tap, x in taps.items():
            present = affine if tap == "affine" else None
            mean = x.mean(-1)
            sd = _sd(x, mean)
            columns = layer_statistics(x, mean, sd, reading.structure.activation if tap == "activation" else None)
            values = torch.stack(list(columns.values()), 1)
            yield Record("activations", (str(layer), tap), tuple(columns), values, present)
            yield from unit_records("units", (str(layer), tap), x, reading.track, present)


def unit_records(
    table: str, labels: tuple[str, ...], x: Tensor, track: int, present: Sequence[bool] | None
) -> Iterator[Record]:
    """Yield the columns of units.csv for each tracked unit of x [run, unit, sample]; its index ends the labels."""
    units = tracked_units(x.shape[1], track)
    x = x[:, units]
    ranked = ascending(x)
    ranks = [ranked[:, :, math.ceil(p * x.shape[-1]) - 1] for p in PERCENTILES]
    mean = x.mean(-1)
    values = torch.stack([mean, _sd(x, mean), *ranks], -1)
    for place, unit in enumerate(units):
        yield Record(table, (*labels, str(unit)), UNIT_TABLE.names, values[:, place], present)


def layer_statistics(x: Tensor, mean: Tensor, sd: Tensor, activation: str | None) -> dict[str, Tensor]:
    """Averages over units, each [run], of x [run, unit, sample]; ``activation`` is g where x = g(·), else None."""
    low, high = x.amin(-1), x.amax(-1)  # torch.aminmax is ten times slower here
    columns = {
        "mean": mean.mean(-1),
        "mean_spread": _sd(mean, mean.mean(-1)),
        "sd": sd.mean(-1),
        "min": low.mean(-1),
        "max": high.mean(-1),
        "near_zero": _share(x.abs() <= NEAR_ZERO),
    }
    if activation == "sigmoid":
        columns["saturated"] = _share(x * (1 - x) < SATURATED_SLOPE)
    elif activation == "tanh":
        columns["saturated"] = _share(x.abs() > SATURATED_TANH)
    elif activation == "relu":
        columns["saturated"] = _share(x == 0)
        columns["dead"] = _share((high == 0)[:, :, None])
    return columns


def _sd(x: Tensor, mean: Tensor) -> Tensor:
    deviation = x - mean[..., None]
    return (deviation * deviation).mean(-1).sqrt()


def _share(true: Tensor) -> Tensor:
    """Share of true entries per run; a count of booleans is exact."""
    flat = true.flatten(1)
    return flat.sum(-1) / flat.shape[1]


ACTIVATIONS = Measure("activations", (LAYER_TABLE, UNIT_TABLE), read)
