"""Results to comparisons, by the rules of STATISTICS.md: numbers with their notes, nothing is printed here.

::

    intervals    what a list of numbers allows to be said
    metrics      which scale a metric is compared on, which way is better, and what may choose for it
    selection    which settings and runs are compared: where, by, baseline
    choice       the learning rate (or another knob), seed by seed, by the other seeds
    rows         one setting against its baseline
    items        the second interval of an accuracy: other seeds and other test rows
    entries      what a table has a row for, each against its baseline
    tuning       the same at the best value of a knob
    columns      a column of a per-epoch table as a metric, one number per run
    factorial    2×2 effects of a norm's switches
    speed        steps until a training loss is reached
    compared     the story: Results -> Comparison. Read this file first.
    verdicts     supported, contradicted or undecided
    claimed      the claims of a study: both sides of each question, and the verdict
    power        what n seeds can resolve
    records      all of it as flat records
    rules        the rules in words
"""

from bnexp.comparison.claimed import ClaimRow, list_claims
from bnexp.comparison.compared import NOT_COVERED, Comparison, compare_runs, not_covered
from bnexp.comparison.factorial import Effects
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.power import resolvable
from bnexp.comparison.records import claim_records, effect_records, speed_records, to_records
from bnexp.comparison.rows import Row
from bnexp.comparison.rules import RULES
from bnexp.comparison.speed import Speed
from bnexp.comparison.verdicts import Verdict

__all__ = [
    "NOT_COVERED",
    "RULES",
    "ClaimRow",
    "Comparison",
    "Effects",
    "Estimate",
    "Row",
    "Speed",
    "Verdict",
    "claim_records",
    "compare_runs",
    "effect_records",
    "list_claims",
    "not_covered",
    "resolvable",
    "speed_records",
    "to_records",
]
