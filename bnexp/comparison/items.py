"""The second interval of an accuracy: other seeds *and* other test rows (STATISTICS rule 8).

With n seeds and N test rows, the variance of a mean accuracy over both is

    var = s²_seed/n + s²_item/N − s²_res/(n·N),    at least s²_seed/n

where s²_seed is the variance of the seeds' accuracies, s²_item that of the rows' shares of seeds that got them right,
and s²_res the residual mean square of the seed × row table: both of the first two terms hold it once. items.csv has the
shares, not the table. For one setting the table's sum of squares is known all the same, since its cells are 0 or 1; for
a difference only a lower bound is, which makes its interval a little wide.

The interval is Student's. A setting's has n − 1 degrees of freedom, since shares are skewed where most rows are right;
a difference's, whose gaps are not, has those of Satterthwaite, and is never inside the first interval. On the stored
population (``tests/populations``) each covers what it says; exchanged, they do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bnexp.comparison import intervals
from bnexp.comparison.intervals import Estimate, Interval
from bnexp.comparison.rows import Row
from bnexp.results import Results

METRIC = "test_accuracy"  # the one whose rows items.csv holds


@dataclass(frozen=True, eq=False)
class Shares:
    """Of each test row, the share of ``n`` runs that got it right.

    ``exact``: these runs are the compared ones. Where each seed has its own learning rate they are not: the shares are
    then those of all seeds, weighted by how many took each rate.
    """

    n: int
    of_row: NDArray[np.float64]
    exact: bool = True


def load_shares(results: Results) -> Mapping[str, Shares]:
    """Setting id -> shares, of all settings in items.csv; empty where that was not recorded."""
    frame = results.table("items")
    if frame is None or not {"setting", "n", "share"} <= set(frame.columns):
        return {}
    found = {}
    for setting, rows in frame.groupby("setting", sort=False):
        found[str(setting)] = Shares(int(rows["n"].iloc[0]), rows["share"].to_numpy(dtype=float))
    return found


def shares_of(ids: Sequence[str], shares: Mapping[str, Shares]) -> Shares | None:
    """Those of the first of these settings that has any: equal runs have equal shares."""
    return next((shares[name] for name in ids if name in shares), None)


def mixed(grid: Mapping[str, Shares | None], counts: Mapping[str, int]) -> Shares | None:
    """The shares of runs of which ``counts`` say how many are at each value of the knob; None if one has none."""
    parts = [(grid.get(value), count) for value, count in counts.items()]
    known = [(shares, count) for shares, count in parts if shares is not None]
    if not known or len(known) < len(parts) or len({len(shares.of_row) for shares, _ in known}) > 1:
        return None
    n = sum(count for _, count in known)
    if len(known) == 1:
        return known[0][0] if known[0][0].n == n else None
    weighted = np.sum([shares.of_row * count / n for shares, count in known], axis=0)
    return Shares(n, weighted, exact=False)


def with_items(row: Row, ours: Shares | None, theirs: Shares | None) -> Row:
    """The row, its mean and its paired difference with their second intervals where these can be made."""
    if ours is None or row.estimate is None:
        return row
    estimate = _with_items(row.estimate, list(row.values.values()), ours.of_row, _squares(ours), ours.n)
    difference = row.difference
    comparable = theirs is not None and len(theirs.of_row) == len(ours.of_row) and theirs.n == ours.n
    if difference is not None and row.paired and theirs is not None and comparable:
        gaps = ours.of_row - theirs.of_row
        # A cell of the difference is −1, 0 or 1: its square is at least its size.
        least = ours.n * float(np.abs(gaps).sum()) if ours.exact and theirs.exact else None
        difference = _with_items(difference, list(row.differences.values()), gaps, least, ours.n, gaps=True)
    return replace(row, estimate=estimate, difference=difference)


def _squares(shares: Shares) -> float | None:
    """The sum of squares of the seed × row table of zeros and ones: how many are right."""
    return shares.n * float(shares.of_row.sum()) if shares.exact else None


def _with_items(
    estimate: Estimate,
    seeds: Sequence[float],
    rows: NDArray[np.float64],
    squares: float | None,
    n: int,
    gaps: bool = False,
) -> Estimate:
    """Only a mean with a t interval, of just the runs that the shares count, has a second interval."""
    if estimate.error is None or n != len(seeds) or len(rows) < 2:
        return estimate
    if squares is not None and not math.isclose(rows.mean(), np.mean(seeds), abs_tol=1e-6):
        return estimate  # items.csv is of other runs
    seed, item = two_way_variances(seeds, rows, squares)
    freedom = intervals.satterthwaite((seed, n - 1), (item, len(rows) - 1)) if gaps else n - 1
    half = max(intervals.t_quantile(freedom) * math.sqrt(seed + item), intervals.t_quantile(n - 1) * estimate.error)
    return replace(estimate, items=Interval(estimate.center - half, estimate.center + half))


def two_way_variances(
    seeds: Sequence[float], rows: NDArray[np.float64], squares: float | None = None
) -> tuple[float, float]:
    """The variance of a mean over seeds and test rows: the seeds' part and what the rows add, at least 0.

    ``seeds``, ``rows``: the means of the n × N table along each side; ``squares``: its sum of squares, or a lower bound
    of it; None subtracts no residual.
    """
    n, count = len(seeds), len(rows)
    by_seed, by_row = np.asarray(seeds, dtype=float), rows
    seed, item = float(by_seed.var(ddof=1)) / n, float(by_row.var(ddof=1)) / count
    residual = 0.0
    if squares is not None:
        rest = squares - n * count * float(by_row.mean()) ** 2
        rest -= count * seed * n * (n - 1) + n * item * count * (count - 1)
        residual = max(0.0, rest) / ((n - 1) * (count - 1)) / (n * count)
    return seed, max(0.0, item - residual)
