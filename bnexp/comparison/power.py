"""What n seeds can resolve (STATISTICS rule 4)."""

from __future__ import annotations

import bisect
import math
from functools import lru_cache

import numpy as np

from bnexp.comparison.intervals import t_quantile

POWER = 0.8  # the usual power of a study
EXACT = 1e-6  # SDs, of a margin
NODES = 100  # of Gauss and Legendre's rule, in each half


@lru_cache
def resolvable(n: int) -> float | None:
    """The smallest margin, in SDs of the paired difference, that n pairs resolve in 80 % of studies; None below 2.

    Resolved: the 95 % interval of a true difference of 0 lies inside ± margin; equally, that of a true difference of
    one margin lies beyond 0 at least as often. With s the SD of n pairs and t = t(.975, n − 1) the interval lies
    inside if |mean| ≤ margin − t·s/√n; the mean is N(0, 1/n), s independent of it with (n − 1)s² ~ χ²(n − 1).
    """
    if n < 2:
        return None
    high = 1.0
    while _power(high, n) < POWER:
        high *= 2
    steps = range(round(high / EXACT) + 1)
    return bisect.bisect_left(steps, POWER, key=lambda step: _power(step * EXACT, n)) * EXACT


def _power(margin: float, n: int) -> float:
    """The probability that the interval lies inside ± margin, in SDs, if there is no difference."""
    from scipy.special import erf, gammaln  # scipy.stats and scipy.integrate take half a second to import

    t, freedom = t_quantile(n - 1), n - 1
    widest = margin * math.sqrt(n) / t  # the largest s whose interval fits at all
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    total = 0.0
    for low, high in ((0.0, min(1.0, widest / 2)), (min(1.0, widest / 2), widest)):
        s = low + (high - low) * (nodes + 1) / 2
        room = margin * math.sqrt(n) - t * s
        # s·sqrt(freedom) has the density of χ.
        x = np.maximum(s, 1e-300) * math.sqrt(freedom)
        log_density = (freedom - 1) * np.log(x) - x * x / 2 - gammaln(freedom / 2) - (freedom / 2 - 1) * math.log(2)
        inside = erf(room / math.sqrt(2)) * np.exp(log_density) * math.sqrt(freedom)
        total += float(weights @ inside) * (high - low) / 2
    return total
