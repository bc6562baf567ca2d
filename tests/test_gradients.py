"""The hand-written derivative against autograd."""

from __future__ import annotations

import pytest
import torch
from tools import initialize, make_dataset, make_spec, runs_of

from bnexp.arrays import as_tensors
from bnexp.batches import Rows
from bnexp.gradients import loss_and_gradients, preactivation_gradients
from bnexp.network import Batch, loss_and_gradients_by_autograd, losses

NORM_GROUPS = ["[none, affine]", "[standardize, full, gamma, beta]", "[center]", "[scale]", "[none]", "[standardize]"]


@pytest.mark.parametrize("n_classes", [3, 1])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "linear"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norms", NORM_GROUPS)
def test_by_hand_equals_autograd(norms, placement, activation, n_classes):
    dataset = make_dataset(n_classes=n_classes)
    shape = f"hidden: [7, 6, 5], activation: {activation}, norm: {norms}, placement: {placement}, eps: 1e-2"
    spec = make_spec(f"data: digits\nmodel: {{{shape}, gamma_init: 1.3, beta_init: -0.2}}\nseeds: 2")
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = initialize(structure, runs, torch.float64)
    for n in (12, 13, 2):
        x = torch.from_numpy(dataset.train.features[:n]).double().T.expand(len(runs), -1, -1)
        targets = torch.from_numpy(dataset.train.targets[:n])
        targets = (targets if n_classes > 1 else targets.double()).expand(len(runs), -1)
        assert_equals_autograd(parameters, Batch(x, targets), structure)


def assert_equals_autograd(parameters, batch, structure):
    ours = loss_and_gradients(parameters, batch, structure)
    twin = loss_and_gradients_by_autograd(parameters, batch, structure)
    torch.testing.assert_close(ours.loss, twin.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.logits, twin.logits, rtol=1e-12, atol=1e-12)
    assert list(ours.gradients) == list(parameters)
    largest = max(gradient.abs().max() for gradient in twin.gradients.values())
    for name, gradient in twin.gradients.items():
        assert (ours.gradients[name] - gradient).abs().max() <= 1e-11 * largest, name


@pytest.mark.parametrize(("ghost_size", "noise"), [(4, "none"), (0, "santurkar"), (6, "santurkar")])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norms", NORM_GROUPS)
def test_by_hand_equals_autograd_with_ghosts_and_noise(norms, placement, ghost_size, noise):
    dataset = make_dataset()
    spec = make_spec(
        f"data: digits\nmodel: {{hidden: [7, 6], activation: tanh, norm: {norms}, placement: {placement}, eps: 1e-2,"
        f" noise: {noise}, ghost_size: {ghost_size}}}\ntrain: {{batch_size: 12}}\nseeds: 2"
    )
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = initialize(structure, runs, torch.float64)
    rows = Rows(structure, runs, dataset, "float64", "cpu")
    batch = next(iter(rows.minibatches(1)))
    assert batch.ghost_size == (ghost_size if structure.normalizes else 0)
    assert bool(batch.noise) == (noise == "santurkar")
    assert_equals_autograd(parameters, batch, structure)


def test_gradients_of_preactivations_equal_autograd():
    dataset = make_dataset()
    spec = make_spec("data: digits\nmodel: {hidden: [7, 6], norm: full, placement: post}\nseeds: 2")
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = initialize(structure, runs, torch.float64)
    rows = Rows(structure, runs, dataset, "float64", "cpu")
    batch = as_tensors(next(iter(rows.minibatches(1))))
    for layer, found in enumerate(preactivation_gradients(parameters, batch, structure), start=1):
        # An offset for every sample stands for the preactivation itself.
        if layer < structure.n_layers:
            offset = torch.zeros_like(found, requires_grad=True)
            x = batch.x  # one group per seed, here per run
            for place in range(1, structure.n_layers):
                a = parameters[f"weight{place}"] @ x + parameters[f"bias{place}"][:, :, None]
                a = torch.sigmoid(a + offset if place == layer else a)
                variance, mean = torch.var_mean(a, -1, correction=0, keepdim=True)
                x = (a - mean) / (variance + structure.eps).sqrt() * parameters[f"gamma{place}"][:, :, None]
                x = x + parameters[f"beta{place}"][:, :, None]
            logits = parameters[f"weight{structure.n_layers}"] @ x + parameters[f"bias{structure.n_layers}"][:, :, None]
            loss = losses(logits, batch.targets, structure).mean(-1).sum()
            (expected,) = torch.autograd.grad(loss, offset)
            assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
