"""Which scale a metric is compared on, which way is better, and what may choose for it (STATISTICS rules 1 and 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bnexp.comparison.intervals import Scale, resolution
from bnexp.layout import METRIC, METRIC_KINDS


class Failing(NamedTuple):
    """Which runs have the worst rank (rule 5), in words: all that did not learn, or only those that diverged."""

    unlearned: bool
    failed: str
    passed: str


LEARNING = Failing(True, "did not learn", "learned")
DIVERGENCE = Failing(False, "diverged", "did not diverge")


@dataclass(frozen=True)
class Metric:
    """One number per run that can be compared: a column of runs.csv, or what a claim or a table makes of a run.

    ``directed``: one way is better, so that a failed run has the worst rank; else a pair with one tells nothing.
    """

    name: str
    scale: Scale
    higher_is_better: bool
    failing: Failing = LEARNING
    directed: bool = True

    def fails(self, learned: bool, diverged: bool) -> bool:
        """Whether a run that ended so has the worst rank."""
        return diverged or (self.failing.unlearned and not learned)

    def on_scale(self, value: float, failed: bool) -> float:
        """The value on the metric's scale; a failed run and a value that is not a number are the worst there is."""
        if failed or math.isnan(value):
            return -math.inf if self.higher_is_better else math.inf
        if self.scale == "raw":
            return value
        return math.log(value) if value > 0 else -math.inf  # log of inf is inf

    def rounding(self, scaled: Sequence[float]) -> float:
        """The largest rounding error of a difference of two values on the scale: each was float32.

        An unexplained share is 1 − R², so its error is that of a number near 1, however small the share.
        """
        usual = resolution(scaled, self.scale)
        if "unexplained" not in self.name:
            return usual
        return usual / min((math.exp(value) for value in scaled if math.isfinite(value)), default=1.0)

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
