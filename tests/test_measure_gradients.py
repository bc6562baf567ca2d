"""Gradients of preactivations against autograd through torch modules, and against the mean field theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measure_tools import (
    check_alone_equals_stacked,
    check_cadence,
    check_quarantine,
    check_training_is_untouched,
    module_twin,
    probe_of,
    rows,
    study,
    trained,
)
from tools import initialize, make_dataset, make_spec, runs_of, train_runs

from bnexp.gradients import preactivation_gradients
from bnexp.measures.gradients import layer_squares
from bnexp.network import Batch, forward


def slow_squares(twin, x, targets, task):
    """Per layer (gradient_square, weighted_square), by autograd through the modules in train mode."""
    twin.train()
    preactivations = []
    hooks = [
        m.register_forward_hook(lambda module, inputs, a: (a.retain_grad(), preactivations.append(a))[1])
        for m in twin
        if isinstance(m, torch.nn.Linear)
    ]
    out = twin(torch.from_numpy(x.T))
    if task == "classification":
        loss = torch.nn.functional.cross_entropy(out, torch.from_numpy(targets))
    else:
        loss = torch.nn.functional.mse_loss(out[:, 0], torch.from_numpy(targets).double())
    loss.backward()
    for hook in hooks:
        hook.remove()
    found = []
    for a in preactivations:  # [sample, unit]
        squares, variances = (a.grad**2).sum(0), a.detach().var(0, correction=0)
        found.append((float(squares.mean()), float((squares * variances).mean())))
    return found


@pytest.mark.parametrize("n_classes", [3, 1])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "linear"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]"])
def test_equals_the_twin(norms, activation, placement, n_classes):
    spec, dataset, runs = study("[gradients]", norms, activation, placement, "eps: 1e-3", n_classes=n_classes)
    x, targets = probe_of(dataset, 21)
    for epoch, arrays in trained(spec, dataset, runs):
        for index, run in enumerate(runs):
            expected = slow_squares(module_twin(run, arrays, index), x, targets, dataset.task)
            found = rows(epoch, "gradients", index)
            assert list(found) == [("1",), ("2",), ("3",)]
            for layer, (square, weighted) in enumerate(expected, start=1):
                wanted = {"gradient_square": square, "weighted_square": weighted}
                if layer == 1:
                    wanted |= {"ratio": square / expected[1][0], "weighted_ratio": weighted / expected[1][1]}
                assert found[str(layer),] == pytest.approx(wanted, rel=1e-9), (run.id, layer)


def ratios_at_the_start(activation, width, probe, weights, norm="standardize", n_classes=10, seeds=4):
    """(ratio, weighted_ratio) [seed] of layers 1 and 2 of three, Gaussian inputs, all widths equal."""
    spec = make_spec(
        f"data: digits\nmodel: {{hidden: [{width}, {width}, {width}], norm: {norm}, activation: {activation}, "
        f"weight_init: {weights}}}\ntrain: {{epochs: 0, batch_size: 8}}\n"
        f"seeds: {seeds}\nprobe: {probe}\nmeasure: [gradients]"
    )
    dataset = make_dataset(n_train=probe, n_inputs=width, n_classes=n_classes)
    runs = runs_of(spec, dataset)
    epoch = train_runs(spec, dataset, runs)[0]
    found = [rows(epoch, "gradients", index) for index in range(len(runs))]
    for layers in found:
        assert "ratio" not in layers["3",]
        assert "ratio" not in layers["4",]
    return [[np.array([f[layer,][name] for f in found]) for name in ("ratio", "weighted_ratio")] for layer in "12"]


@pytest.mark.parametrize("weights", ["he", "linear", "gaussian, weight_sd: 0.3"])
def test_relu_gradients_grow_by_pi_over_pi_minus_one(weights):
    """weighted_ratio in both layers; ratio in the second, while in the first it is w²·½/(w²·1)."""
    growth = np.pi / (np.pi - 1)
    (raw1, weighted1), (raw2, weighted2) = ratios_at_the_start("relu", 384, 128, weights)
    assert weighted1.mean() == pytest.approx(growth, abs=0.05)
    assert weighted2.mean() == pytest.approx(growth, abs=0.05)
    assert raw2.mean() == pytest.approx(growth, abs=0.06)
    assert raw1.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("probe", [128, 16])
def test_linear_gradients_grow_by_the_batch_alone(probe):
    (_, weighted1), (raw2, weighted2) = ratios_at_the_start("linear", 384, probe, "he", seeds=12)
    growth = (probe - 2) / (probe - 3)
    for found in (weighted1, weighted2, raw2):
        assert found.mean() == pytest.approx(growth, abs=4 * found.std() / len(found) ** 0.5)
        assert abs(found.mean() - growth) < 0.06


def test_longer_weights_before_a_norm_change_the_raw_square_alone():
    _, dataset, runs = study("[gradients]", "[standardize]", model="eps: 0", seeds=1)
    structure = runs[0].structure
    x, targets = (torch.from_numpy(array)[None] for array in probe_of(dataset, 21))
    found = []
    for scale in (1, 3):
        parameters = initialize(structure, runs, torch.float64)
        parameters["weight2"] *= scale
        gradients = preactivation_gradients(parameters, Batch(x, targets), structure)
        taps = forward(parameters, x, structure, with_taps=True).taps
        squares = [layer_squares(t["preactivation"], g) for t, g in zip(taps, gradients, strict=True)]
        found.append(torch.tensor(squares, dtype=torch.float64))
    expected = found[0] / torch.tensor([[1, 1], [9, 1], [1, 1]])
    assert (found[1] / expected - 1).abs().max() < 1e-11


def test_without_a_norm_he_weights_keep_the_gradient():
    (raw1, _), (raw2, _) = ratios_at_the_start("relu", 384, 128, "he", norm="none")
    assert raw1.mean() == pytest.approx(1, abs=0.1)
    assert raw2.mean() == pytest.approx(1, abs=0.1)


def test_training_is_untouched():
    check_training_is_untouched("[gradients]")


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize(("placement", "probe"), [("pre", 21), ("post", 24)])
def test_alone_equals_stacked(activation, placement, probe):
    check_alone_equals_stacked("[gradients]", activation, placement=placement, probe=probe)


def test_cadence():
    check_cadence("gradients", "gradients")


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("[gradients]")
