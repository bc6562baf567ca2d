"""Verdicts: where the interval lies, against scipy's one-sided tests, by hand, and with every kind of missing value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import A, B, study

from bnexp.claim_grammar import Claim
from bnexp.comparison import Verdict, list_claims
from bnexp.comparison import intervals as iv
from bnexp.comparison.metrics import DIVERGENCE, Metric, metric_of
from bnexp.comparison.rows import make_row
from bnexp.comparison.selection import Outcome
from bnexp.comparison.verdicts import Bound, corrected, judge

SEEDS = range(10)


def claim(expect, within=None, metric="test_accuracy"):
    more = {"within": within, "why": "w"} if within is not None else {}
    return Claim(claim="c", a={"norm": "full"}, b={"norm": "none"}, metric=metric, expect=expect, **more)


def side(values, metric="test_accuracy", learned=None, pair=True, name="w"):
    """Runs with these values; None is one that diverged, ``learned`` says which did learn."""
    runs = {}
    for seed, value in enumerate(values):
        lost = value is None
        ok = not lost and (learned is None or learned[seed])
        ids = (f"{name}{seed}", f"o{seed}") if pair else ("", "")
        runs[seed] = Outcome(seed, ok, lost, *ids, {metric: math.nan if lost else value})
    return runs


def row(a, b, metric="test_accuracy", **options):
    return make_row({}, side(a, metric, **options), range(len(a)), metric_of(metric), side(b, metric, **options), False)


def verdict(a, b, expect, within=None, metric="test_accuracy", **options):
    return judge(claim(expect, within, metric), row(a, b, metric, **options))


# --- Student's t ------------------------------------------------------------------------------------------------------


def scipy_p(differences, mean, alternative):
    return 2 * scipy.stats.ttest_1samp(differences, mean, alternative=alternative).pvalue


@settings(max_examples=200, deadline=None)
@given(
    center=st.floats(-0.1, 0.1), spread=st.floats(0.001, 0.1), seed=st.integers(0, 999), margin=st.floats(0.005, 0.1)
)
def test_t_verdicts_and_p_against_scipy(center, spread, seed, margin):
    rng = np.random.default_rng(seed)
    b = rng.uniform(0.3, 0.7, 10)
    d = rng.normal(center, spread, 10)
    d = (b + d) - b
    less, greater, equal = (verdict(b + d, b, e, m) for e, m in (("less", None), ("greater", None), ("equal", margin)))
    below, above = scipy_p(d, 0, "less"), scipy_p(d, 0, "greater")
    assert less.p == pytest.approx(min(1, below if d.mean() < 0 else above), rel=1e-9)
    assert greater.p == pytest.approx(less.p, rel=1e-9)
    inside = max(scipy_p(d, -margin, "greater"), scipy_p(d, margin, "less"))
    outside = scipy_p(d, margin, "greater") if d.mean() >= margin else scipy_p(d, -margin, "less")
    assert equal.p == pytest.approx(min(1, inside if abs(d.mean()) < margin else outside), rel=1e-9)
    for found in (less, greater, equal):
        assert (found.answer != "undecided") == (found.p <= 0.05)
    if less.answer != "undecided":
        assert (less.answer == "supported") == (d.mean() < 0)
        assert {less.answer, greater.answer} == {"supported", "contradicted"}
    if equal.answer != "undecided":
        assert (equal.answer == "supported") == (abs(d.mean()) < margin)


def test_a_ratio_is_judged_on_logs():
    a, b = [0.10, 0.11, 0.12, 0.10, 0.13, 0.11], [0.20, 0.21, 0.25, 0.19, 0.27, 0.22]
    logs = np.log(a) - np.log(b)
    found = verdict(a, b, "less", metric="fit_loss")
    assert found.answer == "supported"
    assert found.p == pytest.approx(scipy.stats.ttest_1samp(logs, 0).pvalue, rel=1e-9)
    wide, tight = (verdict(a, b, "equal", within, "fit_loss") for within in ("x2.5", "x1.5"))
    assert (wide.answer, tight.answer) == ("supported", "contradicted")
    assert wide.p == pytest.approx(scipy_p(logs, -math.log(2.5), "greater"), rel=1e-9)
    assert verdict(a, b, "equal", "100%", "fit_loss").answer == verdict(a, b, "equal", "x2", "fit_loss").answer


def test_unpaired_sides_are_judged_by_welch():
    a, b = side(A, pair=False), side(B, pair=False)
    found = judge(claim("greater"), make_row({}, a, SEEDS, metric_of("test_accuracy"), b, False))
    assert found.p == pytest.approx(scipy.stats.ttest_ind(A, B, equal_var=False).pvalue, rel=1e-9)
    assert found.p_flip is None
    assert not found.fragile


def test_a_margin_is_met_by_the_whole_interval_and_no_less():
    estimate = row(A, B).difference
    assert estimate.equal_within == max(abs(estimate.low), abs(estimate.high))
    for factor, answer in ((0.999, "undecided"), (1.001, "supported")):
        assert verdict(A, B, "equal", estimate.equal_within * factor).answer == answer


# --- the sign flips beside it -----------------------------------------------------------------------------------------


def test_fragile_is_where_sign_flips_disagree():
    outlier = verdict([0.51] * 9 + [0.99], [0.5] * 10, "greater")  # one large difference hides that all are positive
    assert (outlier.answer, outlier.fragile) == ("undecided", True)
    assert outlier.p_flip == pytest.approx(2 / 2**10)
    clear = verdict(A, B, "greater")
    assert (clear.answer, clear.fragile) == ("supported", False)
    flips = scipy.stats.permutation_test(
        (np.subtract(A, B),), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert clear.p_flip == pytest.approx(flips, rel=1e-9)


def test_few_pairs_say_that_sign_flips_cannot_reach_the_level():
    found = verdict([0.6, 0.61, 0.62, 0.63, 0.645], [0.5] * 5, "greater")
    assert (found.answer, found.fragile) == ("supported", False)
    assert found.notes == ("with 5 pairs sign-flip can never reach .05",)
    assert found.p_flip == 2 / 2**5


@pytest.mark.parametrize(
    ("n", "expect", "within", "answer"),
    [
        (5, "greater", None, "undecided"),  # 2/2^5 > .05
        (6, "greater", None, "supported"),
        (6, "less", None, "contradicted"),
        (6, "equal", 0.3, "supported"),
        (6, "equal", 0.2, "contradicted"),
        (6, "equal", 0.25, "undecided"),  # at the margin
    ],
)
def test_identical_differences_are_decided_by_sign_flips(n, expect, within, answer):
    found = verdict([0.75] * n, [0.5] * n, expect, within)
    assert (found.answer, found.test) == (answer, "sign flips")
    assert found.p == (1.0 if within == 0.25 else 2 / 2**n)


def test_no_difference_at_all():
    same = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    assert verdict(same, same, "greater").answer == "undecided"
    assert verdict(same, same, "greater").p == 1
    assert verdict(same, same, "equal", 0.01).answer == "supported"


def test_one_pair_and_none():
    assert verdict([0.5], [0.4], "greater") == Verdict("undecided", "1 pair: no interval")
    empty = judge(claim("greater"), make_row({}, {}, SEEDS, metric_of("test_accuracy"), {}, False))
    assert (empty.answer, empty.p) == ("undecided", None)


# --- failed runs ------------------------------------------------------------------------------------------------------


def test_failed_runs_are_judged_by_rank():
    found = verdict([0.9] * 10, [None] * 10, "greater")
    assert (found.answer, found.test, found.p) == ("supported", "sign test", 2 / 2**10)
    assert verdict([0.9] * 10, [None] * 10, "less").answer == "contradicted"
    assert verdict([0.9] * 10, [None] * 10, "equal", 0.5).answer == "contradicted"
    assert verdict([None] * 10, [0.9] * 10, "less").answer == "supported"
    assert verdict([None] * 10, [None] * 10, "less").answer == "undecided"
    assert verdict([None] * 10, [None] * 10, "equal", 0.1).answer == "undecided"  # two failures are no equality
    assert verdict([0.9] * 5, [None] * 5, "greater").answer == "undecided"  # n ≤ 5


def test_the_sign_test_at_a_margin_by_hand():
    # 9 of 10 differences inside ± .2, one failed: P(B ≤ 1) twice
    found = verdict([0.9] * 9 + [None], [0.8] * 10, "equal", 0.2)
    assert found.p == pytest.approx(2 * scipy.stats.binom.cdf(1, 10, 0.5), rel=1e-12)
    assert found.answer == "supported"  # the 2nd to the 9th lie inside
    assert verdict([0.9] * 8 + [None] * 2, [0.8] * 10, "equal", 0.2).answer == "undecided"


def test_a_failed_run_without_a_partner_forbids_t():
    runs, others = side(A), side(B)
    runs[10] = Outcome(10, False, True, "w10", "o10", {"test_accuracy": math.nan})
    found = judge(claim("greater"), make_row({}, runs, range(11), metric_of("test_accuracy"), others, False))
    assert found.test == "sign test"


def test_pairs_that_failed_on_both_sides_are_ties_and_no_equality():
    sides = [0.9] * 8 + [None] * 2, [0.8] * 8 + [None] * 2
    found = verdict(*sides, "greater")
    assert found.answer == "undecided"
    assert found.p == pytest.approx(2 * scipy.stats.binom.cdf(2, 10, 0.5), rel=1e-12)
    one = [0.9] * 9 + [None], [0.8] * 9 + [None]
    assert verdict(*one, "greater").answer == "supported"
    assert verdict(*one, "less").answer == "contradicted"
    assert verdict(*one, "equal", 0.2).answer == "supported"  # nine of ten are certain
    assert verdict(*sides, "equal", 0.2).answer == "undecided"


def test_ties_count_for_neither_verdict():
    found = verdict([0.9] * 5 + [0.8] * 4 + [None], [0.8] * 10, "greater")
    assert (found.answer, found.p) == ("undecided", 1.0)
    tied = verdict([0.8] * 9 + [None], [0.8] * 10, "greater")
    assert (tied.answer, tied.p) == ("undecided", 1.0)


@settings(max_examples=200, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(*[st.one_of(st.none(), st.sampled_from([0.6, 0.7, 0.71, 0.8]))] * 2), min_size=6, max_size=12
    ),
    within=st.sampled_from([0.05, 0.15]),
)
def test_a_verdict_is_the_same_from_the_other_side(pairs, within):
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    for ours, theirs in (("equal", "equal"), ("less", "greater"), ("greater", "less")):
        margin = within if ours == "equal" else None
        one, other = verdict(a, b, ours, margin), verdict(b, a, theirs, margin)
        assert (one.answer, one.test) == (other.answer, other.test)
        assert one.p == pytest.approx(other.p, rel=1e-9)


def test_missing_values_tell_nothing():
    lacking = [math.nan] * 9 + [3.0]
    for a, b in ((lacking, lacking), (lacking, [3.0] * 10), ([3.0] * 10, lacking)):
        for expect, within in (("less", None), ("greater", None), ("equal", "x1.1")):
            assert verdict(a, b, expect, within, "fit_loss").answer == "undecided"


def test_where_no_way_is_better_a_failure_supports_nothing():
    """Divergence is not a high rank: of a column without a direction it only counts against a verdict."""
    metric = Metric("rank.stable_rank", "log", False, DIVERGENCE, directed=False)
    good, lost = [3.0 + 0.1 * seed for seed in range(10)], [None] * 10
    for a, b in ((lost, good), (good, lost)):
        sides = [side(values, metric.name) for values in (a, b)]
        row = make_row({}, sides[0], SEEDS, metric, sides[1], False)
        for expect, within in (("less", None), ("greater", None), ("equal", "x1000")):
            assert judge(claim(expect, within, metric.name), row).answer == "undecided"


@pytest.mark.parametrize(
    ("expect", "ours", "theirs", "answer"),
    [
        ("greater", True, False, "supported"),  # ours may be larger still
        ("greater", False, True, "undecided"),  # theirs may be larger still
        ("greater", True, True, "undecided"),
        ("less", True, False, "contradicted"),  # ours is larger, and may be more so
        ("less", False, True, "undecided"),
        ("equal", True, False, "undecided"),
        ("equal", False, True, "undecided"),
    ],
)
def test_bounds_support_only_what_they_cannot_undo(expect, ours, theirs, answer):
    bounds = {seed: Bound(below=theirs, above=ours) for seed in range(8)}
    found = judge(claim(expect, 0.1 if expect == "equal" else None), row(A, B), bounds)
    assert found.answer == answer


def test_exact_floors_are_equal():
    zero = verdict([0.0] * 6, [0.0] * 6, "equal", "x1.1", "fit_loss")
    assert (zero.answer, zero.test) == ("supported", "sign flips")
    assert verdict([0.0] * 6, [0.0] * 6, "less", metric="fit_loss").answer == "undecided"


def test_the_last_bit_of_r2_decides_nothing():
    """1 − R² of float32 is known to 2^-24 of 1, not of itself."""
    near = [np.float32(0.99999)] * 10
    other = [np.nextafter(r2, np.float32(2)) if seed < 7 else r2 for seed, r2 in enumerate(near)]
    a, b = ([1 - float(r2) for r2 in side] for side in (near, other))
    found = verdict(b, a, "less", metric="test_unexplained")
    assert found.answer == "undecided"


outcome = st.one_of(st.none(), st.floats(0.2, 1.0, allow_nan=False))


@settings(max_examples=150, deadline=None)
@given(pairs=st.lists(st.tuples(outcome, outcome), min_size=1, max_size=12), index=st.integers(0, 11))
def test_among_failures_one_more_never_helps_its_side(pairs, index):
    """Where verdicts are by rank, no further run can be made to fail so that its own side comes out better."""
    order = ("contradicted", "undecided", "supported")
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    index %= len(a)
    found = row(a, b)
    assert found.n == len(a)
    assert found.n_failed == a.count(None)
    if all(value is not None for value in (*a, *b)):
        assert found.difference.kind == "mean difference"
        return
    assert found.difference.kind == "median difference"
    assert found.p_sign_flip is None
    failing = verdict([*a[:index], None, *a[index + 1 :]], b, "greater")
    assert order.index(failing.answer) <= order.index(verdict(a, b, "greater").answer)


# --- Holm -------------------------------------------------------------------------------------------------------------


def holm(*ps):
    return [found.p_holm for found in corrected([Verdict("supported", "", p=p) for p in ps])]


def test_holm_by_hand():
    assert holm(0.01, 0.04, 0.03) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(0.02) == [0.02]
    assert holm(0.5, 0.9) == [1.0, 1.0]
    assert holm(0.02, None) == [0.04, None]  # a question without a p counts
    first, second = corrected([Verdict("supported", "", p=0.04), Verdict("undecided", "", p=0.5)])
    assert (first.corrected, second.corrected) == (False, True)
    assert first.n_claims == 2


# --- claims of a study ------------------------------------------------------------------------------------------------

CLAIMS = """
data: digits
model: {norm: [none, full]}
train: {lr: [0.1, 1]}
seeds: 10
claims:
  - {claim: first, where: {lr: 0.1}, a: {norm: full}, b: {norm: none}, metric: test_accuracy, expect: greater}
  - {claim: second, each: lr, a: {norm: full}, b: {norm: none}, metric: test_accuracy, expect: equal,
     within: 0.1, why: w}
  - {claim: third, a: {norm: full}, b: {norm: none}, metric: {largest: lr, such_that: learned}, expect: equal,
     within: x2, why: w}
"""


def test_a_family_is_the_questions_of_one_spec(tmp_path):
    values = {"full": A, "none": B}
    results = study(tmp_path, CLAIMS, lambda f, s: {"test_accuracy": values[f["norm"]][s]})
    rows = list_claims(results)
    assert [row.verdict.n_claims for row in rows] == [4] * 4
    assert [row.verdict.answer for row in rows[:3]] == ["supported"] * 3
    t = scipy.stats.ttest_rel(A, B).pvalue
    assert rows[0].verdict.p == pytest.approx(t, rel=1e-9)
    others = sorted((row.verdict.p or 1) for row in rows)
    assert rows[0].verdict.p_holm == pytest.approx(max((4 - i) * p for i, p in enumerate(others) if p <= t), rel=1e-9)


def test_a_bound_is_never_equal(tmp_path):
    """Every run learned at the largest lr of the grid: how far each side could go is not known."""
    results = study(tmp_path, CLAIMS, lambda f, s: {"test_accuracy": 0.9})
    last = list_claims(results)[-1]
    assert last.verdict.answer == "undecided"
    assert "10 of 10 differences are open" in last.verdict.why
    assert any("10 seeds at the end of the grid: at least" in note for note in last.notes)


def test_t_tail_is_scipys():
    values = np.random.default_rng(0).normal(0.3, 1, 8).tolist()
    estimate = iv.mean_estimate(values, "raw", "mean", "pair", 0.0)
    mean = math.fsum(values) / 8
    for boundary in (-1.0, 0.0, 0.7):
        for above, alternative in ((True, "greater"), (False, "less")):
            expected = scipy.stats.ttest_1samp(values, boundary, alternative=alternative).pvalue
            assert iv.t_tail(estimate, mean, boundary, above) == pytest.approx(expected, rel=1e-9)


def test_d_z_and_its_interval_against_scipys_noncentral_t():
    estimate, d = row(A, B).difference, row(A, B).effect
    differences = np.subtract(A, B)
    assert d.center == pytest.approx(differences.mean() / differences.std(ddof=1), rel=1e-6)
    t = d.center * math.sqrt(10)
    for end, tail in ((d.low, 0.975), (d.high, 0.025)):
        assert scipy.stats.nct.cdf(t, 9, end * math.sqrt(10)) == pytest.approx(tail, abs=1e-6)
    assert estimate.error == pytest.approx(scipy.stats.sem(differences), rel=1e-9)
    assert row([0.5] * 3, [0.4] * 3).effect is None
