"""The interval of other seeds and other test rows against a written-out analysis of variance."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import scipy.stats
from outcomes import only, row_of, study

from bnexp.comparison import list_claims
from bnexp.comparison.items import Shares, mixed, two_way_variances
from bnexp.results import load_results

N_ROWS = 40


def two_way_error(*given):
    return math.sqrt(sum(two_way_variances(*given)))


def table(seed=0, n=10, rows=N_ROWS):
    """Right or wrong: some rows are hard for every seed."""
    rng = np.random.default_rng(seed)
    easy = rng.beta(6, 1, rows)
    return (rng.uniform(size=(n, rows)) < easy + 0.02 * rng.normal(size=(n, 1))).astype(float)


def twin(x):
    """Variance components of a two-way table without replication, term by term with loops."""
    n, count = x.shape
    mean = sum(x[i, j] for i in range(n) for j in range(count)) / (n * count)
    seeds = [sum(x[i]) / count for i in range(n)]
    rows = [sum(x[:, j]) / n for j in range(count)]
    s2_seed = sum((one - mean) ** 2 for one in seeds) / (n - 1)
    s2_item = sum((one - mean) ** 2 for one in rows) / (count - 1)
    rest = sum((x[i, j] - seeds[i] - rows[j] + mean) ** 2 for i in range(n) for j in range(count))
    s2_res = rest / ((n - 1) * (count - 1))
    return s2_seed / n, s2_item / count, s2_res / (n * count)


@pytest.mark.parametrize("seed", range(5))
def test_one_setting_is_exact(seed):
    x = table(seed)
    first, item, residual = twin(x)
    error = two_way_error(x.mean(1), x.mean(0), float((x**2).sum()))
    assert error**2 == pytest.approx(first + max(0.0, item - residual), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_difference_is_never_narrower_than_the_exact_one(seed):
    x, y = table(seed), table(seed + 100)
    gaps = x - y
    first, item, residual = twin(gaps)
    exact = math.sqrt(first + max(0.0, item - residual))
    error = two_way_error(gaps.mean(1), gaps.mean(0), 10 * float(np.abs(gaps.mean(0)).sum()))
    bare = two_way_error(gaps.mean(1), gaps.mean(0))
    assert exact <= error + 1e-12
    assert error <= bare + 1e-12
    assert error <= 1.5 * exact


def test_floored_at_the_seeds_alone():
    x = np.tile(np.array([[1.0, 0.0]]), (4, 5))  # rows differ, but each seed the same
    x[0, 0] = 0.0
    seeds, rows = x.mean(1), np.full(10, x.mean())
    assert two_way_error(seeds, rows) == pytest.approx(scipy.stats.sem(seeds), rel=1e-9)


def test_mixed_shares_are_weighted_and_no_longer_exact():
    low, high = Shares(10, np.array([0.0, 0.5])), Shares(10, np.array([1.0, 0.5]))
    both = mixed({"0.1": low, "1": high}, {"0.1": 7, "1": 3})
    assert both.of_row == pytest.approx([0.3, 0.5])
    assert (both.n, both.exact) == (10, False)
    assert mixed({"0.1": low, "1": high}, {"0.1": 10}) is low
    assert mixed({"0.1": low}, {"0.1": 7}) is None  # other runs than those compared
    assert mixed({"0.1": low, "1": None}, {"0.1": 7, "1": 3}) is None


SPEC = """
data: digits
model: {norm: [none, full]}
seeds: 10
claims:
  - {claim: c, a: {norm: full}, b: {norm: none}, metric: test_accuracy, expect: greater}
"""


def with_items(tmp_path, tables, change=None, spec=SPEC):
    """A study whose accuracies and items.csv come from the same tables of right and wrong."""
    results = study(tmp_path, spec, lambda f, s: {"test_accuracy": round(tables[f["norm"]][s].mean(), 9)})
    with (results.folder / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["setting", "row", "n", "share"])
        for norm, x in tables.items():
            for index, share in enumerate(x.mean(0)):
                row = [f"norm={norm}", index, len(x), f"{share:.9g}"]
                writer.writerow(change(row) if change else row)
    return load_results([results.folder])[0]


def test_of_a_study(tmp_path):
    tables = {"none": table(1), "full": table(2)}
    results = with_items(tmp_path, tables)
    comparison = only(results)
    for norm, x in tables.items():
        estimate = row_of(comparison.rows, norm=norm).estimate
        half = scipy.stats.t.ppf(0.975, 9) * two_way_error(x.mean(1), x.mean(0), float((x**2).sum()))
        assert estimate.items == pytest.approx((x.mean() - half, x.mean() + half), rel=1e-6)
        assert estimate.items.low < estimate.low
        assert estimate.high < estimate.items.high
    difference, gaps = row_of(comparison.rows, norm="full").difference, tables["full"] - tables["none"]
    assert difference.items.low < difference.low
    squares = 10 * float(np.abs(gaps.mean(0)).sum())
    seed, item = two_way_variances(gaps.mean(1), gaps.mean(0), squares)
    freedom = (seed + item) ** 2 / (seed**2 / 9 + item**2 / (N_ROWS - 1))
    half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(seed + item)
    assert difference.items == pytest.approx((gaps.mean() - half, gaps.mean() + half), rel=1e-6)
    assert list_claims(results)[0].a.difference.items == difference.items
    assert only(results, metric="test_accuracy").rows[0].estimate.items is not None


@pytest.mark.parametrize("what", ["another n", "other runs"])
def test_none_where_items_are_of_other_runs(tmp_path, what):
    change = {"another n": lambda r: [*r[:2], 9, r[3]], "other runs": lambda r: [*r[:3], f"{float(r[3]) / 2:.9g}"]}[
        what
    ]
    comparison = only(with_items(tmp_path, {"none": table(1), "full": table(2)}, change))
    assert all(row.estimate.items is None for row in comparison.rows)
    found = row_of(comparison.rows, norm="full").difference
    assert found.items is None or what == "other runs"


def test_failed_runs_have_no_second_interval(tmp_path):
    results = with_items(tmp_path, {"none": table(1), "full": table(2)})
    runs = (results.folder / "runs.csv").read_text().replace(",true,", ",false,", 1)
    (results.folder / "runs.csv").write_text(runs)
    comparison = only(load_results([results.folder])[0])
    assert row_of(comparison.rows, norm="none").estimate.items is None
    assert row_of(comparison.rows, norm="full").difference.items is None


def test_the_second_interval_is_never_inside_the_first(tmp_path):
    """With three seeds Satterthwaite's degrees of freedom grow faster than the error."""
    rng = np.random.default_rng(0)
    for place in range(20):
        tables = {
            norm: (rng.uniform(size=(3, 400)) < rng.uniform(0.5, 0.9, (3, 1))).astype(float)
            for norm in ("none", "full")
        }
        folder = tmp_path / str(place)
        folder.mkdir()
        found = row_of(only(with_items(folder, tables, spec=SPEC.replace("seeds: 10", "seeds: 3"))).rows, norm="full")
        assert found.difference.items.low <= found.difference.low
        assert found.difference.high <= found.difference.items.high
