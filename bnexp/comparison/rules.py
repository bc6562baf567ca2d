"""The rules by which bnexp concludes anything, in words: ``compare --explain`` and the page print these."""

from __future__ import annotations

from typing import NamedTuple

from bnexp.comparison.intervals import DRAWS, EXACT_PAIRS, MEDIAN_NEEDS
from bnexp.comparison.rows import FEWEST_PAIRS


class Rule(NamedTuple):
    """A rule with its number, which the code refers to."""

    number: int
    title: str
    text: str


_TEXTS = {
    "Scale": """
        Accuracies and R² are compared as differences. Losses, norms, times and unexplained shares are compared as logs
        and printed as geometric means and ratios. A value of zero or infinity on such a scale is ranked (rule 5).
    """,
    "Interval": """
        Student's t over seeds, 95 %. Differences are paired where both sides share initial weights and minibatches
        (init_id and order_id agree); the correlation of the pairs is printed. Where they do not, Welch's interval is
        used and the reason is given. Two runs or more make an interval.
    """,
    "Verdict": f"""
        A claim is supported if the printed 95 % interval lies wholly where the claim says, contradicted if it lies
        wholly elsewhere, else undecided. p is twice the matching one-sided p; Holm's correction runs over the questions
        that the claims of the spec ask, and nothing else, and a verdict that does not survive it says so. The sign-flip
        p is exact up to {EXACT_PAIRS} pairs, above it {DRAWS} sign patterns are drawn; where it disagrees with the
        interval the verdict is called fragile. Where all differences are identical there is no t, and sign flips
        decide.
    """,
    "Equality": """
        Equal means that the 95 % interval lies inside ± the margin that the claim states together with its reason;
        there is no default margin. Every comparison prints the smallest margin it could have met: equal within ± M.
    """,
    "Failed runs are outcomes": f"""
        A run that diverged or did not learn has the worst rank. With one on either side no t verdict is given: the
        median with its order-statistic interval (from {MEDIAN_NEEDS} pairs on) and the sign test decide. The share that
        learned has a Clopper–Pearson interval and McNemar's exact p; a mean of the runs that learned is labelled as
        that. No failed run is ever left out.
    """,
    "Learned": """
        Classification: final training accuracy at least learned_at of the way from chance to 1. Regression: at most 0.9
        of the variance is unexplained. The loss is not used: it can be large where almost every row is right.
    """,
    "Choosing a learning rate": """
        Each seed is reported at the value that is best on the other seeds. Test metrics are chosen by validation,
        training metrics by themselves, nothing by test rows. Split choices, values within one standard error of the
        best and choices at the grid's edge are printed, and both sides should have the same grid.
    """,
    "Finite test set": """
        A test accuracy has two intervals: for other seeds on these test rows, and for other seeds and other rows, with
        variance s²(seeds)/n + s²(rows)/N − s²(residual)/(nN), at least the first term. The second is used where a
        sentence speaks of accuracy in general.
    """,
    "Speed": """
        Per seed, the steps until the training loss is as low as the last one of the same seed's baseline, compared as
        logs; between two readings a loss is taken to fall log-linearly. For a fixed threshold (--until) every run is
        censored at one budget: the mean of min(steps, budget) and how many got there. A run that never gets there is
        never left out.
    """,
    "Family": f"""
        The family of tests is the claims of one spec. Tables and sweeps are descriptive: intervals, no stars. With
        fewer than {FEWEST_PAIRS} pairs sign flips can never reach .05, and that is said. Every report says what its
        intervals do not cover: the data split, the architecture, the choice of data set, the grid of learning rates,
        and other test rows unless rule 8 gives that interval.
    """,
}
RULES = tuple(
    Rule(number, title, " ".join(text.split())) for number, (title, text) in enumerate(_TEXTS.items(), start=1)
)
