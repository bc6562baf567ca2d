"""2×2 effects against their formula, seed by seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from outcomes import DIVERGED, only, study

from bnexp.comparison import effect_records
from bnexp.sheets import more_sheets

GAMMA_BETA = "data: digits\nmodel: {norm: [standardize, gamma, beta, full]}\nseeds: 8\n"
VALUES = np.random.default_rng(3).uniform(0.5, 0.9, (4, 8))
ORDER = ("standardize", "gamma", "beta", "full")


def value(fields, seed):
    return float(VALUES[ORDER.index(fields["norm"]), seed])


def t_interval(values):
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * scipy.stats.sem(values)
    return np.mean(values), np.mean(values) - half, np.mean(values) + half


def test_by_hand(tmp_path):
    (effects,) = only(study(tmp_path, GAMMA_BETA, lambda f, s: {"test_accuracy": value(f, s)})).effects
    x00, x10, x01, x11 = VALUES
    expected = {
        "γ": ((x10 - x00) + (x11 - x01)) / 2,
        "β": ((x01 - x00) + (x11 - x10)) / 2,
        "interaction of γ with β": x11 - x01 - x10 + x00,
    }
    assert list(effects.named) == list(expected)
    for name, numbers in expected.items():
        found = effects.named[name]
        assert (found.center, found.low, found.high) == pytest.approx(t_interval(numbers), rel=1e-9)
        assert found.n == effects.n == 8


def test_effects_say_within_which_margin_there_is_none(tmp_path):
    comparison = only(study(tmp_path, GAMMA_BETA, lambda f, s: {"test_accuracy": value(f, s)}))
    (sheet,) = more_sheets(comparison)
    first = comparison.effects[0].first
    within = max(abs(first.low), abs(first.high))
    assert sheet.heads[-1].name == "equal within"
    assert sheet.rows[0][-1] == f"± {100 * within:.1f}"
    assert effect_records(comparison)[0]["equal_within"] == within


def test_ratios_on_the_log_scale(tmp_path):
    results = study(tmp_path, GAMMA_BETA, lambda f, s: {"fit_loss": value(f, s), "test_accuracy": 0.9})
    (effects,) = only(results, metric="fit_loss").effects
    x00, x10, x01, x11 = np.log(VALUES)
    found = effects.interaction
    assert (found.center, found.low, found.high) == pytest.approx(
        tuple(map(math.exp, t_interval(x11 - x01 - x10 + x00))), rel=1e-9
    )
    assert found.kind == "mean ratio of ratios"


def test_a_failed_cell_has_no_mean_effect(tmp_path):
    def outcome(fields, seed):
        return DIVERGED if (fields["norm"], seed) == ("gamma", 3) else {"test_accuracy": value(fields, seed)}

    (effects,) = only(study(tmp_path, GAMMA_BETA, outcome)).effects
    assert effects.first is effects.second is effects.interaction is None
    assert effects.note == "no mean effect: did not learn: gamma 1 of 8"


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"init_id": "other"}, "the four cells do not share initial weights and minibatches"),
        ({"test_accuracy": ""}, "test_accuracy was not recorded in every run"),
    ],
)
def test_cells_that_do_not_belong_together(tmp_path, change, note):
    def outcome(fields, seed):
        found = {"test_accuracy": value(fields, seed)}
        return {**found, **change} if (fields["norm"], seed) == ("full", 0) else found

    (effects,) = only(study(tmp_path, GAMMA_BETA, outcome)).effects
    assert effects.first is None
    assert effects.note == note


def test_none_stands_at_every_placement_and_designs_are_told_apart(tmp_path):
    text = """
data: digits
model: {norm: [none, center, scale, standardize, affine, full], placement: [pre, post]}
seeds: 3
"""
    effects = only(study(tmp_path, text, lambda f, s: {"test_accuracy": 0.5 + 0.01 * s * len(f["norm"])})).effects
    assert [(e.setting["placement"], e.design.first) for e in effects] == [
        ("pre", "centring"),
        ("pre", "standardizing"),
        ("post", "centring"),
        ("post", "standardizing"),
    ]


def test_a_field_that_belongs_to_a_norm_divides_nothing(tmp_path):
    text = """
data: digits
model: {norm: [none, standardize, full]}
seeds: 3
variants:
  - {}
  - {model.norm: affine, model.gamma_init: standardize, model.beta_init: standardize}
"""
    (effects,) = only(study(tmp_path, text, lambda f, s: {"test_accuracy": 0.5 + 0.01 * s * len(f["norm"])})).effects
    assert effects.design.norms == ("none", "standardize", "affine", "full")


def test_no_effects_without_the_four_cells(tmp_path):
    text = GAMMA_BETA.replace(", beta", "")
    assert only(study(tmp_path, text, lambda f, s: {"test_accuracy": value(f, s)})).effects == ()
