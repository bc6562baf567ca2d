"""Internal covariate shift in Santurkar's sense: against torch modules, by hand, and what it must not touch."""

from __future__ import annotations

import copy
import itertools

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
    loss_of,
    rows_of,
    study,
    training_of,
)
from test_slow_twin import OPTIMIZERS, Affine, twin_of
from test_variations import Ghosts, Noisy
from tools import initialize, train_runs

from bnexp.rng import stream

ICS = "{ics: {}}"
F64 = torch.float64


def weights_of(twin):
    return [module.weight for module in twin.modules() if isinstance(module, torch.nn.Linear)]


def weight_gradients(twin, x, t):
    twin = copy.deepcopy(twin)  # running statistics and the count of noise draws stay behind
    twin.zero_grad()
    loss_of(twin, x, t).backward()
    return [weight.grad for weight in weights_of(twin)]


def layer_of_each_parameter(twin):
    """Layer numbers, in the order of ``twin.parameters()``: a Linear begins a layer."""
    layer, found = 0, []
    for module in twin.modules():
        layer += isinstance(module, torch.nn.Linear)
        found += [layer for _ in module.parameters(recurse=False)]
    return found


def shift_of(twin, optimizer, x, t):
    """(difference, relative, cosine) of every layer, by deep copies."""
    before = weight_gradients(twin, x, t)
    moved, moved_optimizer = copy.deepcopy((twin, optimizer))
    moved_optimizer.zero_grad()
    loss_of(moved, x, t).backward()
    moved_optimizer.step()
    found = []
    for layer, g in enumerate(before, start=1):
        mixed = copy.deepcopy(twin)
        for place, new, number in zip(
            mixed.parameters(), moved.parameters(), layer_of_each_parameter(twin), strict=True
        ):
            if number < layer:
                place.data.copy_(new.data)
        h = weight_gradients(mixed, x, t)[layer - 1]
        columns = (g - h).norm(), (g - h).norm() / g.norm(), (g * h).sum() / g.norm() / h.norm()
        found.append([column.item() for column in columns] if layer > 1 else [0, 0, 1])
    return found


def assert_equals_the_twin(spec, dataset, runs, make=twin_of, make_optimizer=lambda twin: None):
    initial = initialize(runs[0].structure, runs, F64)
    epochs = train_runs(spec, dataset, runs, F64)
    for index, run in enumerate(runs):
        ours = rows_of(epochs, "ics", index)
        twin = make(run, initial, index)
        for epoch, optimizer, x, t in training_of(twin, run, dataset, make_optimizer(twin)):
            for layer, (difference, relative, cosine) in enumerate(shift_of(twin, optimizer, x, t), start=1):
                row = ours.pop((epoch, str(layer)))
                assert row["difference"] == pytest.approx(difference, rel=1e-9, abs=1e-13), (run.id, epoch, layer)
                assert row["relative"] == pytest.approx(relative, rel=1e-9, abs=1e-12, nan_ok=True)
                assert row["cosine"] == pytest.approx(cosine, rel=1e-9, nan_ok=True)
        assert not ours


PLACES = [(placement, activation) for activation in ["tanh", "relu", "sigmoid"] for placement in ("pre", "post")]
# Each optimizer with each kind of norm; they know nothing of activations and placements, which take turns.
GRID = [(*place, optimizer) for place, optimizer in zip(PLACES, itertools.cycle(OPTIMIZERS), strict=False)]


@pytest.mark.parametrize(("placement", "activation", "optimizer"), GRID)
@pytest.mark.parametrize("norms", [WITHOUT, MIXED])
def test_equals_deep_copies_of_torch_modules(norms, placement, activation, optimizer):
    assert_equals_the_twin(*study(ICS, norms, activation, placement, train=OPTIMIZERS[optimizer], epochs=3))


def test_of_a_regression_too():
    assert_equals_the_twin(*study(ICS, activation="tanh", n_classes=1))


def test_with_the_step_s_own_ghosts():
    def make(run, initial, index):
        layers = list(twin_of(run, initial, index))
        return torch.nn.Sequential(*(Ghosts(m, 4) if isinstance(m, torch.nn.BatchNorm1d) else m for m in layers))

    def all_that_learn(twin):
        return torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.1)

    assert_equals_the_twin(*study(ICS, activation="tanh", model="ghost_size: 4"), make, all_that_learn)


def test_with_the_step_s_own_noise():
    def make(run, initial, index):
        found, layer = [], 0
        for module in twin_of(run, initial, index):
            if isinstance(module, torch.nn.Tanh):
                layer += 1
                found.append(Noisy(run, layer))
            found.append(module)
        return torch.nn.Sequential(*found)

    assert_equals_the_twin(*study(ICS, activation="tanh", model="noise: santurkar"), make)


def test_only_what_is_trained_takes_the_step():
    def norms_alone(twin):
        norms = [m for m in twin if isinstance(m, torch.nn.BatchNorm1d | Affine)]
        return torch.optim.SGD([p for m in norms for p in m.parameters() if p.requires_grad], lr=0.1, momentum=0.5)

    assert_equals_the_twin(
        *study(ICS, "[full, gamma, beta]", "tanh", train="only: norm, momentum: 0.5"), make_optimizer=norms_alone
    )


def test_linear_layers_by_hand():
    """f = W₃(W₂(W₁x + b₁) + b₂) + b₃, squared error: what layer 1 does to layer 2, in a few lines of NumPy."""
    spec, dataset, runs = study(ICS, "none", "linear", n_classes=1, epochs=1)
    run = runs[0]
    initial = {name: tensor[0].numpy() for name, tensor in initialize(run.structure, [run], F64).items()}
    chosen = stream(run.seed, "order", 1).permutation(50)[:8]
    x, t = dataset.train.features[chosen].T.astype(float), dataset.train.targets[chosen].astype(float)
    w1, w2, w3 = (initial[f"weight{layer}"] for layer in (1, 2, 3))
    b1, b2, b3 = (initial[f"bias{layer}"][:, None] for layer in (1, 2, 3))

    def gradient2(w1, b1):
        h = w1 @ x + b1
        error = 2 / 8 * (w3 @ (w2 @ h + b2) + b3 - t)
        return w3.T @ error @ h.T

    error = 2 / 8 * (w3 @ (w2 @ (w1 @ x + b1) + b2) + b3 - t)
    at_layer1 = w2.T @ w3.T @ error
    before = gradient2(w1, b1)
    after = gradient2(w1 - 0.1 * at_layer1 @ x.T, b1 - 0.1 * at_layer1.sum(1, keepdims=True))
    row = rows_of(train_runs(spec, dataset, [run], F64), "ics", 0)[1, "2"]
    assert row["difference"] == pytest.approx(np.linalg.norm(after - before), rel=1e-12)
    assert row["relative"] == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-12)


def test_layer_one_has_nothing_below():
    spec, dataset, runs = study(ICS)
    rows = rows_of(train_runs(spec, dataset, runs), "ics", 1)
    assert all(row == {"difference": 0, "relative": 0, "cosine": 1} for key, row in rows.items() if key[1] == "1")


@pytest.mark.parametrize("norms", ["none", "full"])
def test_small_steps_shift_in_proportion(norms):
    shifts = []
    for lr in ("1e-3", "1e-5"):
        spec, dataset, runs = study(ICS, norms, "tanh", epochs=1, lr=lr)
        shifts.append(rows_of(train_runs(spec, dataset, runs, F64), "ics", 0))
    for layer in ("2", "3"):
        assert shifts[0][1, layer]["relative"] / shifts[1][1, layer]["relative"] == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_untouched(optimizer):
    check_training_is_untouched(ICS, model="", train=OPTIMIZERS[optimizer])


def test_training_with_noise_and_ghosts_is_untouched():
    check_training_is_untouched(ICS)


@pytest.mark.parametrize(("activation", "train"), [("sigmoid", "momentum: 0.9"), ("relu", "optimizer: adam")])
def test_alone_equals_stacked(activation, train):
    check_alone_equals_stacked(ICS, activation, train=train)


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine(ICS)


def test_cadence():
    check_cadence("ics", "ics", start=1)
