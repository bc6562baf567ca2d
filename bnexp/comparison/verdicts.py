"""Supported, contradicted or undecided: where the printed 95 % interval of a claim's difference lies (rules 3 to 5).

The claimed region of a − b is everything below 0 (less), above 0 (greater), or inside ± margin (equal), on the metric's
scale. An interval wholly inside supports the claim, one wholly outside contradicts it, else the claim is undecided.

p is twice the one-sided p that matches: against "not inside" where the centre is inside (for equal the larger of the
two), against "not beyond that end" where it is outside. It comes from Student's t; from the sign test where runs
failed; from sign flips where all differences are identical, which then decide by p ≤ .05.

Some differences are open: of a pair with a failed run in a metric of which no way is better, or with a missing value;
of values that are bounds (the end of a knob's grid); and, where equality is asked for, of two failed runs, which are no
equality. The interval of the median then has open ends, and the sign test counts them, like ties, against a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bnexp.claim_grammar import Claim
from bnexp.comparison import intervals
from bnexp.comparison.intervals import EXACT, UNKNOWN, Bound, Estimate
from bnexp.comparison.rows import FEWEST_PAIRS, Row

Answer = Literal["supported", "contradicted", "undecided"]
LEVEL = 0.05  # of every test; its complement is the 95 % of the intervals


class Region(NamedTuple):
    """An open interval on the metric's scale; an infinite end is no end, and a failed run may lie beyond it."""

    low: float
    high: float

    def holds(self, low: float, high: float) -> bool:
        """Whether all from low to high is inside."""
        return (low > self.low or self.low == -math.inf) and (high < self.high or self.high == math.inf)

    def misses(self, low: float, high: float) -> bool:
        """Whether nothing from low to high is inside."""
        return (-math.inf < self.low and high <= self.low) or (self.high < math.inf and low >= self.high)


@dataclass(frozen=True)
class Verdict:
    """What a claim's difference allows to be said.

    ``p`` belongs to ``test``: t, sign test or sign flips; ``p_holm`` is corrected for the ``n_claims`` questions of the
    spec. ``p_flip`` is the sign-flip p at the same boundary. ``fragile``: it disagrees. ``items_agree``: the interval
    of other test rows says the same. ``why`` says what decided, ``notes`` what else must be said.
    """

    answer: Answer
    why: str
    test: str = ""
    p: float | None = None
    p_flip: float | None = None
    p_holm: float | None = None
    n_claims: int = 1
    fragile: bool = False
    items_agree: bool | None = None
    notes: tuple[str, ...] = ()

    @property
    def corrected(self) -> bool:
        """Whether the verdict stands after correction; an undecided one has nothing to lose."""
        return self.answer == "undecided" or (self.p_holm is not None and self.p_holm <= LEVEL)


def region_of(claim: Claim) -> Region:
    """Where a − b lies if the claim is true."""
    if claim.expect == "equal":
        assert claim.margin is not None  # the grammar asks for it
        return Region(-claim.margin, claim.margin)
    return Region(-math.inf, 0.0) if claim.expect == "less" else Region(0.0, math.inf)


def judge(claim: Claim, a: Row, bounds: Mapping[int, Bound] | None = None) -> Verdict:
    """The verdict of one question, before correction; ``bounds``: the pairs of which a value is a bound, by seed."""
    difference, region = a.difference, region_of(claim)
    if difference is None:
        return Verdict("undecided", "there is no difference to judge")
    moving = open_pairs(claim, a, bounds or {})
    if not difference.kind.startswith("median"):
        found, center = _by_mean(difference, a, region), intervals.to_scale(difference.center, difference.scale)
        if all(_sound(found.answer, center, bound, region) for bound in moving.values()):
            return found
    elif a.differences and not any((a.unknown, a.n_failed, a.n_baseline_failed, *a.differences.values())):
        return _by_flips(a, 0.0, region)  # exact floors: nothing failed, and all differences are zero
    return _by_rank(a, region, moving)


def open_pairs(claim: Claim, a: Row, bounds: Mapping[int, Bound]) -> dict[int, Bound]:
    """The pairs whose difference is not what it seems, by seed, and how it may differ."""
    moving = {
        seed: bound for seed, bound in bounds.items() if bound != EXACT and (seed in a.differences or not a.paired)
    }
    lost = (*a.unknown, *(a.both_failed if claim.expect == "equal" else ()))
    return {**moving, **dict.fromkeys(lost, UNKNOWN)}


def ranked(a: Row, moving: Mapping[int, Bound]) -> Estimate:
    """The median of the differences, its interval open where they are."""
    assert a.difference is not None
    scale = a.difference.scale
    kind = "median difference" if scale == "raw" else "median ratio"
    plain = intervals.median_estimate(list(a.differences.values()), scale, kind, "pair")
    return intervals.open_estimate(_reaches(a, moving), plain)


def _reaches(a: Row, moving: Mapping[int, Bound]) -> list[tuple[float, float]]:
    return [moving.get(seed, EXACT).reach(difference) for seed, difference in a.differences.items()]


def corrected(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The same with Holm's p over all of them; a question without a p counts as p = 1 (Holm 1979)."""
    k, largest, found = len(verdicts), 0.0, list(verdicts)
    ps = [1.0 if verdict.p is None else verdict.p for verdict in verdicts]
    for place, i in enumerate(sorted(range(k), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (k - place) * ps[i]))
        found[i] = replace(verdicts[i], p_holm=None if verdicts[i].p is None else largest, n_claims=k)
    return tuple(found)


_WHERE: dict[Answer, str] = {
    "supported": "the interval lies wholly where the claim says",
    "contradicted": "the interval lies wholly outside of what the claim says",
    "undecided": "the interval holds values of both kinds",
}


def _place(low: float, high: float, region: Region) -> Answer:
    if region.holds(low, high):
        return "supported"
    return "contradicted" if region.misses(low, high) else "undecided"


# --- means ------------------------------------------------------------------------------------------------------------

Tail = Callable[[float, bool], float]  # twice the one-sided p against "not above (below) the boundary"


def _by_mean(difference: Estimate, a: Row, region: Region) -> Verdict:
    center = intervals.to_scale(difference.center, difference.scale)
    if difference.error is not None:
        return _by_t(difference, a, center, region)
    return _by_flips(a, center, region) if a.paired and difference.n > 1 else Verdict("undecided", difference.note)


def _by_t(difference: Estimate, a: Row, center: float, region: Region) -> Verdict:
    assert difference.low is not None
    assert difference.high is not None
    low, high = (intervals.to_scale(end, difference.scale) for end in (difference.low, difference.high))
    answer = _place(low, high, region)

    def tail(boundary: float, above: bool) -> float:
        return 2 * intervals.t_tail(difference, center, boundary, above)

    p, p_flip = _p(tail, center, region), _p(_flip(a), center, region) if a.paired else None
    agrees = p_flip is None or (p_flip <= LEVEL) == (answer != "undecided")
    few = p_flip is not None and difference.n < FEWEST_PAIRS
    notes = (f"with {difference.n} pairs sign-flip can never reach .05",) if few and answer != "undecided" else ()
    items = None if difference.items is None else _place(*difference.items, region) == answer
    small = math.isfinite(region.low) and math.isfinite(region.high) and answer == "supported" and not low <= 0 <= high
    why = f"{_WHERE[answer]}: a difference there is, but within the margin" if small else _WHERE[answer]
    return Verdict(answer, why, "t", p, p_flip, fragile=not agrees and not few, items_agree=items, notes=notes)


def _by_flips(a: Row, center: float, region: Region) -> Verdict:
    p = _p(_flip(a), center, region)
    if p > LEVEL:
        return Verdict("undecided", "all differences are identical and too few, or at a boundary", "sign flips", p, p)
    answer: Answer = "supported" if region.holds(center, center) else "contradicted"
    return Verdict(answer, "all differences are identical: sign flips decide", "sign flips", p, p)


def _p(tail: Tail, center: float, region: Region) -> float:
    """Twice the one-sided p that matches where the centre lies."""
    if region.holds(center, center):
        sides = [tail(end, above) for end, above in ((region.low, True), (region.high, False)) if math.isfinite(end)]
        return min(1.0, max(sides))
    above = region.high < math.inf and center >= region.high
    return min(1.0, tail(region.high if above else region.low, above))


def _flip(a: Row) -> Tail:
    values = list(a.differences.values())

    def tail(boundary: float, above: bool) -> float:
        moved = [value - boundary for value in values]
        total = math.fsum(moved)
        # A two-sided p is twice the one-sided one on the side where the sum lies.
        return intervals.sign_flip_p(moved, a.rounding) if (total > 0) == above and total else 1.0

    return tail


def _sound(answer: Answer, center: float, bound: Bound, region: Region) -> bool:
    """Whether a mean's verdict stands although a difference may be smaller or larger."""
    if answer == "supported":
        return not (region.low > -math.inf and bound.below) and not (region.high < math.inf and bound.above)
    if answer == "contradicted":  # beyond one end of the region: away from it is harmless
        return not (bound.below if region.high < math.inf and center >= region.high else bound.above)
    return True


# --- ranks ------------------------------------------------------------------------------------------------------------


def _by_rank(a: Row, region: Region, moving: Mapping[int, Bound]) -> Verdict:
    """The interval of the median, with its open ends, and the sign test of what is certain."""
    if not a.paired:
        return Verdict("undecided", "not paired, and not all finite or known: no interval")
    difference, reaches = ranked(a, moving), _reaches(a, moving)
    if difference.low is None or difference.high is None:
        return Verdict("undecided", difference.note)
    low, high = (intervals.to_scale(end, difference.scale) for end in (difference.low, difference.high))
    answer = _place(low, high, region)
    ps: dict[Answer, float] = {side: _sign_p(reaches, region, side) for side in ("supported", "contradicted")}
    p = min(ps.values()) if answer == "undecided" else ps[answer]
    told = (
        f"; {len(moving)} of {len(reaches)} differences are open (failed runs, missing values or bounds)"
        if moving
        else ""
    )
    if answer != "undecided" and p > LEVEL:
        return Verdict("undecided", f"ties or too few certain pairs for the sign test{told}", "sign test", p)
    return Verdict(answer, f"{_WHERE[answer]}, by rank{told}", "sign test", p)


def _sign_p(reaches: Sequence[tuple[float, float]], region: Region, answer: Answer) -> float:
    """Twice the one-sided sign test's p that the median is on the answer's side of a boundary.

    A pair counts for it only if it is there for certain, and not on the boundary. Equality is supported against both
    ends, contradicted by the end with more pairs beyond it.
    """
    n, won = len(reaches), []
    if region.low > -math.inf:
        above, below = sum(low > region.low for low, _ in reaches), sum(high < region.low for _, high in reaches)
        won.append(above if answer == "supported" else below)
    if region.high < math.inf:
        below, above = sum(high < region.high for _, high in reaches), sum(low > region.high for low, _ in reaches)
        won.append(below if answer == "supported" else above)
    count = min(won) if answer == "supported" else max(won)
    return intervals.sign_test_p(count, n - count) if 2 * count > n else 1.0
