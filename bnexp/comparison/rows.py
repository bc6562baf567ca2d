"""One setting against its baseline: shares, centres, differences, and why one is missing (STATISTICS rules 1–5)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

from bnexp.comparison import intervals
from bnexp.comparison.intervals import EXACT, UNKNOWN, Estimate
from bnexp.comparison.metrics import LEARNING, Metric
from bnexp.comparison.selection import Outcome, Runs

FEWEST_PAIRS = 6  # 2/2^5 = .0625: with fewer pairs no sign pattern has p < .05 (rule 10)


@dataclass(frozen=True)
class Row:
    """One setting, or one group at its chosen values. Which runs failed is the metric's to say (``Metric.fails``).

    ``n`` counts finished runs, ``n_missing`` those that the spec asks for and that are not finished, ``n_failed`` and
    ``n_baseline_failed`` those of either side that failed, ``failed`` says how. ``estimate`` is of the metric itself: a
    mean, or where only some runs failed the median of all of them as measured, those without a number at the worst
    rank; then ``of_learned`` is the mean of the others, without an interval. ``values`` are the metric's, by seed.

    ``difference`` is to the baseline, a ratio on the log scale; ``paired`` says how, and ``differences`` are those of
    the pairs, by seed, on the scale, each good to ``rounding``. The ``unknown`` seeds do not tell which side did
    better: one failed where no way is better, or a value is missing. Those that failed on both sides are ties by rank,
    but no equality. ``effect`` is d_z. Of the p-values, ``p_sign_flip`` goes with a mean, ``p_sign`` with a median,
    ``p_mcnemar`` with the shares that learned.

    ``chosen``, ``within_one_se`` and ``edges`` belong to a tuned knob: how often each value was chosen, the best value
    on all seeds and those within one SE of it, and the chosen values at the grid's edge.
    """

    setting: dict[str, str]
    is_baseline: bool
    n: int
    n_learned: int
    n_diverged: int
    n_missing: int
    learned_share: Estimate | None
    estimate: Estimate | None
    of_learned: Estimate | None
    values: dict[int, float]
    difference: Estimate | None = None
    paired: bool = False
    correlation: float | None = None
    p_sign_flip: float | None = None
    p_sign: float | None = None
    p_mcnemar: float | None = None
    chosen: dict[str, int] | None = None
    within_one_se: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    note: str = ""
    n_failed: int = 0
    n_baseline_failed: int = 0
    n_baseline: int = 0
    failed: str = LEARNING.failed
    effect: Estimate | None = None
    differences: Mapping[int, float] = field(default_factory=dict)
    unknown: frozenset[int] = frozenset()
    both_failed: frozenset[int] = frozenset()
    rounding: float = 0.0

    @property
    def nobody(self) -> bool:
        """Whether every run of both sides failed."""
        return 0 < self.n == self.n_failed and 0 < self.n_baseline == self.n_baseline_failed


@dataclass(frozen=True)
class Contrast:
    """A difference with all that goes with it."""

    difference: Estimate | None
    paired: bool
    note: str
    correlation: float | None = None
    p_sign_flip: float | None = None
    p_sign: float | None = None
    p_mcnemar: float | None = None
    effect: Estimate | None = None
    differences: Mapping[int, float] = field(default_factory=dict)
    unknown: frozenset[int] = frozenset()
    both_failed: frozenset[int] = frozenset()
    rounding: float = 0.0


NO_CONTRAST = Contrast(None, False, "")
_OF_CONTRAST = tuple(one.name for one in fields(Contrast) if one.name != "note")  # what a row takes over


@dataclass(frozen=True)
class Extra:
    """What a tuned row says beyond an ordinary one."""

    chosen: dict[str, int] | None = None
    within_one_se: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    note: str = ""


NO_EXTRA = Extra()


def make_row(
    setting: dict[str, str],
    runs: Runs,
    seeds: Sequence[int],
    metric: Metric,
    baseline: Runs | None,
    is_baseline: bool,
    extra: Extra = NO_EXTRA,
) -> Row:
    """Summarise the runs of a setting and compare them with those of its baseline, if there is one."""
    outcomes = [runs[seed] for seed in sorted(runs)]
    recorded = is_recorded(outcomes, metric)
    passed = [run for run in outcomes if not _fails(run, metric)]
    failed = len(outcomes) - len(passed)
    n_learned = sum(run.learned for run in outcomes)
    contrast = NO_CONTRAST
    if baseline is not None and recorded and is_recorded(baseline.values(), metric) and runs and baseline:
        contrast = contrast_of(runs, baseline, metric)
    notes = (
        _missing_note(seeds, runs),
        "" if recorded else f"no {metric.name} was recorded",
        _worst_note(outcomes, metric, failed) if recorded else "",
        contrast.note,
        extra.note,
    )
    return Row(
        setting,
        is_baseline,
        n=len(outcomes),
        n_learned=n_learned,
        n_diverged=sum(run.diverged for run in outcomes),
        n_missing=len(seeds) - len(outcomes),
        learned_share=intervals.share_estimate(n_learned, len(outcomes), "share learned") if outcomes else None,
        estimate=_center(outcomes, metric) if outcomes and recorded else None,
        of_learned=_of_passed(passed, metric) if failed and recorded else None,
        values={run.seed: run.values.get(metric.name, math.nan) for run in outcomes},
        chosen=extra.chosen,
        within_one_se=extra.within_one_se,
        edges=extra.edges,
        note=joined(*notes),
        n_failed=failed,
        n_baseline_failed=failed_count((baseline or {}).values(), metric),
        n_baseline=len(baseline or {}),
        failed=metric.failing.failed,
        **{name: getattr(contrast, name) for name in _OF_CONTRAST},
    )


def _fails(run: Outcome, metric: Metric) -> bool:
    return metric.fails(run.learned, run.diverged)


def failed_count(runs: Iterable[Outcome], metric: Metric) -> int:
    """How many have the worst rank."""
    return sum(_fails(run, metric) for run in runs)


def joined(*notes: str) -> str:
    """Notes in one line, empty ones left out."""
    return "; ".join(note for note in notes if note)


def is_recorded(runs: Iterable[Outcome], metric: Metric) -> bool:
    """Whether any run that ended in the ordinary way has the metric; vacuously so if none did."""
    done = [run for run in runs if not run.diverged]
    return not done or any(not math.isnan(run.values.get(metric.name, math.nan)) for run in done)


def _center(outcomes: Sequence[Outcome], metric: Metric) -> Estimate:
    """The mean where the runs are of one kind, all failed or none did; the median where they are mixed.

    No run is left out. A run without a number (diverged) has the worst rank.
    """
    values = [metric.on_scale(run.values.get(metric.name, math.nan), failed=False) for run in outcomes]
    if all(map(math.isfinite, values)) and len({_fails(run, metric) for run in outcomes}) == 1:
        return intervals.summary(values, metric.scale, metric.rounding(values))
    return intervals.median_estimate(values, metric.scale, "median", "run")


def contrast_of(runs: Runs, baseline: Runs, metric: Metric) -> Contrast:
    """The difference of two settings: paired where both sides started from one network and saw one order of rows."""
    common = sorted(set(runs) & set(baseline))
    why_not = why_not_paired(runs, baseline, common)
    if why_not:
        a, b = _scaled(runs.values(), metric), _scaled(baseline.values(), metric)
        return Contrast(intervals.welch_difference(a, b, metric.scale, metric.rounding((*a, *b))), False, why_not)
    ours, theirs = [runs[seed] for seed in common], [baseline[seed] for seed in common]
    a, b = _scaled(ours, metric), _scaled(theirs, metric)
    rounding = metric.rounding((*a, *b))
    differences = {seed: intervals.difference(x, y) for seed, x, y in zip(common, a, b, strict=True)}
    single = sorted(set(runs) ^ set(baseline))
    failed = {seed: (_fails(runs[seed], metric), _fails(baseline[seed], metric)) for seed in common}
    # A failed run whose partner is missing forbids the t verdict as one in a pair does: what is lost is not a mean.
    alone = any(_fails(side[seed], metric) for side in (runs, baseline) for seed in single if seed in side)
    estimate = intervals.paired_difference(a, b, metric.scale, rounding, ranked=alone)
    pairs = Contrast(
        estimate,
        True,
        f"no pair for {_seeds(single)}" if single else "",
        intervals.correlation(a, b, rounding),
        differences=differences,
        unknown=frozenset(seed for seed in common if _untold(runs[seed], baseline[seed], metric)),
        both_failed=frozenset(seed for seed, sides in failed.items() if all(sides)),
        rounding=rounding,
    )
    if alone or not all(map(math.isfinite, (*a, *b))):
        return _ranked(pairs, list(failed.values()))
    p = intervals.sign_flip_p(list(differences.values()), rounding)
    mean = math.fsum(differences.values()) / len(differences)
    return replace(pairs, p_sign_flip=p, effect=intervals.standardized_effect(estimate, mean))


def _untold(run: Outcome, other: Outcome, metric: Metric) -> bool:
    """Whether a pair does not tell which side did better (``Row.unknown``)."""
    failed = (_fails(run, metric), _fails(other, metric))
    lacks = any(
        math.isnan(one.values.get(metric.name, math.nan)) and not lost
        for one, lost in zip((run, other), failed, strict=True)
    )
    return lacks or (any(failed) and not metric.directed)


def _ranked(pairs: Contrast, failed: Sequence[tuple[bool, bool]]) -> Contrast:
    """The same with the sign test of the differences, and McNemar's of who failed (rule 5)."""
    assert pairs.difference is not None
    if pairs.unknown:
        reaches = [
            (UNKNOWN if seed in pairs.unknown else EXACT).reach(difference)
            for seed, difference in pairs.differences.items()
        ]
        pairs = replace(pairs, difference=intervals.open_estimate(reaches, pairs.difference))
    signs = [sign(difference) for difference in pairs.differences.values()]
    won, lost = failed.count((False, True)), failed.count((True, False))
    p_sign, p_mcnemar = (intervals.sign_test_p(*ab) for ab in ((signs.count(1), signs.count(-1)), (won, lost)))
    return replace(pairs, p_sign=p_sign, p_mcnemar=p_mcnemar)


def sign(number: float) -> int:
    """1, −1, or 0."""
    return (number > 0) - (number < 0)


def why_not_paired(runs: Runs, baseline: Runs, common: Sequence[int]) -> str:
    """Why the runs of these seeds are no pairs; empty if they share initial weights and minibatches."""
    if not common:
        return "not paired (no common seed): Welch"
    if any(not runs[s].init_id or runs[s].init_id != baseline[s].init_id for s in common):
        return "not paired (other initial weights): Welch"
    if any(not runs[s].order_id or runs[s].order_id != baseline[s].order_id for s in common):
        return "not paired (other minibatches): Welch"
    return ""


def _scaled(runs: Iterable[Outcome], metric: Metric) -> list[float]:
    return [metric.on_scale(run.values.get(metric.name, math.nan), _fails(run, metric)) for run in runs]


def _of_passed(passed: Sequence[Outcome], metric: Metric) -> Estimate | None:
    """The mean of the runs that did not fail, for the eye: it leaves runs out, so it gets no interval."""
    values = [value for value in _scaled(passed, metric) if math.isfinite(value)]
    if not values:
        return None
    kind = f"{'geometric mean' if metric.scale == 'log' else 'mean'} of the {len(values)} that {metric.failing.passed}"
    mean = intervals.from_scale(math.fsum(values) / len(values), metric.scale)
    return Estimate(len(values), mean, None, None, None, metric.scale, kind, "leaves failed runs out: no interval")


def _worst_note(outcomes: Sequence[Outcome], metric: Metric, failed: int) -> str:
    """How many runs failed, and how many have no finite logarithm."""
    odd = sum(
        not _fails(run, metric) and not math.isfinite(value)
        for run, value in zip(outcomes, _scaled(outcomes, metric), strict=True)
    )
    parts = []
    if failed:
        measured = "" if failed == len(outcomes) else "; the median is of all runs as measured"
        parts.append(f"{failed} of {len(outcomes)} {metric.failing.failed}{measured}")
    if odd:
        parts.append(f"{odd} of {len(outcomes)} {'zero or ' if metric.scale == 'log' else ''}not finite: ranked")
    return "; ".join(parts)


def _missing_note(seeds: Sequence[int], runs: Mapping[int, object]) -> str:
    missing = [seed for seed in seeds if seed not in runs]
    return f"{_seeds(missing)} not finished" if missing else ""


def _seeds(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:10])) + (f", … ({len(seeds)})" if len(seeds) > 10 else "")
    return f"seed{'s' if len(seeds) > 1 else ''} {shown}"
