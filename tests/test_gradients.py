"""The hand-written derivative against autograd."""

from __future__ import annotations

import pytest
import torch
from tools import make_dataset, make_spec, runs_of

from bnexp.gradients import loss_and_gradients
from bnexp.network import initialize, loss_and_gradients_by_autograd

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
        ours = loss_and_gradients(parameters, x, targets, structure)
        twin = loss_and_gradients_by_autograd(parameters, x, targets, structure)
        assert torch.equal(ours.loss, twin.loss)
        assert torch.equal(ours.logits, twin.logits)
        assert list(ours.gradients) == list(parameters)
        largest = max(gradient.abs().max() for gradient in twin.gradients.values())
        for name, gradient in twin.gradients.items():
            assert (ours.gradients[name] - gradient).abs().max() <= 1e-11 * largest, name
