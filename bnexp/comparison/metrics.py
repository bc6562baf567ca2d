"""Which scale a metric is compared on, which way is better, and what may choose for it (STATISTICS rules 1 and 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bnexp.comparison.intervals import Scale
from bnexp.layout import METRIC, METRIC_KINDS


@dataclass(frozen=True)
class Metric:
    """A column of runs.csv that can be compared."""

    name: str
    scale: Scale
    higher_is_better: bool

    def on_scale(self, value: float, failed: bool) -> float:
        """The value on the metric's scale; a failed run and a value that is not a number are the worst there is."""
        if failed or math.isnan(value):
            return -math.inf if self.higher_is_better else math.inf
        if self.scale == "raw":
            return value
        return math.log(value) if value > 0 else -math.inf  # log of inf is inf

    def cost(self, scaled: float) -> float:
        """The same turned round so that less is better."""
        return -scaled if self.higher_is_better else scaled


def metric_of(name: str) -> Metric | None:
    """The metric of a column name; None if the column is not one."""
    match = METRIC.fullmatch(name)
    return Metric(name, *METRIC_KINDS[match[2]]) if match else None


def choosers(name: str) -> tuple[str, ...]:
    """The columns that may choose a setting for a metric, best first: validation for test, else itself."""
    match = METRIC.fullmatch(name)
    if not match or match[1] != "test":
        return (name,)
    exact, plain = f"val_{match[2]}{match[3]}", f"val_{match[2]}"
    return tuple(dict.fromkeys((exact, plain)))
