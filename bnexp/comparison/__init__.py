"""Results to comparisons, by the rules of STATISTICS.md: numbers only, nothing is printed here.

::

    intervals    what a list of numbers allows to be said
    metrics      which scale a metric is compared on, which way is better, and what may choose for it
    selection    which settings and runs are compared: where, by, baseline
    choice       the learning rate (or another knob), seed by seed, by the other seeds
    rows         one setting against its baseline
    columns      a column of a per-epoch table as a metric, one number per run
    compared     the story: Results -> Comparison. Read this file first.
    claimed      the same for the claims of a study: both sides of each question
    power        what n seeds can resolve
"""

from bnexp.comparison.claimed import ClaimRow, claim_records, list_claims
from bnexp.comparison.compared import NOT_COVERED, Comparison, compare_runs, to_records
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.power import resolvable
from bnexp.comparison.rows import Row

__all__ = [
    "NOT_COVERED",
    "ClaimRow",
    "Comparison",
    "Estimate",
    "Row",
    "claim_records",
    "compare_runs",
    "list_claims",
    "resolvable",
    "to_records",
]
