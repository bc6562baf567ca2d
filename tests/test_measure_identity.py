"""How far a norm is from the identity, and conversions as a table: against NumPy, and by known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from measure_tools import (
    MIXED,
    WITHOUT,
    check_alone_equals_stacked,
    check_cadence,
    check_quarantine,
    check_training_is_untouched,
    rows_of,
    study,
)
from test_slow_twin import numpy_network
from tools import initialize, make_dataset, train_runs

from bnexp.evaluation import probe_rows
from bnexp.measures import identity
from bnexp.norms import Statistics
from bnexp.rng import stream

IDENTITY = "{identity: {}}"
F64 = torch.float64
G = {"sigmoid": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}


def norm_inputs(own, x, model, eps):
    """The norm's input a [unit, row] of each hidden layer, x [in, row] as one full batch."""
    found, layer = [], 1
    while f"weight{layer + 1}" in own:
        x = own[f"weight{layer}"] @ x + own.get(f"bias{layer}", np.zeros(1))[:, None]
        x = G[model.activation](x) if model.placement == "post" else x
        found.append(x)
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + eps)
        x = own.get(f"gamma{layer}", np.ones(len(x)))[:, None] * x + own.get(f"beta{layer}", np.zeros(len(x)))[:, None]
        x = G[model.activation](x) if model.placement == "pre" else x
        layer += 1
    return found


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def residuals_of(a, order, size, eps):
    """exact, naive, minibatch, minibatch_expected, one unit after the other; ``order``: of the rows of a."""
    found = []
    for unit in a:
        mean, variance = unit.mean(), unit.var()
        if unit.max() == unit.min():
            continue
        root, sd = math.sqrt(variance + eps), math.sqrt(variance)
        errors = []
        for start in range(0, len(order) - size + 1, size):
            part = unit[order[start : start + size]]
            standardized = (part - part.mean()) / math.sqrt(part.var() + eps)
            errors.append((root * standardized + mean - part) / sd)
        kurtosis = np.mean((unit - mean) ** 4) / variance**2
        found.append([1 - sd / root, rms(errors), math.sqrt((kurtosis + 3) / (4 * size))])
    return np.mean(found, 0)


def expected_rows(run, own, dataset, epoch, rows=4096, size=None):
    n = len(dataset.train.features)
    chosen = probe_rows(n, rows)
    order = [int(row) for row in stream(run.seed, "order", max(epoch, 1)).permutation(n)]
    in_order = [chosen.index(row) for row in order if row in chosen]
    model, eps = run.setting.model, run.structure.eps
    x = dataset.train.features[chosen].T.astype(float)
    for layer, a in enumerate(norm_inputs(own, x, model, eps), start=1):
        naive, minibatch, expected = residuals_of(a, in_order, size or run.structure.batch_size, eps)
        row = {"exact": 0, "naive": naive, "minibatch": minibatch, "minibatch_expected": expected}
        if run.switches.gamma:
            gamma = own[f"gamma{layer}"]
            row |= {"gamma_from_one": rms(gamma - 1), "gamma_from_root": rms(gamma - np.sqrt(a.var(1) + eps))}
        if run.switches.beta:
            beta = own[f"beta{layer}"]
            row |= {"beta_from_zero": rms(beta), "beta_from_mean": rms(beta - a.mean(1))}
        yield (epoch, str(layer)), row


def own_of(arrays, index):
    return {name: np.asarray(array[index]) for name, array in arrays.items() if name != "test_correct"}


def assert_equals_numpy(spec, dataset, runs, **kwargs):
    initial = initialize(runs[0].structure, runs, F64)
    epochs = train_runs(spec, dataset, runs, F64)
    last = epochs[-1].arrays()
    for index, run in enumerate(runs):
        ours = rows_of(epochs, "identity", index)
        expected = dict(expected_rows(run, own_of(initial, index), dataset, 0, **kwargs))
        expected |= dict(expected_rows(run, own_of(last, index), dataset, run.structure.epochs, **kwargs))
        assert set(ours) == set(expected)
        for key, row in expected.items():
            assert ours[key] == pytest.approx(row, rel=1e-9, abs=1e-12), (run.id, key)


@pytest.mark.parametrize("activation", G)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_equals_numpy_unit_by_unit(placement, activation):
    assert_equals_numpy(*study(IDENTITY, MIXED, activation, placement, model="eps: 1e-2"))


@pytest.mark.parametrize("rows", [20, 8, 7])
def test_on_some_of_the_rows(rows, monkeypatch):
    monkeypatch.setattr(identity, "ROWS", rows)
    assert_equals_numpy(*study(IDENTITY, activation="tanh"), rows=rows, size=min(rows, 8))


def test_ghosts_are_the_minibatches():
    assert_equals_numpy(*study(IDENTITY, activation="tanh", model="ghost_size: 4"), size=4)


def first_rows(norms="full", **kwargs):
    """Epoch 0 of the first run, layer by layer, in float64."""
    spec, dataset, runs = study(IDENTITY, norms, "tanh", epochs=0, **kwargs)
    return [row for _, row in sorted(rows_of(train_runs(spec, dataset, runs, F64), "identity", 0).items())]


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_exact_is_rounding_and_naive_is_not(placement):
    for row in first_rows(placement=placement, model="eps: 0.5"):
        assert row["exact"] < 1e-14
        assert row["naive"] > 0.2
    spec, dataset, runs = study(IDENTITY, "full", "tanh", epochs=0)
    for row in rows_of(train_runs(spec, dataset, runs), "identity", 0).values():
        assert 1e-9 < row["exact"] < 1e-6  # float32


@pytest.mark.parametrize(("size", "tolerance"), [(32, 0.02), (64, 0.02), (128, 0.02)])
def test_gaussian_inputs_miss_by_root_three_halves_over_b(size, tolerance):
    generator = torch.Generator().manual_seed(1)
    a = 3 + 2 * torch.randn(1, 64, 4096, dtype=F64, generator=generator)
    deviation = a - a.mean(-1, keepdim=True)
    statistics = Statistics(a.mean(-1), (deviation * deviation).mean(-1))
    row = identity.residuals(a, statistics, 1e-5, torch.arange(4096), size)
    assert row["minibatch_expected"].item() == pytest.approx(math.sqrt(1.5 / size), rel=0.005)
    assert row["minibatch"].item() == pytest.approx(math.sqrt(1.5 / size), rel=tolerance)


def test_a_trained_network_on_gaussian_rows_misses_by_that_too():
    dataset = make_dataset(n_train=4096, n_inputs=12)
    spec, dataset, runs = study(IDENTITY, "full", "relu", dataset=dataset, epochs=2, batch_size=32)
    row = rows_of(train_runs(spec, dataset, runs, F64), "identity", 0)[2, "1"]
    assert row["minibatch"] == pytest.approx(math.sqrt(1.5 / 32), rel=0.03)
    assert row["minibatch_expected"] == pytest.approx(math.sqrt(1.5 / 32), rel=0.03)


def test_coins_miss_by_one_over_root_b():
    """a = ±1, κ = 1: the scale hardly errs, the mean by 1/sqrt(B)."""
    a = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat([-1.0, 1.0], 2048)))[None, None]
    statistics = Statistics(torch.zeros(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64))
    row = identity.residuals(a, statistics, 0.0, torch.arange(4096), 64)
    assert row["minibatch_expected"].item() == pytest.approx(1 / 8, rel=1e-12)
    assert row["minibatch"].item() == pytest.approx(1 / 8, rel=0.1)


def test_the_full_batch_misses_nothing():
    for row in first_rows(batch_size="full"):
        assert row["minibatch"] < 1e-14


def test_gamma_and_beta_where_they_start():
    for row in first_rows(model="gamma_init: 1.7, beta_init: -0.3"):
        assert row["gamma_from_one"] == pytest.approx(0.7, rel=1e-12)
        assert row["beta_from_zero"] == pytest.approx(0.3, rel=1e-12)


def test_an_identity_start_is_the_identity():
    for row in first_rows(placement="post", model="gamma_init: identity, beta_init: identity"):
        assert row["gamma_from_root"] < 1e-14
        assert row["beta_from_mean"] < 1e-14
    # Before the activation β also holds the bias that ``none`` has there.
    for row in first_rows(placement="pre", model="gamma_init: identity, beta_init: identity"):
        assert row["gamma_from_root"] < 1e-14
        assert row["beta_from_mean"] > 0.1


def test_units_that_do_not_vary_are_left_out():
    a = torch.randn(2, 4, 24, dtype=F64, generator=torch.Generator().manual_seed(2))
    dead = torch.cat([a, torch.zeros(2, 3, 24, dtype=F64)], 1)
    found = [
        identity.residuals(x, Statistics(x.mean(-1), x.var(-1, correction=0)), 1e-5, torch.arange(24), 8)
        for x in (a, dead)
    ]
    for name, column in found[0].items():
        assert torch.allclose(found[1][name], column, rtol=1e-12, atol=0), name


@pytest.mark.parametrize("norms", [WITHOUT, "center", "scale"])
def test_a_norm_that_does_not_standardize_has_no_rows(norms):
    spec, dataset, runs = study(IDENTITY, norms)
    assert rows_of(train_runs(spec, dataset, runs), "identity", 0) == {}


# --- conversions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "linear"])
def test_every_conversion_that_exists_gives_the_same_outputs(activation, placement):
    for norms in (WITHOUT, MIXED, "center"):
        spec, dataset, runs = study(IDENTITY, norms, activation, placement)
        epochs = train_runs(spec, dataset, runs)
        for index, run in enumerate(runs):
            rows = rows_of(epochs, "conversions", index)
            norm = run.setting.model.norm
            kind = "full" if norm in ("none", "affine") else "standardize"
            absorbed = placement == "post" or activation == "linear" or (activation == "relu" and norm == "gamma")
            exists = kind == "full" or (norm in ("full", "gamma", "beta") and absorbed)
            assert set(rows) == ({(0, kind), (2, kind)} if exists else set())
            for row in rows.values():
                assert row.pop("output_sd") > 1e-3
                assert set(row) == {"max_difference"} | ({"max_difference_batch"} if kind == "standardize" else set())
                assert max(row.values()) <= 1e-12


def test_the_sd_of_the_outputs_is_numpy_s():
    spec, dataset, runs = study(IDENTITY, "none")
    epochs = train_runs(spec, dataset, runs, F64)
    own = own_of(epochs[-1].arrays(), 0)
    x = dataset.train.features[probe_rows(50, 21)].T.astype(float)
    logits = numpy_network(own, x, runs[0].setting.model, 3)
    assert rows_of(epochs, "conversions", 0)[2, "full"]["output_sd"] == pytest.approx(logits.std(1).mean(), rel=1e-10)


# --- what it must not touch -------------------------------------------------------------------------------------------


def test_training_is_untouched():
    check_training_is_untouched("{identity: {every: 1}}")


@pytest.mark.parametrize(("activation", "placement"), [("tanh", "pre"), ("relu", "post")])
def test_alone_equals_stacked(activation, placement):
    check_alone_equals_stacked(IDENTITY, activation, placement=placement, tables=("identity", "conversions"))


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_diverging_neighbour_changes_nothing(placement):
    check_quarantine("{identity: {every: 1}}", placement=placement)


def test_cadence():
    check_cadence("identity", "identity")
