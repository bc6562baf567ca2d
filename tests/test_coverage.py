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

from bnexp.comparison import intervals as iv

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
