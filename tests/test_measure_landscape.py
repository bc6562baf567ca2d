"""The walk along the gradient: against torch modules, on a quadratic, and what it must not touch."""

from __future__ import annotations

import copy
import itertools
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
    loss_of,
    rows_of,
    study,
    training_of,
)
from test_slow_twin import OPTIMIZERS, Affine, twin_of
from test_variations import Ghosts, Noisy
from tools import initialize, make_dataset, train_runs

from bnexp.measures import landscape
from bnexp.rng import stream

LANDSCAPE = "{landscape: {relative: 0.05}}"
F64 = torch.float64


def loss_and_gradient(twin, chosen, x, t):
    """Loss, and the gradient of the chosen parameters (by place), by a copy: statistics and noise counts stay."""
    twin = copy.deepcopy(twin)
    twin.zero_grad()
    loss = loss_of(twin, x, t)
    loss.backward()
    parameters = list(twin.parameters())
    return loss.item(), [parameters[place].grad for place in chosen]


def length(parts):
    return math.sqrt(sum((part**2).sum().item() for part in parts))


def walk_of(twin, chosen, x, t, h):
    """The table's columns, one step after the other."""
    loss, g = loss_and_gradient(twin, chosen, x, t)
    losses, changes, smoothness = [], [], []
    for eta in np.geomspace(h / 2, 4 * h, 8):
        there = copy.deepcopy(twin)
        parameters = list(there.parameters())
        for place, part in zip(chosen, g, strict=True):
            parameters[place].data -= eta * part
        other, moved = loss_and_gradient(there, chosen, x, t)
        losses.append(other)
        changes.append(length([a - b for a, b in zip(moved, g, strict=True)]))
        smoothness.append(changes[-1] / (eta * length(g)))
    bands = min(losses), max(losses), length(g), min(changes), max(changes), max(smoothness)
    return [loss, *bands]


def assert_equals_the_twin(spec, dataset, runs, make=twin_of, make_optimizer=lambda twin: None):
    """The twin's optimizer says which parameters are trained."""
    initial = initialize(runs[0].structure, runs, F64)
    epochs = train_runs(spec, dataset, runs, F64)
    for index, run in enumerate(runs):
        ours = rows_of(epochs, "landscape", index)
        twin = make(run, initial, index)
        for epoch, optimizer, x, t in training_of(twin, run, dataset, make_optimizer(twin)):
            trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
            chosen = [place for place, p in enumerate(twin.parameters()) if id(p) in trained and p.requires_grad]
            h = optimizer.param_groups[0]["lr"]
            assert_row(ours.pop((epoch, "lr")), walk_of(twin, chosen, x, t, h))
            matrices = [place for place in chosen if list(twin.parameters())[place].dim() == 2]
            if matrices:
                weights = [list(twin.parameters())[place].data for place in matrices]
                h = 0.05 * length(weights) / length(loss_and_gradient(twin, matrices, x, t)[1])
                assert_row(ours.pop((epoch, "relative")), walk_of(twin, chosen, x, t, h))
        assert not ours


def assert_row(row, expected):
    assert list(row.values()) == pytest.approx(expected, rel=1e-9)


PLACES = [(placement, activation) for activation in ["tanh", "sigmoid"] for placement in ("pre", "post")]
# Each optimizer with each kind of norm; they know nothing of activations and placements, which take turns.
GRID = [(*place, optimizer) for place, optimizer in zip(PLACES, itertools.cycle(OPTIMIZERS), strict=False)]


@pytest.mark.parametrize(("placement", "activation", "optimizer"), GRID)
@pytest.mark.parametrize("norms", [WITHOUT, MIXED])
def test_equals_a_walk_of_torch_modules(norms, placement, activation, optimizer):
    """Relu is left out: a kink that a rounding error puts on the other side is no error."""
    assert_equals_the_twin(*study(LANDSCAPE, norms, activation, placement, train=OPTIMIZERS[optimizer], epochs=3))


def test_of_a_regression_too():
    assert_equals_the_twin(*study(LANDSCAPE, activation="tanh", n_classes=1))


def test_with_the_step_s_own_ghosts():
    def make(run, initial, index):
        layers = list(twin_of(run, initial, index))
        return torch.nn.Sequential(*(Ghosts(m, 4) if isinstance(m, torch.nn.BatchNorm1d) else m for m in layers))

    def all_that_learn(twin):
        return torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=0.1)

    assert_equals_the_twin(*study(LANDSCAPE, activation="tanh", model="ghost_size: 4"), make, all_that_learn)


def test_with_the_step_s_own_noise():
    def make(run, initial, index):
        found, layer = [], 0
        for module in twin_of(run, initial, index):
            if isinstance(module, torch.nn.Tanh):
                layer += 1
                found.append(Noisy(run, layer))
            found.append(module)
        return torch.nn.Sequential(*found)

    assert_equals_the_twin(*study(LANDSCAPE, activation="tanh", model="noise: santurkar"), make)


@pytest.mark.parametrize("only", ["norm", "norm+output"])
def test_walks_through_what_is_trained_alone(only):
    def trained_part(twin):
        norms = [m for m in twin if isinstance(m, torch.nn.BatchNorm1d | Affine)]
        chosen = [p for m in norms for p in m.parameters() if p.requires_grad]
        return torch.optim.SGD([*chosen, *(twin[-1].parameters() if only == "norm+output" else ())], lr=0.1)

    found = study(LANDSCAPE, "[full, gamma, beta]", "tanh", train=f"only: {only}")
    assert_equals_the_twin(*found, make_optimizer=trained_part)


def test_on_a_quadratic():
    """After the activation, only γ and β trained: f = W₂(γâ + β) + b₂, whose squared error is quadratic in (γ, β)."""
    one = {
        "hidden": "[5]",
        "activation": "tanh",
        "lr": "0.2",
        "norms": "full",
        "placement": "post",
        "epochs": 1,
        "train": "only: norm",
        "n_classes": 1,
    }
    spec, dataset, runs = study("{landscape: {}}", **one)
    own = {name: tensor[0].numpy() for name, tensor in initialize(runs[0].structure, runs, F64).items()}
    rows = stream(runs[0].seed, "order", 1).permutation(50)[:8]
    x, t = dataset.train.features[rows].T.astype(float), dataset.train.targets[rows].astype(float)
    a = np.tanh(own["weight1"] @ x + own["bias1"][:, None])
    standardized = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-5)
    out = own["weight2"][0]
    features = np.concatenate([out[:, None] * standardized, np.repeat(out[:, None], 8, 1)])  # ∂f/∂γ, ∂f/∂β
    error = out @ standardized + own["bias2"] - t
    loss, g, hessian = (error**2).mean(), 2 / 8 * features @ error, 2 / 8 * features @ features.T
    etas = np.geomspace(0.1, 0.8, 8)
    losses = loss - etas * (g @ g) + etas**2 / 2 * (g @ hessian @ g)
    size, change = np.linalg.norm(g), np.linalg.norm(hessian @ g)
    row = rows_of(train_runs(spec, dataset, runs, F64), "landscape", 0)[1, "lr"]
    assert_row(row, [loss, losses.min(), losses.max(), size, 0.1 * change, 0.8 * change, change / size])
    assert change / size <= np.linalg.eigvalsh(hessian).max()


def test_a_relative_walk_moves_the_weights_by_a_share_of_their_length(monkeypatch):
    spec, dataset, runs = study(LANDSCAPE, WITHOUT, epochs=1)
    parameters = initialize(runs[0].structure, runs, F64)
    honest, moves = landscape.arrive, []

    def spied(step, gradient, eta):
        parts = [eta[:, None, None] * gradient[f"weight{layer}"] for layer in (1, 2, 3)]
        moves.append([length([part[index] for part in parts]) for index in range(len(runs))])
        return honest(step, gradient, eta)

    monkeypatch.setattr(landscape, "arrive", spied)
    train_runs(spec, dataset, runs, F64)
    sizes = [length([parameters[f"weight{layer}"][index] for layer in (1, 2, 3)]) for index in range(len(runs))]
    for moved, factor in zip(moves[8:], np.geomspace(0.5, 4, 8), strict=True):  # after the eight by lr
        assert moved == pytest.approx([factor * 0.05 * size for size in sizes], rel=1e-12)


def test_at_a_stationary_point_there_is_no_smoothness():
    """Weights, biases and targets all 0 (or as good as): f = t, g = 0, and 0 per 0 is no number."""
    dataset = make_dataset(n_train=50, n_classes=1)
    dataset.train.targets[:] = 0
    model = "weight_init: gaussian, weight_sd: 1e-300"
    spec, dataset, runs = study(LANDSCAPE, "none", "relu", model=model, dataset=dataset, epochs=1)
    row = rows_of(train_runs(spec, dataset, runs, F64), "landscape", 0)[1, "lr"]
    assert math.isnan(row.pop("effective_smoothness"))
    assert set(row.values()) == {0}


def test_what_overflows_is_infinite():
    spec, dataset, runs = study(LANDSCAPE, "none", "relu", lr="1e30", epochs=1)
    row = rows_of(train_runs(spec, dataset, runs), "landscape", 0)[1, "lr"]
    assert math.isfinite(row["loss"])
    assert math.isfinite(row["gradient_norm"])
    assert row["loss_max"] == row["gradient_change_max"] == row["effective_smoothness"] == math.inf


def test_relative_is_left_out_unless_asked_for_and_where_no_weights_are_trained():
    spec, dataset, runs = study("{landscape: {}}", epochs=1)
    assert set(rows_of(train_runs(spec, dataset, runs), "landscape", 0)) == {(1, "lr")}
    spec, dataset, runs = study(LANDSCAPE, "full", train="only: [norm, random]", epochs=1)
    found = [rows_of(train_runs(spec, dataset, runs), "landscape", index) for index in (0, 1)]
    assert [run.setting.train.only for run in runs[:2]] == ["norm", "random"]
    assert set(found[0]) == {(1, "lr")}
    assert set(found[1]) == {(1, "lr"), (1, "relative")}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_untouched(optimizer):
    check_training_is_untouched(LANDSCAPE, model="", train=OPTIMIZERS[optimizer])


def test_training_with_noise_and_ghosts_is_untouched():
    check_training_is_untouched(LANDSCAPE)


@pytest.mark.parametrize(("activation", "train"), [("sigmoid", "momentum: 0.9"), ("relu", "optimizer: adam")])
def test_alone_equals_stacked(activation, train):
    check_alone_equals_stacked(LANDSCAPE, activation, train=train)


def test_nor_does_it_matter_what_they_train():
    train = "only: [all, norm, norm+output, random]"
    check_alone_equals_stacked(LANDSCAPE, groups=("full",), lr="0.1", seeds=2, train=train)


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine(LANDSCAPE)


def test_cadence():
    check_cadence("landscape", "landscape", start=1)
