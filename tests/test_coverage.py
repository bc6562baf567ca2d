"""The intervals cover what they say: studies of ten seeds drawn from a stored population of real runs.

A cell's truth is the mean of its runs. Studies draw without replacement from a finite population, which makes the
intervals of ten of 400 runs about one percent too wide; the bounds have room for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray
from populations_tools import learned_cells, load_population, studies

from bnexp.claim_grammar import Claim
from bnexp.comparison import Row
from bnexp.comparison import intervals as iv
from bnexp.comparison.items import Shares, with_items
from bnexp.comparison.metrics import metric_of
from bnexp.comparison.rows import make_row
from bnexp.comparison.selection import Outcome
from bnexp.comparison.verdicts import judge

SEEDS = 10  # runs of each setting in a study
STUDIES = 20_000  # the standard error of a coverage of .95 is .0015
LEAST, MOST = 0.93, 0.97
# Where one run in a hundred ends far from the others, ten runs seldom hold one, and Student's t cannot know of it.
LEAST_IF_SKEWED, SKEWED = 0.90, 1.0


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.intp]:
    return studies(np.random.default_rng(0), SEEDS, STUDIES)


def coverage(estimates: Sequence[iv.Estimate], truth: float) -> float:
    """The share of intervals that hold the truth; an estimate without interval does not."""
    return float(np.mean([e.low is not None and e.high is not None and e.low <= truth <= e.high for e in estimates]))


def least(values: NDArray[np.float64]) -> float:
    return LEAST if abs(scipy.stats.skew(values)) < SKEWED else LEAST_IF_SKEWED


def log_loss(cell: str) -> NDArray[np.float64]:
    return np.log(load_population()[cell].fit_loss)


def test_the_population_is_what_its_readme_says():
    population = load_population()
    assert {len(cell.test_accuracy) for cell in population.values()} == {400}
    assert len(learned_cells()) == len(population) - 1 == 4
    for cell in population.values():
        assert cell.correct.shape == (400, 360)
        assert np.allclose(cell.correct.mean(1), cell.test_accuracy, atol=1e-6)


def test_studies_draw_without_replacement(drawn):
    assert drawn.shape == (STUDIES, SEEDS)
    assert all(len(set(seeds)) == SEEDS for seeds in drawn[:100].tolist())
    counts = np.bincount(drawn.ravel(), minlength=400)
    assert 0.8 < counts.min() / counts.mean() < counts.max() / counts.mean() < 1.2


@pytest.mark.parametrize("cell", learned_cells())
def test_intervals_of_accuracies_cover(cell, drawn):
    values = load_population()[cell].test_accuracy
    found = coverage([iv.summary(seeds, "raw") for seeds in values[drawn].tolist()], float(values.mean()))
    print(f"{cell}: {found:.3f}")
    assert least(values) <= found <= MOST


@pytest.mark.parametrize("pair", list(combinations(learned_cells(), 2)), ids="/".join)
def test_intervals_of_paired_ratios_cover(pair, drawn):
    a, b = map(log_loss, pair)
    sides = zip(a[drawn].tolist(), b[drawn].tolist(), strict=True)
    found = coverage([iv.paired_difference(*two, "log") for two in sides], float(np.exp((a - b).mean())))
    print(f"{' / '.join(pair)}: {found:.3f}")
    assert least(a - b) <= found <= MOST


def test_losses_need_the_log_scale(drawn):
    """Rule 1: where a few losses are many times the others, intervals of raw means cover less than of log means."""
    loss, log = load_population()["none-3"].fit_loss, log_loss("none-3")
    raw = coverage([iv.summary(seeds, "raw") for seeds in loss[drawn].tolist()], float(loss.mean()))
    logs = coverage([iv.summary(seeds, "log") for seeds in log[drawn].tolist()], float(np.exp(log.mean())))
    print(f"raw {raw:.3f}, log {logs:.3f}")
    assert raw < LEAST_IF_SKEWED <= logs


def test_that_a_narrow_interval_is_seen(drawn):
    """The check can fail: the normal quantile in the place of Student's covers too little."""
    values = load_population()["full-0.1"].test_accuracy
    share = float(scipy.stats.norm.ppf(0.975)) / iv.t_quantile(SEEDS - 1)
    found = [iv.summary(seeds, "raw") for seeds in values[drawn].tolist()]
    assert coverage([narrowed(estimate, share) for estimate in found], float(values.mean())) < LEAST


def narrowed(estimate: iv.Estimate, share: float) -> iv.Estimate:
    assert estimate.low is not None
    half = share * (estimate.center - estimate.low)
    return replace(estimate, low=estimate.center - half, high=estimate.center + half)


# --- other test rows --------------------------------------------------------------------------------------------------

FEW = 3_000  # studies that go through whole rows: the standard error of a coverage of .95 is .004
N_ROWS = 180  # test rows of a study, drawn with replacement: the stored ones are the population


def runs_of(cell: str, seeds: NDArray[np.intp], rows: NDArray[np.intp] | None, metric: str) -> dict[int, Outcome]:
    stored = load_population()[cell]
    values = getattr(stored, metric)[seeds] if rows is None else stored.correct[seeds][:, rows].mean(1)
    ids = [(f"w{seed}", f"o{seed}") for seed in seeds]
    return {
        place: Outcome(place, True, False, *ids[place], {metric: float(value)}) for place, value in enumerate(values)
    }


def shares_of(cell: str, seeds: NDArray[np.intp], rows: NDArray[np.intp]) -> Shares:
    return Shares(len(seeds), load_population()[cell].correct[seeds][:, rows].mean(0))


def compared(a: str, b: str, seeds: NDArray[np.intp], rows: NDArray[np.intp] | None, metric: str) -> Row:
    sides = [runs_of(cell, seeds, rows, metric) for cell in (a, b)]
    known = metric_of(metric)
    assert known is not None
    row = make_row({}, sides[0], range(SEEDS), known, sides[1], False)
    return row if rows is None else with_items(row, shares_of(a, seeds, rows), shares_of(b, seeds, rows))


@pytest.fixture(scope="module")
def drawn_rows() -> NDArray[np.intp]:
    return np.random.default_rng(1).integers(0, 360, (FEW, N_ROWS))


SYMMETRIC = ["standardize-0.1", "full-0.1", "full-0.3"]  # cells whose accuracies Student's t can know


@pytest.mark.parametrize("cell", SYMMETRIC)
def test_intervals_for_other_rows_cover_and_those_for_these_rows_do_not(cell, drawn, drawn_rows):
    rows = [compared(cell, cell, *two, "test_accuracy") for two in zip(drawn[:FEW], drawn_rows, strict=True)]
    truth = float(load_population()[cell].correct.mean())
    estimates = [row.estimate for row in rows if row.estimate is not None]
    found = float(np.mean([e.items is not None and e.items.low <= truth <= e.items.high for e in estimates]))
    print(f"{cell}: {found:.3f}, these rows alone {coverage(estimates, truth):.3f}")
    assert LEAST <= found <= MOST
    assert coverage(estimates, truth) < 0.8


@pytest.mark.parametrize("pair", list(combinations(learned_cells(), 2)), ids="/".join)
def test_intervals_of_differences_for_other_rows_cover(pair, drawn, drawn_rows):
    """Only a bound of the residual is known for a difference, so that these are a little wide."""
    a, b = pair
    truth = float(load_population()[a].correct.mean() - load_population()[b].correct.mean())
    rows = [compared(a, b, *two, "test_accuracy") for two in zip(drawn[:FEW], drawn_rows, strict=True)]
    found = [row.difference for row in rows if row.difference is not None and row.difference.items is not None]
    assert len(found) >= FEW - 5  # identical differences have no interval
    held = float(np.mean([d.items.low <= truth <= d.items.high for d in found if d.items is not None]))
    print(f"{a} − {b}: {held:.3f}")
    assert LEAST <= held <= MOST + 0.01


# --- equality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["test_accuracy", "fit_loss"])
@pytest.mark.parametrize("pair", list(combinations(learned_cells(), 2)), ids="/".join)
def test_at_the_margin_equal_is_said_at_most_one_time_in_twenty(pair, metric, drawn):
    """The margin is the true difference: "equal" is then wrong, however narrowly."""
    known = metric_of(metric)
    assert known is not None
    a, b = (getattr(load_population()[cell], metric) for cell in pair)
    gap = abs(float((a - b).mean() if known.scale == "raw" else np.log(a / b).mean()))
    within = gap if known.scale == "raw" else f"x{np.exp(gap):.9f}"
    claim = Claim(claim="c", a={"norm": "a"}, b={"norm": "b"}, metric=metric, expect="equal", within=within, why="w")
    answers = [judge(claim, compared(*pair, seeds, None, metric)).answer for seeds in drawn[:FEW]]
    said = answers.count("supported") / FEW
    print(f"{' / '.join(pair)}, {metric}: {said:.3f}")
    assert said <= 0.05


# --- failed runs ------------------------------------------------------------------------------------------------------


def test_a_worse_setting_never_looks_better_where_its_failed_runs_count(drawn):
    """Rule 5's reason: of a cell where few runs learned, those that did can look as good as any."""
    stored = load_population()
    found = []
    for seeds in drawn[:FEW]:
        runs = runs_of("none-0.1", seeds, None, "test_accuracy")
        runs = {
            place: replace(run, learned=bool(stored["none-0.1"].learned[seeds[place]])) for place, run in runs.items()
        }
        full = runs_of("full-0.1", seeds, None, "test_accuracy")
        known = metric_of("test_accuracy")
        assert known is not None
        row = make_row({}, runs, range(SEEDS), known, full, False)
        assert row.n == SEEDS
        assert row.n_failed == sum(not run.learned for run in runs.values()) > 0
        claim = Claim(claim="c", a={"norm": "a"}, b={"norm": "b"}, metric="test_accuracy", expect="greater")
        found.append(judge(claim, row))
    assert {verdict.answer for verdict in found} == {"contradicted"}
    assert {verdict.test for verdict in found} == {"sign test"}
