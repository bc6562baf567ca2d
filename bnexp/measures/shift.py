"""What "the distribution keeps changing" means: each unit's values on the probe set now against the same rows earlier.

Of a unit with values a at the earlier reading and a′ now, in units of its biased SD then (σ; now σ′; means μ, μ′):

- mean_shift |μ′ − μ|/σ; log_sd_shift |ln σ′ − ln σ|; wasserstein: the Wasserstein-1 distance of the two sets of values,
  the mean |difference| of the sorted values, over σ. Absolute first; then mean and maximum over units;
- moved E(a′ − a)²/σ², rows paired, split exactly: moved_mean (μ′ − μ)²/σ² + moved_scale (σ′ − σ)²/σ² +
  moved_reshuffle 2σσ′(1 − ρ)/σ², ρ the correlation of a and a′; means over units. The last is taken from z = (a − μ)/σ
  and z′ as (σ′/σ)·E(z′ − z)²; it grows with σ′ even where no row changes places, so
- decorrelation 1 − ρ = ½E(z′ − z)², the reshuffling alone, whatever the scales; mean over units that vary then and now.

Units that were constant then are left out; log_sd_shift leaves out those that are constant now, too. Where none is left
the numbers are nan. Constant is a unit whose SD is at most 1e-6 of its |mean| (of 1 after a sigmoid), or was so at an
earlier tap of the layer. ``since`` previous: the reading before; start: epoch 0. Summed in float64.

shift_steps: the tracked units every so many steps, as in units.csv: Ioffe & Szegedy 2015, Fig. 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from bnexp.arrays import on_cpu
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.activations import UNIT_TABLE, unit_records, unit_statistics
from bnexp.measures.base import LAYER, TAP, Measure, Reading, Record, ascending, learns_affine

if TYPE_CHECKING:
    from torch import Tensor

# float32 holds a value to 6e-8 of itself, so values that should be equal have an SD of about that share of their mean,
# or of 1 after a sigmoid, which is computed as ½(1 + tanh). Standardizing blows such an SD up: hence the earlier taps.
CONSTANT = 1e-6

SINCE = Column(
    "since", "", "earlier reading: previous (the one before) or start (epoch 0)", values=("previous", "start")
)
TABLE = Table(
    "shift",
    (LAYER, TAP, SINCE),
    (
        Column(
            "mean_shift",
            "SDs",
            "mean over units of |change of the unit's mean| over its SD at the earlier reading",
            log=True,
        ),
        Column("mean_shift_max", "SDs", "maximum over units of the same", log=True),
        Column("log_sd_shift", "nats", "mean over units of |change of ln(SD)|"),
        Column("log_sd_shift_max", "nats", "maximum over units of the same"),
        Column(
            "wasserstein",
            "SDs",
            "mean over units of the Wasserstein-1 distance of values then and now, over the SD",
            log=True,
        ),
        Column("wasserstein_max", "SDs", "maximum over units of the same", log=True),
        Column(
            "moved",
            "squared SDs",
            "mean over units of E(a′ − a)²/SD², rows paired: the sum of the next three",
            log=True,
        ),
        Column("moved_mean", "squared SDs", "part of moved: (change of the mean)²/SD²", log=True),
        Column("moved_scale", "squared SDs", "part of moved: (change of the SD)²/SD²", log=True),
        Column(
            "moved_reshuffle",
            "squared SDs",
            "part of moved: 2·SD·SD′(1 − correlation)/SD², rows changing places",
            log=True,
        ),
        Column("decorrelation", "1", "mean over units of 1 − correlation of values then and now, rows paired"),
        Column("units", "1", "units used: those that varied at the earlier reading"),
    ),
    hidden_only=True,
    first_epoch=1,
)
STEP_TABLE = Table(
    "shift_steps",
    (Column("step", "", "optimizer steps taken"), *UNIT_TABLE.labels),
    UNIT_TABLE.columns,
    first_epoch=1,
)


class Units(NamedTuple):
    """Mean, biased SD and whether it varies, of each unit [run, unit]; (a − mean)/SD and sorted a, float64."""

    mean: Tensor
    sd: Tensor
    varies: Tensor
    standardized: Tensor  # 0 where the SD is 0
    ranked: Tensor


def read(reading: Reading) -> Iterator[Record]:
    """Yield two rows per hidden layer and tap, from the second reading on."""
    memory, affine = reading.memory, learns_affine(reading.runs)
    for layer, taps in enumerate(reading.taps[:-1], start=1):
        varies: dict[str, Tensor] = {}  # reading → units that vary up to this tap
        for tap, x in taps.items():
            floor = 1.0 if tap == "activation" and reading.structure.activation == "sigmoid" else 0.0
            now = units_of(x, floor, varies.get("now"))
            varies["now"] = now.varies
            for since in ("previous", "start"):
                key = f"{since}.{layer}.{tap}"
                if key in memory:
                    then = units_of(memory[key], floor, varies.get(since))
                    varies[since] = then.varies
                    columns = shifts(now, then)
                    values = torch.stack(list(columns.values()), 1)
                    present = affine if tap == "affine" else None
                    yield Record("shift", (str(layer), tap, since), tuple(columns), values, present)
            memory.setdefault(f"start.{layer}.{tap}", x)
            memory[f"previous.{layer}.{tap}"] = x


def trace(reading: Reading, step: int) -> Iterator[Record]:
    """Yield one row per layer, tap and tracked unit."""
    affine = learns_affine(reading.runs)
    for layer, taps in enumerate(reading.taps, start=1):
        for tap, x in taps.items():
            present = affine if tap == "affine" else None
            units = unit_statistics(on_cpu(x), None)
            yield from unit_records("shift_steps", (str(step), str(layer), tap), x, units, reading.track, present)


def units_of(x: Tensor, floor: float = 0.0, varied: Tensor | None = None) -> Units:
    """What is compared, of values x [run, unit, sample].

    ``floor``: the least scale of |mean| for a constant; ``varied`` [run, unit]: at the tap before.
    """
    ranked = ascending(x).double()
    x = x.double()
    mean = x.mean(-1)
    deviation = x - mean[..., None]
    sd = (deviation * deviation).mean(-1).sqrt()
    standardized = torch.where(sd[..., None] == 0, 0.0, deviation / sd[..., None])
    varies = ~(sd <= CONSTANT * mean.abs().clamp_min(floor))
    return Units(mean, sd, varies if varied is None else varies & varied, standardized, ranked)


def shifts(now: Units, then: Units) -> dict[str, Tensor]:
    """The columns of the table, each [run]."""
    used = then.varies
    mean_shift = (now.mean - then.mean) / then.sd
    ratio = now.sd / then.sd
    distance = (now.ranked - then.ranked).abs().mean(-1) / then.sd
    turned = now.standardized - then.standardized
    columns: dict[str, Tensor] = {}
    for name, values, which in (
        ("mean_shift", mean_shift.abs(), used),
        ("log_sd_shift", ratio.log().abs(), used & now.varies),
        ("wasserstein", distance, used),
    ):
        columns[name], columns[f"{name}_max"] = _mean(values, which), _max(values, which)
    parts = {
        "moved_mean": _mean(mean_shift * mean_shift, used),
        "moved_scale": _mean((ratio - 1) * (ratio - 1), used),
        "moved_reshuffle": _mean(ratio * (turned * turned).mean(-1), used),
    }
    decorrelation = _mean((turned * turned).mean(-1) / 2, used & now.varies)
    total = parts["moved_mean"] + parts["moved_scale"] + parts["moved_reshuffle"]
    return {**columns, "moved": total, **parts, "decorrelation": decorrelation, "units": used.sum(-1).double()}


def _mean(values: Tensor, which: Tensor) -> Tensor:
    """Mean over the units chosen, [run]; nan if there are none."""
    return torch.where(which, values, 0.0).sum(-1) / which.sum(-1)


def _max(values: Tensor, which: Tensor) -> Tensor:
    """Maximum, at least 0, over the units chosen, [run]; nan if there are none."""
    return torch.where(which.any(-1), torch.where(which, values, 0.0).amax(-1), torch.nan)


SHIFT = Measure("shift", (TABLE, STEP_TABLE), read, trace=trace)
