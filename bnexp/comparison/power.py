"""What n seeds can resolve (STATISTICS rule 4)."""

from __future__ import annotations

import math
from functools import lru_cache

from bnexp.comparison.intervals import t_quantile

POWER = 0.8  # the usual power of a study


@lru_cache
def resolvable(n: int) -> float | None:
    """The smallest margin, in SDs of the paired difference, that n pairs resolve in 80 % of studies; None below 2.

    Resolved: the 95 % interval of a true difference of 0 lies inside ± margin; equally, that of a true difference of
    one margin lies beyond 0 at least as often. With s the SD of n pairs and t = t(.975, n − 1) the interval lies
    inside if |mean| ≤ margin − t·s/√n; the mean is N(0, 1/n), s independent of it with (n − 1)s² ~ χ²(n − 1).
    """
    if n < 2:
        return None
    from scipy.optimize import brentq

    high = 1.0
    while _power(high, n) < POWER:
        high *= 2
    return float(brentq(lambda margin: _power(margin, n) - POWER, 0.0, high, xtol=1e-6))


def _power(margin: float, n: int) -> float:
    """The probability that the interval lies inside ± margin, in SDs, if there is no difference."""
    from scipy.integrate import quad
    from scipy.special import erf
    from scipy.stats import chi

    t, freedom = t_quantile(n - 1), n - 1
    widest = margin * math.sqrt(n) / t  # the largest s whose interval fits at all

    def inside(s: float) -> float:
        room = (margin - t * s / math.sqrt(n)) * math.sqrt(n)
        return float(erf(room / math.sqrt(2)) * chi.pdf(s * math.sqrt(freedom), freedom) * math.sqrt(freedom))

    return float(quad(inside, 0.0, widest, points=[min(1.0, widest / 2)], limit=200)[0])
