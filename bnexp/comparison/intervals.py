"""What a list of numbers allows to be said: Student's t, order statistics, exact tests.

Values come on the metric's scale (as they are, or natural logs), extended by ±inf for failed runs and for the logs of
zero and infinity. Rule numbers are those of STATISTICS.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnexp.rng import stream

Scale = Literal["raw", "log"]

TAIL = Fraction(1, 40)  # outside a 95 % interval, on each side
EXACT_PAIRS = 20  # above, the 2^n sign patterns are sampled
DRAWS = 100_000
MEDIAN_NEEDS = 6  # the fewest values whose extremes cover the median in 95 %: 1 − 2/2^6 = .969
# Metrics are float32, so each is rounded by at most 2^-24 of itself: a difference by 2^-23, two differences by 2^-22.
HALF_RESOLUTION = 2.0**-23


class Interval(NamedTuple):
    """The two ends of an interval, in the metric's units."""

    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """A centre and its 95 % interval, in the metric's units; a difference on the log scale is a ratio.

    ``sd`` is on the scale (of natural logs where it is log), and so is ``error``, the standard error of a mean with
    ``freedom`` degrees of freedom; both are None where no t interval is made. ``low`` and ``high`` are None where there
    is no interval, and ``note`` says why. ±inf stands for a failed run (infinite and zero for ratios); nan for a median
    between two of opposite sign. ``items`` is the second interval of an accuracy (rule 8): other seeds and other test
    rows; ``low`` and ``high`` are of other seeds on these test rows.
    """

    n: int
    center: float
    low: float | None
    high: float | None
    sd: float | None
    scale: Scale
    kind: str
    note: str = ""
    error: float | None = None
    freedom: float | None = None
    items: Interval | None = None

    @property
    def equal_within(self) -> float | None:
        """Rule 4: M of "equal within ± M", the interval's end farther from no difference; a factor for ratios."""
        if self.low is None or self.high is None:
            return None
        if self.scale == "raw":
            return max(abs(self.low), abs(self.high))
        return max(self.high, 1.0 / self.low if self.low else math.inf)


def from_scale(value: float, scale: Scale) -> float:
    """Back to the metric's units: exp on the log scale."""
    if scale == "raw" or math.isnan(value):
        return value
    return math.exp(value) if value < 709.0 else math.inf  # exp overflows float64 above 709.78


def resolution(values: Sequence[float], scale: Scale) -> float:
    """The largest rounding error of a difference of two of the values, given that they were float32."""
    if scale == "log":
        return HALF_RESOLUTION
    return HALF_RESOLUTION * max((abs(value) for value in values if math.isfinite(value)), default=0.0)


def to_scale(value: float, scale: Scale) -> float:
    """The opposite of ``from_scale``: the log of a ratio; of zero it is −inf."""
    if scale == "raw":
        return value
    return math.log(value) if value > 0 else -math.inf


def difference(a: float, b: float) -> float:
    """a − b of extended numbers; two failures of one kind are a tie."""
    return 0.0 if a == b else a - b


def summary(values: Sequence[float], scale: Scale, rounding: float | None = None) -> Estimate:
    """The centre of one setting's runs: (geometric) mean with t interval, or the median where a value is not finite.

    Here and below, ``rounding`` is the largest rounding error of a difference, by default that of float32 values.
    """
    rounding = resolution(values, scale) if rounding is None else rounding
    if all(map(math.isfinite, values)):
        kind = "mean" if scale == "raw" else "geometric mean"
        return mean_estimate(values, scale, kind, "run", rounding)
    return median_estimate(values, scale, "median", "run")


def paired_difference(
    a: Sequence[float], b: Sequence[float], scale: Scale, rounding: float | None = None, ranked: bool = False
) -> Estimate:
    """a minus b, pair by pair; rule 5 where a side holds a value that is not finite, or where ``ranked`` says so."""
    rounding = resolution((*a, *b), scale) if rounding is None else rounding
    differences = [difference(x, y) for x, y in zip(a, b, strict=True)]
    if not ranked and all(map(math.isfinite, (*a, *b))):
        kind = "mean difference" if scale == "raw" else "ratio of geometric means"
        return mean_estimate(differences, scale, kind, "pair", rounding)
    return median_estimate(differences, scale, "median difference" if scale == "raw" else "median ratio", "pair")


def mean_estimate(values: Sequence[float], scale: Scale, kind: str, noun: str, rounding: float) -> Estimate:
    """Mean ± t(.975, n − 1)·SD/√n; no interval for one value, or where all agree within the rounding error."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return Estimate(1, from_scale(mean, scale), None, None, None, scale, kind, f"1 {noun}: no interval")
    if max(values) - min(values) <= 2 * rounding:
        note = f"all {n} {noun}s are equal: no t interval"
        return Estimate(n, from_scale(mean, scale), None, None, 0.0, scale, kind, note)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return t_estimate(n, mean, sd, sd / math.sqrt(n), n - 1, scale, kind)


def t_estimate(
    n: int, mean: float, sd: float | None, error: float, freedom: float, scale: Scale, kind: str
) -> Estimate:
    """mean ± t(.975, freedom)·error, all three on the scale."""
    half = t_quantile(freedom) * error
    low, high = from_scale(mean - half, scale), from_scale(mean + half, scale)
    return Estimate(n, from_scale(mean, scale), low, high, sd, scale, kind, error=error, freedom=freedom)


def median_estimate(values: Sequence[float], scale: Scale, kind: str, noun: str) -> Estimate:
    """The median and its order-statistic interval, the k-th smallest to the k-th largest value."""
    ordered, n, center = sorted(values), len(values), from_scale(_median(values), scale)
    rank = median_rank(n)
    if rank is None:
        note = f"{n} {noun}{'s' if n > 1 else ''}: the median's interval needs {MEDIAN_NEEDS}"
        return Estimate(n, center, None, None, None, scale, kind, note)
    low, high = from_scale(ordered[rank - 1], scale), from_scale(ordered[n - rank], scale)
    return Estimate(n, center, low, high, None, scale, kind)


class Bound(NamedTuple):
    """How the true difference of a pair may differ from the one at hand: be smaller, be larger."""

    below: bool
    above: bool

    def reach(self, difference: float) -> tuple[float, float]:
        """From where to where the true difference may lie."""
        return (-math.inf if self.below else difference), (math.inf if self.above else difference)


EXACT, UNKNOWN = Bound(False, False), Bound(True, True)


def open_estimate(reaches: Sequence[tuple[float, float]], estimate: Estimate) -> Estimate:
    """A median's interval where each value is only known to lie between two: it covers whatever they are.

    The k-th smallest of the lower ends to the k-th largest of the upper ones.
    """
    rank = median_rank(len(reaches))
    if rank is None:
        return replace(estimate, low=None, high=None)
    low, high = sorted(low for low, _ in reaches)[rank - 1], sorted(high for _, high in reaches)[-rank]
    return replace(estimate, low=from_scale(low, estimate.scale), high=from_scale(high, estimate.scale))


def median_rank(n: int) -> int | None:
    """The largest k with P(Binomial(n, ½) < k) ≤ .025, so that x_(k) … x_(n+1−k) covers the median; None below 6."""
    rank, tail = 0, 1
    while tail <= 2**n * TAIL:
        rank += 1
        tail += math.comb(n, rank)
    return rank or None


def welch_difference(a: Sequence[float], b: Sequence[float], scale: Scale, rounding: float | None = None) -> Estimate:
    """Difference of independent means with Welch's t interval (1947); of medians, bare, if one is not finite."""
    n, log = len(a) + len(b), scale == "log"
    if not all(map(math.isfinite, (*a, *b))):
        center, kind = difference(_median(a), _median(b)), "ratio of medians" if log else "difference of medians"
        note = "neither paired nor all finite: no interval"
        return Estimate(n, from_scale(center, scale), None, None, None, scale, kind, note)
    kind = "ratio of geometric means" if log else "difference of means"
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    mean = float(x.mean() - y.mean())
    center = from_scale(mean, scale)
    if min(len(a), len(b)) < 2:
        return Estimate(n, center, None, None, None, scale, kind, "1 run on a side: no interval")
    rounding = resolution((*a, *b), scale) if rounding is None else rounding
    if max(np.ptp(x), np.ptp(y)) <= 2 * rounding:
        return Estimate(n, center, None, None, None, scale, kind, "all runs of each side are equal: no t interval")
    error_x, error_y = float(x.var(ddof=1)) / len(a), float(y.var(ddof=1)) / len(b)
    freedom = satterthwaite((error_x, len(a) - 1), (error_y, len(b) - 1))
    return t_estimate(n, mean, None, math.sqrt(error_x + error_y), freedom, scale, kind)


def satterthwaite(*parts: tuple[float, float]) -> float:
    """Degrees of freedom of a sum of variances, each with its own: (Σv)²/Σ(v²/f) (Satterthwaite 1946)."""
    freedom: float = sum(v for v, _ in parts) ** 2 / sum(v**2 / f for v, f in parts)
    return freedom


def standardized_effect(estimate: Estimate, mean: float) -> Estimate | None:
    """Cohen's d_z of paired differences: mean/SD, both on the scale, with its exact interval for normal differences.

    t = √n·d_z follows a noncentral t distribution; the interval holds the noncentralities at which t is no rarer than
    1 in 40 on either side (Steiger & Fouladi 1997), over √n. None where there is no t interval.
    """
    from scipy.special import nctdtrinc

    if not estimate.sd or estimate.freedom is None:
        return None
    root, tail = math.sqrt(estimate.n), float(TAIL)
    d = mean / estimate.sd
    low, high = (float(nctdtrinc(estimate.freedom, p, d * root)) / root for p in (1 - tail, tail))
    return Estimate(estimate.n, d, low, high, None, "raw", "d_z")


def t_tail(estimate: Estimate, mean: float, boundary: float, above: bool) -> float:
    """One-sided p of Student's t against "the true mean, on the scale, is not above (below) the boundary"."""
    from scipy.special import stdtr

    assert estimate.error is not None
    t = (mean - boundary) / estimate.error
    return float(stdtr(estimate.freedom, -t if above else t))


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return below if below == above else (below + above) / 2


def share_estimate(count: int, n: int, kind: str) -> Estimate:
    """count/n with the exact interval of Clopper & Pearson 1934."""
    from scipy.special import betaincinv

    tail = float(TAIL)
    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return Estimate(n, count / n, low, high, None, "raw", kind)


def t_quantile(freedom: float) -> float:
    """The .975 quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, float(1 - TAIL)))


def correlation(a: Sequence[float], b: Sequence[float], rounding: float) -> float | None:
    """Pearson's r of the pairs; None for fewer than three, or where a side does not vary."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if len(x) < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return None
    if min(np.ptp(x), np.ptp(y)) <= 2 * rounding:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def sign_flip_p(differences: Sequence[float], rounding: float = 0.0) -> float:
    """Share of the 2^n sign patterns whose |sum| is at least the observed one; sampled with a fixed seed above n = 20.

    Sums that differ by less than the rounding error of the differences count as ties. The sampled p counts the observed
    pattern as one draw (Phipson & Smyth 2010), so it is never 0.
    """
    sizes = np.abs(np.asarray(differences, dtype=float))
    slack = max(len(sizes) * rounding, 1e-12 * float(sizes.sum()))
    observed = abs(math.fsum(differences)) - slack
    if len(sizes) <= EXACT_PAIRS:
        return float(np.mean(np.abs(_all_sums(sizes)) >= observed))
    as_large = sum(int(np.sum(np.abs(sums) >= observed)) for sums in _sampled_sums(sizes))
    return (1 + as_large) / (1 + DRAWS)


def _all_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of all sign patterns; the first sign is fixed, since a pattern and its mirror have one |sum|."""
    sums = sizes[:1]
    for size in sizes[1:]:
        sums = np.concatenate([sums + size, sums - size])
    return sums


def _sampled_sums(sizes: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    random, block = stream(0, "signs"), DRAWS // 100  # blocks bound the memory
    signs = (random.integers(0, 2, size=(block, len(sizes)), dtype=np.int8) for _ in range(100))
    return [(2.0 * sign - 1.0) @ sizes for sign in signs]


def sign_test_p(positive: int, negative: int) -> float:
    """Exact two-sided binomial p of a fair coin: the sign test (ties left out), McNemar's of discordant pairs."""
    n, fewer = positive + negative, min(positive, negative)
    tail: int = sum(math.comb(n, i) for i in range(fewer + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))
