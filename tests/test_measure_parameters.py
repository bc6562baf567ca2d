"""The parameters measure: norms and the last step, against NumPy and against what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measure_tools import check_alone_equals_stacked, check_quarantine, check_training_is_untouched, rows, study
from tools import initialize, make_spec, runs_of, train_runs

from bnexp.data import load_dataset
from bnexp.network import Batch, loss_and_gradients_by_autograd
from bnexp.rng import stream
from bnexp.training import learning_rates

NORMS = "[none, standardize, gamma, beta, full]"


def replay(spec, dataset, run):
    """Weights before and after the last step of the first epoch, and its gradients: plain SGD by autograd."""
    structure = run.structure
    parameters = initialize(structure, [run], torch.float64)
    x, t = torch.from_numpy(dataset.train.features).double(), torch.from_numpy(dataset.train.targets)
    order = stream(run.seed, "order", 1).permutation(len(x))
    lr = learning_rates([run], structure, 1, "float64").item()
    for step in range(structure.steps_per_epoch):
        chosen = order[step * structure.batch_size : (step + 1) * structure.batch_size]
        batch = Batch(x[chosen].T[None], t[chosen][None])
        before = {name: tensor.clone() for name, tensor in parameters.items()}
        gradients = loss_and_gradients_by_autograd(parameters, batch, structure).gradients
        for name, tensor in parameters.items():
            learned = {"gamma": run.switches.gamma, "beta": run.switches.beta}.get(name[:-1], True)
            tensor -= lr * gradients[name] * learned
    return before, gradients, parameters, lr


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]"])
def test_columns_equal_their_definition_in_numpy(norms, placement):
    spec, dataset, runs = study("[parameters]", norms, "tanh", placement, epochs=1)
    epochs = train_runs(spec, dataset, runs, torch.float64)
    for index, run in enumerate(runs):
        before, gradients, after, lr = replay(spec, dataset, run)
        for layer in (1, 2, 3):
            found = rows(epochs[1], "parameters", index)[str(layer),]
            w, g, moved = (part[f"weight{layer}"][0].numpy() for part in (before, gradients, after))
            growth = [lr**2 * (row @ row) for row in g]
            residual = [abs(m @ m - v @ v - e) for m, v, e in zip(moved, w, growth, strict=True)]
            cosine = [abs(v @ d) / np.linalg.norm(v) / np.linalg.norm(d) for v, d in zip(w, g, strict=True)]
            expected = {
                "weight_norm": np.linalg.norm(moved),
                "gradient_norm": np.linalg.norm(g),
                "update_norm": lr * np.linalg.norm(g),
                "weight_gradient_cosine": np.mean(cosine),
                "effective_lr": np.mean([lr / (row @ row) for row in w]),
                "growth_residual": sum(residual) / sum(growth),
            }
            # a cosine that is 0 up to ε is a difference of large numbers
            assert {k: found[k] for k in expected} == pytest.approx(expected, rel=1e-9, abs=1e-13)
            there = layer < 3 and run.switches.gamma
            assert ("gamma_norm" in found) == ("small_gamma" in found) == there
            if there:
                gamma = after[f"gamma{layer}"][0].numpy()
                assert found["gamma_norm"] == pytest.approx(np.linalg.norm(gamma), rel=1e-12)


def test_at_the_start_only_what_needs_no_step():
    spec, dataset, runs = study("[parameters]", "[full]", epochs=1)
    first = rows(train_runs(spec, dataset, runs)[0], "parameters")["1",]
    assert set(first) == {"weight_norm", "gamma_norm", "beta_norm", "small_gamma"}


def test_small_gammas_are_counted():
    spec, dataset, runs = study("[parameters]", "[gamma, beta]", model="gamma_init: 0.001", epochs=0)
    epochs = train_runs(spec, dataset, runs)
    assert [rows(epochs[0], "parameters", i)["1",].get("small_gamma") for i in range(len(runs))] == [1, None, 1, None]


def hidden_residuals(eps, dtype=torch.float64, norms=NORMS):
    """Mean growth residual of the two hidden layers per norm, digits, plain SGD, last step of the fifth epoch."""
    text = f"model: {{norm: {norms}, eps: {eps}}}\ntrain: {{epochs: 5}}\nseeds: 2\nmeasure: [parameters]"
    spec = make_spec(f"data: digits\n{text}")
    dataset = load_dataset(spec.settings[0].data)
    found = {}
    for structure in dict.fromkeys(run.structure for run in runs_of(spec, dataset)):
        runs = [run for run in runs_of(spec, dataset) if run.structure == structure]
        last = train_runs(spec, dataset, runs, dtype)[-1]
        for index, run in enumerate(runs):
            layers = rows(last, "parameters", index)
            values = [layers[str(layer),]["growth_residual"] for layer in (1, 2)]
            found.setdefault(run.setting.model.norm, []).extend(values)
    return {norm: float(np.max(values)) for norm, values in found.items()}


def test_squared_weights_grow_by_pythagoras_where_a_norm_divides_by_the_sd():
    """Arora, Li & Lyu 2018: w ⟂ ∂loss/∂w where the loss does not depend on ‖w‖, exactly at ε = 0."""
    exact = hidden_residuals("0")
    assert max(value for norm, value in exact.items() if norm != "none") < 1e-9
    assert exact["none"] > 1
    with_eps = hidden_residuals("1e-5")
    assert all(1e-4 < value < 0.2 for norm, value in with_eps.items() if norm != "none")


def test_the_residual_is_for_plain_sgd():
    for train in ("momentum: 0.9", "optimizer: adam", "weight_decay: 0.1", "only: norm"):
        spec, dataset, runs = study("[parameters]", "[full]", train=train)
        found = rows(train_runs(spec, dataset, runs)[-1], "parameters")["1",]
        assert "growth_residual" not in found
        assert "update_norm" in found


def test_frozen_weights_do_not_move():
    spec, dataset, runs = study("[parameters]", "[full]", train="only: norm")
    assert rows(train_runs(spec, dataset, runs)[-1], "parameters")["1",]["update_norm"] == 0


def test_training_is_untouched():
    check_training_is_untouched("[parameters]")


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_alone_equals_stacked(activation):
    check_alone_equals_stacked("[parameters]", activation)


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("[parameters]")
