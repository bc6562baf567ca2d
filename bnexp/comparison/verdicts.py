"""Supported, contradicted or undecided: where the printed 95 % interval of a claim's difference lies (rules 3 to 5).

The claimed region of a − b is everything below 0 (less), above 0 (greater), or inside ± margin (equal), on the metric's
scale. An interval wholly inside supports the claim, one wholly outside contradicts it, else the claim is undecided.

p is twice the one-sided p that matches: against "not inside" where the centre is inside (for equal the larger of the
two), against "not beyond that end" where it is outside. It comes from Student's t; from the sign test where runs
failed; from sign flips where all differences are identical, which then decide by p ≤ .05.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bnexp.claim_grammar import Claim
from bnexp.comparison import intervals
from bnexp.comparison.intervals import Estimate
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
    spec. ``p_flip`` is the sign-flip p at the same boundary. ``corrected``: Holm decides as the interval does.
    ``fragile``: the sign-flip p disagrees. ``why`` says what decided, ``notes`` what else must be said.
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


def judge(claim: Claim, a: Row, censored: bool = False) -> Verdict:
    """The verdict of one question, before correction; ``censored``: a side stands at the end of the knob's grid."""
    difference, region = a.difference, region_of(claim)
    if difference is None:
        return Verdict("undecided", "there is no difference to judge")
    if claim.expect == "equal" and censored:
        return Verdict("undecided", "a side stands at the end of the grid: its value is a bound, so equal is not known")
    if difference.kind.startswith("median"):
        return _by_rank(difference, a, region)
    if difference.error is not None:
        return _by_t(difference, a, region)
    if a.paired and difference.n > 1:
        return _by_flips(a, region)
    return Verdict("undecided", difference.note)


def corrected(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The same with Holm's p over all of them; a question without a p counts as p = 1 (Holm 1979)."""
    k = len(verdicts)
    order = sorted(range(k), key=lambda i: 1.0 if verdicts[i].p is None else float(verdicts[i].p or 0.0))
    largest, found = 0.0, list(verdicts)
    for place, i in enumerate(order):
        p = verdicts[i].p
        if p is not None:
            largest = max(largest, min(1.0, (k - place) * p))
            found[i] = replace(verdicts[i], p_holm=largest, n_claims=k)
        else:
            found[i] = replace(verdicts[i], n_claims=k)
    return tuple(found)


# --- the three ways ---------------------------------------------------------------------------------------------------

Tail = Callable[[float, bool], float]  # twice the one-sided p against "not above (below) the boundary"


def _by_t(difference: Estimate, a: Row, region: Region) -> Verdict:
    scale = difference.scale
    center = intervals.to_scale(difference.center, scale)
    answer = _place(*_ends(difference), region)

    def tail(boundary: float, above: bool) -> float:
        return 2 * intervals.t_tail(difference, center, boundary, above)

    p, p_flip = _p(tail, center, region), _p(_flip(a), center, region) if a.paired else None
    agrees = p_flip is None or (p_flip <= LEVEL) == (answer != "undecided")
    few = p_flip is not None and difference.n < FEWEST_PAIRS
    notes = (f"with {difference.n} pairs sign-flip can never reach .05",) if few and answer != "undecided" else ()
    verdict = Verdict(answer, _WHERE[answer], "t", p, p_flip, fragile=not agrees and not few, notes=notes)
    if difference.items is None:
        return verdict
    return replace(verdict, items_agree=_place(*difference.items, region) == answer)


def _by_rank(difference: Estimate, a: Row, region: Region) -> Verdict:
    if difference.low is None or difference.high is None:
        return Verdict("undecided", difference.note)
    center = intervals.to_scale(difference.center, difference.scale)
    answer = _place(*_ends(difference), region)
    if math.isnan(center):
        return Verdict("undecided", "each side failed where the other did not")
    p = _p(_signs(a), center, region)
    if answer != "undecided" and p > LEVEL:
        return Verdict("undecided", "the interval of the median decides, the sign test does not", "sign test", p)
    return Verdict(answer, f"{_WHERE[answer]}, by rank", "sign test", p)


def _by_flips(a: Row, region: Region) -> Verdict:
    assert a.difference is not None
    center = intervals.to_scale(a.difference.center, a.difference.scale)
    p = _p(_flip(a), center, region)
    if p > LEVEL:
        return Verdict("undecided", "all differences are identical and too few, or at a boundary", "sign flips", p, p)
    answer: Answer = "supported" if region.holds(center, center) else "contradicted"
    return Verdict(answer, "all differences are identical: sign flips decide", "sign flips", p, p)


_WHERE: dict[Answer, str] = {
    "supported": "the interval lies wholly where the claim says",
    "contradicted": "the interval lies wholly outside of what the claim says",
    "undecided": "the interval holds values of both kinds",
}


def _ends(difference: Estimate) -> tuple[float, float]:
    assert difference.low is not None
    assert difference.high is not None
    return intervals.to_scale(difference.low, difference.scale), intervals.to_scale(difference.high, difference.scale)


def _place(low: float, high: float, region: Region) -> Answer:
    if region.holds(low, high):
        return "supported"
    return "contradicted" if region.misses(low, high) else "undecided"


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


def _signs(a: Row) -> Tail:
    def tail(boundary: float, above: bool) -> float:
        beyond = sum(value > boundary if above else value < boundary for value in a.differences.values())
        short = sum(value < boundary if above else value > boundary for value in a.differences.values())
        return intervals.sign_test_p(beyond, short) if beyond > short else 1.0

    return tail
