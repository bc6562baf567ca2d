"""Activation statistics on the probe set, per layer and tap, and percentiles of the tracked units.

Per unit first, over the probe rows, then averaged over the units of the layer; SDs are biased. Percentiles are those of
single units and are never averaged: averages over units hide the drift of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array, on_cpu, widened
from bnexp.kernels import LINEAR, RELU, SIGMOID, TANH
from bnexp.layout import Column, Table, tracked_units
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, TAP, Measure, Reading, Record, learns_affine

NEAR_ZERO = 0.05  # |x| at most this
SATURATED_SLOPE = 0.0475  # sigmoid: g(1 − g) below this, i.e. g outside [.05, .95]
SATURATED_TANH = 0.9
_SATURATED: dict[str | None, tuple[int, float]] = {
    "sigmoid": (SIGMOID, SATURATED_SLOPE),
    "tanh": (TANH, SATURATED_TANH),
    "relu": (RELU, 0.0),
}
_NEVER = (LINEAR, 0.0)
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
            units = unit_statistics(x, reading.structure.activation if tap == "activation" else None)
            columns = layer_statistics(units, reading.structure.activation if tap == "activation" else None)
            values = np.stack(list(columns.values()), 1)
            yield Record("activations", (str(layer), tap), tuple(columns), values, present)
            yield from unit_records("units", (str(layer), tap), x, units, reading.track, present)


def unit_records(
    table: str, labels: tuple[str, ...], x: Array, units: Array, track: int, present: Sequence[bool] | None
) -> Iterator[Record]:
    """Yield the columns of units.csv for each tracked unit of x [run, unit, sample]; its index ends the labels.

    ``units``: their ``unit_statistics``.
    """
    tracked = tracked_units(x.shape[1], track)
    ranked = np.sort(on_cpu(x[:, tracked]), -1)
    ranks = [math.ceil(p * x.shape[-1]) - 1 for p in PERCENTILES]
    values = np.concatenate([units[:, tracked, :2], ranked[:, :, ranks]], -1)
    for place, unit in enumerate(tracked):
        yield Record(table, (*labels, str(unit)), UNIT_TABLE.names, values[:, place], present)


def layer_statistics(units: Array, activation: str | None) -> dict[str, Array]:
    """Averages over units, each [run]; ``activation`` is g where the values are g(·), else None."""
    mean, sd, near_zero, saturated, low, high = units.mean(1).T
    columns = {
        "mean": mean,
        "mean_spread": units[:, :, 0].std(1),
        "sd": sd,
        "min": low,
        "max": high,
        "near_zero": near_zero,
    }
    if activation in ("sigmoid", "tanh", "relu"):
        columns["saturated"] = saturated
    if activation == "relu":
        columns["dead"] = (units[:, :, 5] == 0).mean(1)
    return columns


def unit_statistics(x: Array, activation: str | None) -> Array:
    """Mean, SD, share near zero, share saturated, minimum and maximum of x [run, unit, sample]: [run, unit, 6]."""
    if not (kernels.AVAILABLE and isinstance(x, np.ndarray)):
        return unit_statistics_by_torch(x, activation)
    x = np.ascontiguousarray(x)
    found = np.empty((*x.shape[:2], 6))
    kind, level = _SATURATED.get(activation, _NEVER)
    kernels.summarize(x, x.dtype.type(NEAR_ZERO), kind, x.dtype.type(level), found)
    return found


def unit_statistics_by_torch(x: Array, activation: str | None) -> Array:
    """What ``unit_statistics`` computes, an operation at a time: its twin, and the way of other devices."""
    x = torch.from_numpy(x) if isinstance(x, np.ndarray) else x
    saturated = torch.zeros_like(x, dtype=torch.bool)
    if activation == "sigmoid":
        saturated = x * (1 - x) < SATURATED_SLOPE
    elif activation == "tanh":
        saturated = x.abs() > SATURATED_TANH
    elif activation == "relu":
        saturated = x == 0
    near_zero = x.abs() <= NEAR_ZERO
    wide = widened(x)
    mean = wide.mean(-1)
    deviation = wide - mean[..., None]
    sd = (deviation * deviation).mean(-1).sqrt()
    shares = near_zero.to(wide).mean(-1), saturated.to(wide).mean(-1)
    return torch.stack([mean, sd, *shares, wide.amin(-1), wide.amax(-1)], -1).cpu().numpy()


ACTIVATIONS = Measure("activations", (LAYER_TABLE, UNIT_TABLE), read, by_arrays=True)
