import json
import math
import random

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import DIVERGED, TWO, A, B, only, row_of, study, two

from bnexp.comparison import compare_runs, list_claims, to_records
from bnexp.comparison import intervals as iv
from bnexp.comparison.choice import choose
from bnexp.comparison.metrics import choosers, metric_of
from bnexp.errors import UsageError

INF = math.inf


# --- intervals --------------------------------------------------------------------------------------------------------


def test_paired_difference_of_accuracies_against_scipy(tmp_path):
    comparison = only(two(tmp_path))
    assert (comparison.metric, comparison.scale, comparison.baseline) == ("test_accuracy", "raw", "norm=none")
    assert comparison.axes == ("norm",)
    assert comparison.group == {}
    none, full = comparison.rows
    assert none.is_baseline
    assert none.difference is None
    expected = scipy.stats.ttest_rel(A, B).confidence_interval(0.95)
    difference = full.difference
    assert (difference.n, difference.kind, difference.note) == (10, "mean difference", "")
    assert difference.center == pytest.approx(np.mean(A) - np.mean(B), abs=1e-9)
    assert difference.low == pytest.approx(expected.low, abs=1e-9)
    assert difference.high == pytest.approx(expected.high, abs=1e-9)
    assert difference.sd == pytest.approx(np.std(np.subtract(A, B), ddof=1), abs=1e-9)
    assert difference.equal_within == pytest.approx(expected.high, abs=1e-9)
    assert full.paired
    assert full.correlation == pytest.approx(np.corrcoef(A, B)[0, 1], abs=1e-9)
    exact = scipy.stats.permutation_test((np.subtract(A, B),), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert full.p_sign_flip == pytest.approx(exact.pvalue, abs=1e-9)
    assert (full.p_sign, full.p_mcnemar, full.note) == (None, None, "")
    mean = scipy.stats.t.interval(0.95, 9, np.mean(A), scipy.stats.sem(A))
    assert (full.estimate.low, full.estimate.high) == pytest.approx(mean, abs=1e-9)
    assert full.estimate.kind == "mean"
    assert full.values == dict(enumerate(A))


def test_losses_are_compared_as_logs(tmp_path):
    a, b = [0.1, 0.2, 0.3, 0.25], [0.2, 0.3, 0.9, 0.5]
    comparison = only(two(tmp_path, a, b, 4, "test_loss"), metric="test_loss")
    full = comparison.rows[1]
    logs = scipy.stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    assert comparison.scale == full.difference.scale == "log"
    assert full.difference.kind == "ratio of geometric means"
    assert full.difference.center == pytest.approx(scipy.stats.gmean(a) / scipy.stats.gmean(b), abs=1e-9)
    assert full.difference.low == pytest.approx(math.exp(logs.low), abs=1e-9)
    assert full.difference.high == pytest.approx(math.exp(logs.high), abs=1e-9)
    assert full.difference.equal_within == pytest.approx(1 / full.difference.low, abs=1e-9)
    assert full.estimate.kind == "geometric mean"
    assert full.estimate.center == pytest.approx(scipy.stats.gmean(a), abs=1e-9)
    assert full.correlation == pytest.approx(np.corrcoef(np.log(a), np.log(b))[0, 1], abs=1e-9)


def test_one_seed_has_no_interval(tmp_path):
    full = only(two(tmp_path, [0.9], [0.8], 1)).rows[1]
    assert full.estimate.low is None
    assert full.estimate.note == "1 run: no interval"
    assert full.difference.center == pytest.approx(0.1)
    assert full.difference.low is full.difference.high is None
    assert full.difference.note == "1 pair: no interval"
    assert full.p_sign_flip == 1.0
    assert full.correlation is None


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.025, 2 / 2**10)])
def test_identical_differences_have_no_t_interval(tmp_path, shift, p):
    """In float32, as metrics are, so that the differences agree only up to rounding."""
    full = [float(np.float32(b + shift)) for b in B]
    row = only(two(tmp_path, full, [float(np.float32(b)) for b in B])).rows[1]
    assert row.difference.low is row.difference.high is None
    assert row.difference.sd == 0
    assert row.difference.note == "all 10 pairs are equal: no t interval"
    assert row.difference.center == pytest.approx(shift, abs=1e-7)
    assert row.p_sign_flip == p


def test_equal_runs_have_no_interval(tmp_path):
    none = only(two(tmp_path, A, [0.1] * 10)).rows[0]
    assert (none.estimate.center, none.estimate.low, none.estimate.sd) == (pytest.approx(0.1), None, 0.0)
    assert none.estimate.note == "all 10 runs are equal: no t interval"


@pytest.mark.parametrize("n", [2, 5, 6, 9, 15])
def test_sign_flip_against_scipy(n):
    random_ = np.random.default_rng(n)
    differences = random_.normal(0.3, 1, n)
    exact = scipy.stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert iv.sign_flip_p(differences) == pytest.approx(exact.pvalue, abs=1e-9)


def test_sign_flip_by_hand():
    assert iv.sign_flip_p([1, 2, 3]) == 2 / 8
    assert iv.sign_flip_p([1, 1, -1]) == 1  # every sum is ±1 or ±3
    assert iv.sign_flip_p([0, 0]) == 1
    assert iv.sign_flip_p([0.1, 0.2, -0.3]) == 1  # 0 up to rounding


def test_sign_flip_above_20_is_sampled_with_a_fixed_seed():
    differences = np.random.default_rng(0).normal(0.4, 1, 25)
    p = iv.sign_flip_p(differences)
    assert p == iv.sign_flip_p(differences)
    assert p == pytest.approx(scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert iv.sign_flip_p([1.0] * 40) == 1 / (1 + iv.DRAWS)


@pytest.mark.parametrize(("n", "rank"), [(1, None), (5, None), (6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (2000, 956)])
def test_order_statistics_of_the_median(n, rank):
    assert iv.median_rank(n) == rank
    if rank is not None:
        assert scipy.stats.binom.cdf(rank - 1, n, 0.5) <= 0.025 < scipy.stats.binom.cdf(rank, n, 0.5)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 10), (3, 10), (10, 10), (39, 40)])
def test_clopper_pearson_against_scipy(k, n):
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, "exact")
    share = iv.share_estimate(k, n, "share")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert share.center == k / n


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 6), (3, 4), (5, 5), (900, 1100)])
def test_sign_test_against_scipy(won, lost):
    expected = scipy.stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert iv.sign_test_p(won, lost) == pytest.approx(expected, abs=1e-9)


def test_numbers_at_the_ends_of_float():
    assert iv.from_scale(800.0, "log") == INF
    assert iv.from_scale(-INF, "log") == 0
    assert math.isnan(iv.from_scale(math.nan, "log"))
    assert iv.Estimate(6, 0.0, 0.0, 2.0, None, "log", "median ratio").equal_within == INF


# --- failed runs ------------------------------------------------------------------------------------------------------


def failing(tmp_path, failed, n=10, none_failed=(), metric="test_accuracy"):
    def outcome(fields, seed):
        bad = failed if fields["norm"] == "full" else none_failed
        if seed in bad:
            return DIVERGED if seed % 2 else {"learned": "false", metric: 0.1}
        return {metric: 0.9 + 0.001 * seed + (0.01 if fields["norm"] == "full" else 0)}

    return study(tmp_path, TWO.replace("10", str(n)), outcome)


def test_failed_runs_take_the_worst_rank(tmp_path):
    comparison = only(failing(tmp_path, failed=(0, 1, 2)))
    full = comparison.rows[1]
    assert (full.n, full.n_learned, full.n_diverged, full.n_missing) == (10, 7, 1, 0)
    expected = scipy.stats.binomtest(7, 10).proportion_ci(0.95, "exact")
    assert (full.learned_share.low, full.learned_share.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    ranked = [-INF] * 3 + [0.91 + 0.001 * seed for seed in range(3, 10)]
    assert full.estimate.kind == "median"
    assert full.estimate.center == pytest.approx((ranked[4] + ranked[5]) / 2)
    assert full.estimate.low == 0.1  # the 2nd of 10, as measured: one diverged, two merely did not learn
    assert full.estimate.high == pytest.approx(ranked[8])
    assert full.of_learned.kind == "mean of the 7 that learned"
    assert full.of_learned.center == pytest.approx(np.mean(ranked[3:]))
    assert full.of_learned.low is None
    assert full.difference.kind == "median difference"
    assert (full.difference.low, full.difference.high) == (-INF, pytest.approx(0.01))
    assert full.p_sign_flip is None
    assert full.p_sign == pytest.approx(scipy.stats.binomtest(7, 10).pvalue)
    assert full.p_mcnemar == pytest.approx(scipy.stats.binomtest(0, 3).pvalue)
    assert "3 of 10 did not learn" in full.note
    assert comparison.rows[0].estimate.kind == "mean"


def test_a_failed_baseline_is_as_good_a_reason(tmp_path):
    full = only(failing(tmp_path, failed=(), none_failed=(0, 1, 2))).rows[1]
    assert full.estimate.kind == "mean"
    assert full.difference.kind == "median difference"
    assert (full.difference.low, full.difference.high) == (pytest.approx(0.01), INF)


def test_pairs_that_failed_on_both_sides_are_tied(tmp_path):
    full = only(failing(tmp_path, failed=(0, 1), none_failed=(0, 1))).rows[1]
    assert full.difference.low == 0
    assert full.p_sign == pytest.approx(2 / 2**8)
    assert full.p_mcnemar == 1


def test_all_diverged(tmp_path):
    odd = tuple(range(10))
    results = study(tmp_path, TWO, lambda f, s: DIVERGED if f["norm"] == "full" else {"test_accuracy": B[s]})
    full = only(results).rows[1]
    assert (full.n, full.n_learned, full.n_diverged) == (10, 0, 10)
    assert (full.estimate.center, full.estimate.low, full.estimate.high) == (-INF, -INF, -INF)
    assert full.of_learned is None
    assert full.difference.center == -INF
    assert full.p_sign == full.p_mcnemar == 2 / 2**10
    both = only(failing(tmp_path / "s", failed=odd, none_failed=odd)).rows[1]
    assert both.difference.center == 0
    assert both.p_sign == 1


def test_few_runs_with_a_failure_have_no_interval(tmp_path):
    full = only(failing(tmp_path, failed=(0,), n=5)).rows[1]
    assert full.estimate.low is None
    assert full.difference.low is None
    assert full.difference.note == "5 pairs: the median's interval needs 6"


def test_a_zero_loss_is_ranked(tmp_path):
    full = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2]
    row = only(two(tmp_path, full, [0.2, 0.0, 0.2, 0.2, 0.2, 0.1], 6, "fit_loss"), metric="fit_loss").rows[1]
    assert row.n_learned == 6
    assert (row.estimate.kind, row.estimate.low, row.estimate.high) == ("median", 0.0, pytest.approx(0.2))
    assert row.of_learned is None
    assert (row.difference.kind, row.difference.low, row.difference.high) == ("median ratio", 0.0, pytest.approx(2))
    assert "2 of 6 zero or not finite" in row.note


def test_an_infinite_loss_is_the_worst(tmp_path):
    row = only(two(tmp_path, ["inf"] * 3 + [1] * 3, [2] * 6, 6, "fit_loss"), metric="fit_loss").rows[1]
    assert row.estimate.center == INF
    assert row.difference.high == INF
    assert row.n_learned == 6


def test_a_median_between_opposite_failures_is_not_a_number(tmp_path):
    results = failing(tmp_path, failed=(0,), none_failed=(1,), n=2)
    (record,) = (record for record in to_records(only(results)) if not record["is_baseline"])
    assert math.isnan(only(results).rows[1].difference.center)
    assert math.isnan(record["difference_center"])


# --- pairing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("column", "why"), [("init_id", "other initial weights"), ("order_id", "other minibatches")])
def test_unlike_starts_are_not_paired(tmp_path, column, why):
    def outcome(fields, seed):
        full = fields["norm"] == "full"
        return {"test_accuracy": (A if full else B)[seed], **({column: "other"} if full and seed == 9 else {})}

    row = only(study(tmp_path, TWO, outcome)).rows[1]
    expected = scipy.stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.95)
    assert not row.paired
    assert row.note == f"not paired ({why}): Welch"
    assert row.difference.kind == "difference of means"
    assert (row.difference.low, row.difference.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert row.difference.center == pytest.approx(np.mean(A) - np.mean(B))
    assert (row.p_sign_flip, row.correlation) == (None, None)


def test_absent_ids_do_not_pair(tmp_path):
    assert not only(two(tmp_path, init_id="", order_id="")).rows[1].paired


def test_welch_without_spread_or_with_one_run_or_with_failures():
    assert iv.welch_difference([1, 1], [2, 2], "raw").note == "all runs of each side are equal: no t interval"
    assert iv.welch_difference([1], [2, 3], "raw").note == "1 run on a side: no interval"
    bare = iv.welch_difference([0.0, INF, INF], [0.0, 1.0, 2.0], "log")
    assert (bare.center, bare.low, bare.kind) == (INF, None, "ratio of medians")
    one_sided = iv.welch_difference([1, 1], [2, 3], "raw")
    assert one_sided.low < one_sided.center == -1.5 < one_sided.high


def test_missing_seeds_are_named_and_pairs_are_kept(tmp_path):
    def outcome(fields, seed):
        missing = (3, 7) if fields["norm"] == "full" else (0,)
        return None if seed in missing else {"test_accuracy": (A if fields["norm"] == "full" else B)[seed]}

    comparison = only(study(tmp_path, TWO, outcome))
    none, full = comparison.rows
    common = [1, 2, 4, 5, 6, 8, 9]
    expected = scipy.stats.ttest_rel([A[s] for s in common], [B[s] for s in common]).confidence_interval(0.95)
    assert (full.n, full.n_missing, full.difference.n) == (8, 2, 7)
    assert full.difference.low == pytest.approx(expected.low, abs=1e-9)
    assert full.note == "seeds 3, 7 not finished; no pair for seeds 0, 3, 7"
    assert none.note == "seed 0 not finished"
    assert comparison.notes[0] == "3 of 20 runs are not finished"


def test_no_common_seed(tmp_path):
    halves = {"full": range(5), "none": range(5, 10)}
    results = study(tmp_path, TWO, lambda f, s: {"test_accuracy": A[s]} if s in halves[f["norm"]] else None)
    assert "no common seed" in only(results).rows[1].note


def test_nothing_has_finished(tmp_path):
    comparison = only(study(tmp_path, TWO, lambda f, s: None))
    assert [(row.n, row.n_missing, row.estimate, row.learned_share) for row in comparison.rows] == [
        (0, 10, None, None)
    ] * 2
    assert comparison.notes[0] == "20 of 20 runs are not finished"
    assert only(study(tmp_path, TWO, lambda f, s: None, "t"), metric="fit_loss").metric == "fit_loss"


def test_fewer_than_six_pairs_are_said(tmp_path):
    few = only(two(tmp_path, seeds=5))
    assert any("sign-flip can never reach .05" in note and "0.0625" in note for note in few.notes)
    assert (
        only(study(tmp_path, TWO, lambda f, s: {"test_accuracy": A[s] if f["norm"] == "none" else B[s]}, "t")).notes
        == ()
    )


# --- selection --------------------------------------------------------------------------------------------------------

GRID = """
data: digits
model: {norm: [none, standardize, full], placement: [pre, post]}
train: {lr: [0.1, 1]}
seeds: 3
"""


def grid_value(fields, seed):
    placed = fields["placement"] == "post" and fields["norm"] != "none"
    value = 0.5 + 0.1 * len(fields["norm"]) / 11 + 0.05 * placed + 0.01 * float(fields["lr"]) + 0.001 * seed**2
    return {"test_accuracy": value, "val_accuracy": value}


def test_none_is_counted_once_across_placements(tmp_path):
    comparison = only(study(tmp_path, GRID, grid_value))
    assert comparison.axes == ("norm", "placement", "lr")
    assert len(comparison.rows) == 10
    none = [row for row in comparison.rows if row.setting["norm"] == "none"]
    assert [row.setting["placement"] for row in none] == ["–", "–"]
    assert all(row.is_baseline and row.n == 3 for row in none)
    for placement in ("pre", "post"):
        row = row_of(comparison.rows, norm="full", placement=placement, lr="1")
        baseline = row_of(comparison.rows, norm="none", lr="1")
        assert row.difference.center == pytest.approx(row.estimate.center - baseline.estimate.center)
    assert len(comparison.best_rows) == 5


def test_none_is_filled_from_either_placement(tmp_path):
    def outcome(fields, seed):
        waits = fields["norm"] == "none" and (seed == 1) == (fields["placement"] == "pre")
        return None if waits else grid_value(fields, seed)

    none = row_of(only(study(tmp_path, GRID, outcome)).rows, norm="none", lr="1")
    assert (none.n, none.n_missing) == (3, 0)


def test_none_that_differs_between_placements_is_said(tmp_path):
    def outcome(fields, seed):
        return {"test_accuracy": 0.5 + 0.1 * seed + 0.01 * (fields["placement"] == "post")}

    assert any("bit-equal" in note for note in only(study(tmp_path, GRID, outcome)).notes)


def test_none_belongs_to_every_placement(tmp_path):
    results = study(tmp_path, GRID, grid_value)
    groups = compare_runs(results, by=["placement"])
    assert [comparison.group for comparison in groups] == [{"placement": "pre"}, {"placement": "post"}]
    for comparison in groups:
        assert comparison.axes == ("norm", "lr")
        assert len(comparison.rows) == 6
    where = only(results, where={"placement": "post"})
    assert where.axes == ("norm", "lr")
    assert row_of(where.rows, norm="none", lr="1").is_baseline
    variants = (
        "data: digits\nvariants: [{model.norm: none}, {model.norm: full, model.placement: [pre, post]}]\nseeds: 2\n"
    )
    comparison = only(study(tmp_path, variants, grid_value, "v"))
    assert [row.setting for row in comparison.rows] == [
        {"norm": "none", "placement": "–"},
        {"norm": "full", "placement": "pre"},
        {"norm": "full", "placement": "post"},
    ]
    assert all(row.difference for row in comparison.rows[1:])


def test_only_none_at_two_placements(tmp_path):
    body = "data: digits\nmodel: {norm: none, placement: [pre, post]}\nseeds: 2\n"
    comparison = only(study(tmp_path, body, grid_value))
    assert (comparison.axes, len(comparison.rows)) == ((), 1)
    assert "no differences: norm does not vary here" in comparison.notes[0]


def test_baselines(tmp_path):
    results = study(tmp_path, GRID, grid_value)
    assert only(results, baseline="full").baseline == "norm=full"
    for baseline in ("norm=full,lr=1e-1", {"norm": "full", "lr": "0.1"}):
        comparison = only(results, baseline=baseline)
        assert comparison.baseline == "norm=full,lr=0.1"
        row = row_of(comparison.rows, norm="standardize", placement="post", lr="1")
        target = row_of(comparison.rows, norm="full", placement="post", lr="0.1")
        assert target.is_baseline
        assert row.difference.center == pytest.approx(row.estimate.center - target.estimate.center)
    none = row_of(only(results, baseline="full").rows, norm="none", lr="1")
    assert none.difference is None
    assert none.note == "no setting equal to it but for norm=full"
    by_placement = only(results, baseline="placement=pre")
    assert row_of(by_placement.rows, norm="full", placement="post", lr="1").difference is not None
    assert row_of(by_placement.rows, norm="none", lr="1").difference is None
    assert row_of(by_placement.rows, norm="none", lr="1").is_baseline


def test_the_first_norm_is_the_baseline_where_there_is_no_none(tmp_path):
    comparison = only(study(tmp_path, GRID, grid_value), where={"norm": ["full", "standardize"]})
    assert comparison.baseline == "norm=standardize"


def test_where(tmp_path):
    results = study(tmp_path, GRID, grid_value)
    comparison = only(results, where={"norm": ["none", "full"], "lr": "1.0", "placement": "pre"})
    assert comparison.axes == ("norm",)
    assert len(comparison.rows) == 2
    assert comparison.best_rows == ()
    assert comparison.tune is None


MISTAKES = [
    (
        {"metric": "test_acuracy"},
        "no such metric 'test_acuracy'; did you mean 'test_accuracy'.*metrics: .*val_accuracy",
    ),
    ({"metric": "n_parameters"}, "no such metric"),
    ({"where": {"nrom": "full"}}, "where: no such field 'nrom'; did you mean 'norm'"),
    ({"where": {"norm": "ful"}}, "where: no norm=ful here; did you mean 'full'.*norm is: none, standardize, full"),
    ({"where": {"data": "mnist"}}, "where: no data=mnist here"),
    ({"by": ["layr"]}, "by: no such field"),
    ({"baseline": "nune"}, "baseline: no norm=nune here; did you mean 'none'"),
    ({"baseline": "lr=3"}, "baseline: no lr=3 here.*lr is: 0.1, 1"),
    ({"baseline": "lr=1,full"}, "baseline: expected field=value"),
    ({"tune": "rate"}, "tune: no such field"),
    ({"where": {"norm": "full"}, "baseline": "none"}, "baseline: no norm=none here"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_mistakes(tmp_path, options, message):
    results = study(tmp_path, GRID, grid_value)
    with pytest.raises(UsageError, match=message):
        compare_runs(results, **options)


def test_values_that_never_meet(tmp_path):
    body = "data: digits\nvariants: [{model.norm: none, train.lr: 3}, {model.norm: full, train.lr: 0.3}]\nseeds: 2\n"
    results = study(tmp_path, body, grid_value)
    with pytest.raises(UsageError, match=r"no setting has norm=none and lr=0\.3 together"):
        compare_runs(results, where={"norm": "none", "lr": "0.3"})
    comparison = only(results)
    assert row_of(comparison.rows, norm="full").note == "no setting equal to it but for norm=none"
    tuned = row_of(comparison.best_rows, norm="full")
    assert tuned.difference is not None
    assert "its baseline has another grid of lr" in tuned.note


def test_a_mixed_study_is_split_by_data(tmp_path):
    def outcome(fields, seed):
        if fields["data"] == "bump":
            return {
                "test_r2": 0.5 + 0.1 * seed if fields["norm"] == "none" else 0.9 - 0.1 * seed**2,
                "fit_loss": 1 + seed,
            }
        return {"test_accuracy": 0.9 + 0.01 * seed**2}

    body = "data: [digits, bump]\nmodel: {norm: [none, full]}\nseeds: 3\n"
    results = study(tmp_path, body, outcome)
    digits, bump = compare_runs(results)
    assert (digits.group, digits.metric) == ({"data": "digits"}, "test_accuracy")
    assert (bump.group, bump.metric, bump.scale) == ({"data": "bump"}, "test_unexplained", "log")
    assert not bump.higher_is_better
    assert bump.rows[0].values == pytest.approx({0: 0.5, 1: 0.4, 2: 0.3})
    (loss,) = compare_runs(results, metric="fit_loss")
    assert loss.group == {"data": "bump"}
    assert loss.notes[-1] == "fit_loss was not recorded for data=digits"
    pending = compare_runs(study(tmp_path, body, lambda f, s: None, "p"))
    assert [comparison.metric for comparison in pending] == ["test_accuracy", "test_unexplained"]


def test_the_default_metric_without_running_statistics(tmp_path):
    def outcome(fields, seed):
        return DIVERGED if seed == 0 else {"test_accuracy": "", "test_accuracy_population": A[seed]}

    assert only(study(tmp_path, TWO, outcome)).metric == "test_accuracy_population"


def test_a_metric_that_no_run_has(tmp_path):
    results = study(
        tmp_path, TWO.replace("data: digits", "data: {name: digits, validation: 0}"), lambda f, s: {"test_loss": 1 + s}
    )
    with pytest.raises(UsageError, match=r"no such metric 'val_loss': data\.validation is 0"):
        compare_runs(results, metric="val_loss")


def test_a_metric_that_only_some_settings_have(tmp_path):
    body = "data: digits\ntrain: {epochs: [0, 1]}\nseeds: 3\n"
    results = study(tmp_path, body, lambda f, s: {"fit_loss": 1 + s, "train_loss": "" if f["epochs"] == "0" else 1 + s})
    comparison = only(results, metric="train_loss", baseline="epochs=0")
    first, second = comparison.rows
    assert first.estimate is None
    assert first.note == "no train_loss was recorded"
    assert second.estimate is not None
    assert second.difference is None


def test_metrics_and_their_choosers():
    assert metric_of("test_loss_population").scale == "log"
    assert metric_of("fit_r2").higher_is_better
    assert metric_of("diverged_epoch") is None
    assert choosers("test_accuracy") == ("val_accuracy",)
    assert choosers("test_loss_batch") == ("val_loss_batch", "val_loss")
    assert choosers("fit_loss") == ("fit_loss",)
    assert choosers("val_loss") == ("val_loss",)


# --- choosing lr ------------------------------------------------------------------------------------------------------


def slow_choice(costs, seed):
    """The definition: the value with the least mean cost on the other seeds; a failed run costs more than any."""
    best = None
    for value in sorted(costs, key=float):
        others = [cost for s, cost in costs[value].items() if s != seed]
        if not others:
            continue
        bounded = sum(10**9 if cost == INF else cost for cost in others) / len(others)
        if best is None or bounded < best[0] - 1e-12:
            best = (bounded, value)
    return best and best[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(1, 4), st.sampled_from([0, 0.2, 0.6]))
def test_leave_one_seed_out_against_a_loop(seed, n_seeds, n_values, failing_share):
    random_ = random.Random(seed)
    costs = {
        str(10.0**-v): {
            s: INF if random_.random() < failing_share else random_.randrange(100) / 64
            for s in range(n_seeds)
            if random_.random() > 0.1
        }
        for v in range(n_values)
    }
    if not any(costs.values()):
        return
    choice = choose(costs)
    for s in range(n_seeds):
        assert choice.by_seed.get(s) == (
            slow_choice(costs, s) if any(s in column for column in costs.values()) else None
        )
    assert sum(choice.counts.values()) == len(choice.by_seed)


LRS = "data: digits\nmodel: {norm: [none, full]}\ntrain: {lr: [0.1, 1, 10]}\nseeds: 4\n"
#       test and validation accuracy by norm, lr, seed; validation has a tie-breaker of its own
VAL = {
    "none": {"0.1": [0.5, 0.5, 0.5, 0.5], "1": [0.9, 0.5, 0.9, 0.9], "10": [0.7, 0.8, 0.7, 0.7]},
    "full": {"0.1": [0.6, 0.7, 0.6, 0.7], "1": [0.9, 0.9, 0.8, 0.9], "10": [0.7, 0.8, 0.7, 0.7]},
}


def tuned(fields, seed):
    value = VAL[fields["norm"]][fields["lr"]][seed]
    return {"val_accuracy": value, "test_accuracy": value - 0.1 - 0.01 * seed, "fit_loss": 1.0 - value}


def test_lr_is_chosen_by_validation_on_the_other_seeds(tmp_path):
    comparison = only(study(tmp_path, LRS, tuned))
    assert (comparison.tune, comparison.tuned_by) == ("lr", "val_accuracy")
    none, full = comparison.best_rows
    # Without seed 1, lr 1 has mean .9. Without any other, it has (.9 + .5 + .9)/3 = .767 > .733 of lr 10.
    assert none.chosen == {"1": 4}
    assert none.values == pytest.approx({0: 0.8, 1: 0.39, 2: 0.78, 3: 0.77})
    assert none.setting == {"norm": "none"}
    assert none.is_baseline
    assert (full.chosen, full.edges) == ({"1": 4}, ())
    a = [VAL["full"]["1"][s] - VAL["none"]["1"][s] for s in range(4)]
    assert full.difference.center == pytest.approx(np.mean(a))
    assert full.difference.n == 4
    assert full.paired
    assert full.note == ""


def test_a_split_vote_and_the_edge_of_the_grid_are_said(tmp_path):
    def outcome(fields, seed):
        found = tuned(fields, seed)
        if fields == {**fields, "norm": "none", "lr": "10"}:
            found["val_accuracy"] = [0.76, 0.8, 0.76, 0.7][seed]
        return found

    none = only(study(tmp_path, LRS, outcome)).best_rows[0]
    # lr 1 on the other seeds: .767, .9, .767, .767; lr 10: .753, .74, .753, .773
    assert none.chosen == {"1": 3, "10": 1}
    assert none.values[3] == pytest.approx(VAL["none"]["10"][3] - 0.1 - 0.03)
    assert none.edges == ("10",)
    assert none.note == "lr 1 in 3 of 4, 10 in 1 of 4; lr 10 at the grid's edge: the best may lie beyond"
    assert none.within_one_se == ("1", "10")  # .8 ± .1 and .755


def test_training_metrics_choose_by_themselves(tmp_path):
    comparison = only(study(tmp_path, LRS, tuned), metric="fit_loss")
    assert comparison.tuned_by == "fit_loss"
    assert comparison.best_rows[1].chosen == {"1": 4}


def test_a_failed_run_is_worst_when_choosing(tmp_path):
    def outcome(fields, seed):
        return DIVERGED if (fields["norm"], fields["lr"], seed) == ("full", "1", 2) else tuned(fields, seed)

    full = only(study(tmp_path, LRS, outcome)).best_rows[1]
    assert full.chosen == {"1": 1, "10": 3}  # only seed 2 does not see the failure, and suffers it
    assert (full.n_learned, full.n_diverged) == (3, 1)
    assert full.difference.kind == "median difference"
    assert full.within_one_se == ("10",)


def test_without_validation_nothing_chooses_for_test_metrics(tmp_path):
    def outcome(fields, seed):
        return {key: value for key, value in tuned(fields, seed).items() if key != "val_accuracy"}

    results = study(tmp_path, LRS.replace("data: digits", "data: {name: digits, validation: 0}"), outcome)
    comparison = only(results)
    assert (comparison.best_rows, comparison.tune, comparison.tuned_by) == ((), "lr", "")
    assert "no choice of lr for test_accuracy: data.validation is 0, and test rows choose nothing" in comparison.notes
    assert len(only(results, metric="fit_loss").best_rows) == 2


def test_validation_that_only_one_side_has(tmp_path):
    body = LRS.replace("data: digits", "data: {name: digits, validation: [0, 0.1]}")

    def outcome(fields, seed):
        return {**tuned(fields, seed), **({"val_accuracy": ""} if fields["validation"] == "0" else {})}

    comparison = only(study(tmp_path, body, outcome))
    assert [row.setting for row in comparison.best_rows] == [{"validation": "0.1", "norm": n} for n in ("none", "full")]
    assert sum("no val_accuracy was recorded" in note for note in comparison.notes) == 2


def test_one_seed_cannot_choose(tmp_path):
    comparison = only(study(tmp_path, LRS.replace("seeds: 4", "seeds: 1"), tuned))
    assert comparison.best_rows == ()
    assert any("it takes two" in note for note in comparison.notes)


def test_another_knob_or_none_may_be_tuned(tmp_path):
    body = "data: digits\nmodel: {norm: [none, full]}\ntrain: {batch_size: [16, full]}\nseeds: 3\n"
    results = study(tmp_path, body, lambda f, s: {"fit_loss": 1.0 + s * s + (f["batch_size"] == "full")})
    row = only(results, metric="fit_loss", tune="batch_size").best_rows[0]
    assert (row.chosen, row.edges) == ({"16": 3}, ())
    assert only(results, metric="fit_loss", tune=None).best_rows == ()
    assert only(results, metric="fit_loss").tune is None


def test_a_tuned_run_that_is_missing_is_a_missing_seed(tmp_path):
    def outcome(fields, seed):
        return None if (fields["norm"], fields["lr"], seed) == ("full", "1", 2) else tuned(fields, seed)

    full = only(study(tmp_path, LRS, outcome)).best_rows[1]
    assert (full.n, full.n_missing) == (3, 1)
    assert "seed 2 not finished" in full.note


# --- records ----------------------------------------------------------------------------------------------------------


def test_records(tmp_path):
    records = to_records(only(study(tmp_path, LRS, tuned)))
    assert [record["table"] for record in records] == ["equal values"] * 6 + ["best lr"] * 2
    assert len({tuple(record) for record in records}) == 1  # one head for a CSV
    assert json.loads(json.dumps(records, allow_nan=False)) == records
    assert records[-1]["chosen"] == "1 in 4"
    assert records[-1]["lr"] == ""
    failed = to_records(only(failing(tmp_path / "s", failed=tuple(range(10)))))[1]
    assert (failed["center"], failed["kind"], failed["n_learned"]) == (-INF, "median", 0)


def test_runs_of_different_lengths_are_compared_at_their_own_last_epoch(tmp_path):
    text = "data: digits\nmodel: {norm: [none, full]}\ntrain: {epochs: [3, 30]}\nseeds: 6\n"
    comparison = only(study(tmp_path, text, lambda f, s: {"test_accuracy": 0.5 + int(f["epochs"]) / 100 + A[s] / 10}))
    assert comparison.axes == ("norm", "epochs")
    assert row_of(comparison.rows, norm="full", epochs="30").estimate.center == pytest.approx(0.8 + sum(A[:6]) / 60)
    assert row_of(comparison.rows, norm="full", epochs="3").difference.n == 6


RATES = "data: digits\nmodel: {norm: [none, full]}\ntrain: {lr: [0.1, 1, 10]}\nseeds: 6\n"


TUNED = """claims:
  - {claim: c, a: {norm: full}, b: {norm: none}, metric: test_accuracy, tune: lr, expect: less}
"""


def test_a_setting_without_a_finished_run_is_a_row(tmp_path):
    """As a study is that was interrupted after its first norm."""
    text = (
        RATES
        + "claims:\n  - {claim: c, a: {norm: full}, b: {norm: none}, metric: test_accuracy, tune: lr, expect: less}\n"
    )
    results = study(
        tmp_path,
        text,
        lambda f, s: {"test_accuracy": 0.9 + s / 100, "val_accuracy": 0.9} if f["norm"] == "none" else None,
    )
    comparison = only(results)
    assert row_of(comparison.best_rows, norm="full").n == 0
    assert row_of(comparison.best_rows, norm="none").n == 6
    (claim,) = list_claims(results)
    assert claim.verdict.answer == "undecided"
    assert claim.a.n_missing == 6


def test_where_nobody_learned_the_best_as_measured_is_chosen_and_said(tmp_path):
    def outcome(fields, seed):
        right = 0.1 * float(fields["lr"]) ** 0.1 + 0.001 * seed
        return {"test_accuracy": right, "val_accuracy": right, "learned": str(fields["norm"] == "full").lower()}

    row = row_of(only(study(tmp_path, RATES, outcome)).best_rows, norm="none")
    assert (row.chosen, row.within_one_se[0]) == ({"10": 6}, "10")
    assert "at no lr did a run learn: the best as measured" in row.note


def test_a_side_that_diverged_everywhere_still_answers_a_tuned_claim(tmp_path):
    text = (
        RATES
        + "claims:\n  - {claim: c, a: {norm: full}, b: {norm: none}, metric: test_accuracy, tune: lr, expect: less}\n"
    )
    results = study(
        tmp_path,
        text,
        lambda f, s: DIVERGED if f["norm"] == "full" else {"test_accuracy": 0.9 + s / 100, "val_accuracy": 0.9},
    )
    (claim,) = list_claims(results)
    assert (claim.a.n, claim.a.n_failed, claim.b.n) == (6, 6, 6)
    assert (claim.verdict.answer, claim.verdict.p) == ("supported", 2 / 2**6)


def test_paths_name_fields_and_what_is_tuned_must_vary(tmp_path):
    results = study(tmp_path, RATES, lambda f, s: {"test_accuracy": A[s], "val_accuracy": A[s]})
    assert len(only(results, where={"train.lr": ["1", "10"]}).rows) == 4
    assert only(results, baseline="model.norm=none").baseline == "norm=none"
    with pytest.raises(UsageError, match="hidden does not vary here; what varies: norm, lr"):
        only(results, tune="hidden")
    with pytest.raises(UsageError, match="norm is what the baseline compares"):
        only(results, tune="norm")
    by_rate = only(results, baseline="lr=1")
    assert (by_rate.tune, by_rate.best_rows) == (None, ())
    assert row_of(by_rate.rows, norm="full", lr="10").difference.n == 6
    tied = only(results, baseline="norm=none,lr=1")
    assert (tied.baseline, tied.best_baseline) == ("norm=none,lr=1", "norm=none")
