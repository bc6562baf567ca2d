"""Results to comparisons, by the rules of STATISTICS.md: numbers only, nothing is printed here.

::

    intervals    what a list of numbers allows to be said
    metrics      which scale a metric is compared on, which way is better, and what may choose for it
    selection    which settings and runs are compared: where, by, baseline
    choice       the learning rate (or another knob), seed by seed, by the other seeds
    rows         one setting against its baseline
    compared     the story: Results -> Comparison. Read this file first.
"""

from bnexp.comparison.compared import NOT_COVERED, Comparison, compare_runs, to_records
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.rows import Row

__all__ = ["NOT_COVERED", "Comparison", "Estimate", "Row", "compare_runs", "to_records"]
