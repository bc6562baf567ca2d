"""Stacked training against a Python loop over ordinary torch modules, one run at a time, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tools import initialize, make_dataset, make_spec, runs_of, train_runs

from bnexp.gradients import loss_and_gradients
from bnexp.network import Batch, forward
from bnexp.norms import NORMS, Statistics, normalize_by_statistics
from bnexp.rng import stream

MODULES = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "linear": torch.nn.Identity}
OPTIMIZERS = {
    "sgd": "optimizer: sgd",
    "nesterov": "momentum: 0.9, nesterov: true, weight_decay: 0.01, norm_decay: 0.02",
    "momentum-step": "momentum: 0.5, schedule: step, step_every: 2, step_factor: 0.5",
    "adam": "optimizer: adam, weight_decay: 0.01, norm_decay: 0.02, adam_eps: 1e-6, schedule: cosine",
}
SPEC = """
data: digits
model: {{hidden: [8, 5], activation: {activation}, norm: {norms}, placement: {placement}, eps: 1e-3,
        statistics_momentum: 0.3}}
train: {{epochs: 5, batch_size: 9, lr: 0.1, {optimizer}}}
seeds: 2
measure: []
"""
STEPS = 50  # five epochs of ten steps


class Affine(torch.nn.Module):
    """γ·a + β, which torch.nn has only inside BatchNorm1d."""

    def __init__(self, gamma, beta):
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(gamma), torch.nn.Parameter(beta)

    def forward(self, a):
        return self.weight * a + self.bias


def twin_of(run, parameters, index):
    """torch.nn modules of one run, started from the stacked parameters."""
    layers, model, switches = [], run.setting.model, run.switches
    structure = run.structure
    for layer, (n_in, n_out) in enumerate(zip(structure.widths, structure.widths[1:], strict=False), start=1):
        linear = torch.nn.Linear(n_in, n_out, bias=structure.has_bias(layer), dtype=torch.float64)
        linear.weight.data.copy_(parameters[f"weight{layer}"][index])
        if linear.bias is not None:
            linear.bias.data.copy_(parameters[f"bias{layer}"][index])
        layers.append(linear)
        if layer == structure.n_layers:
            break
        tail = [MODULES[model.activation]()]
        if switches.center and switches.scale:
            norm = torch.nn.BatchNorm1d(
                n_out, model.eps, model.statistics_momentum, affine=switches.gamma or switches.beta, dtype=torch.float64
            )
            if norm.affine:
                norm.weight.requires_grad_(switches.gamma)
                norm.bias.requires_grad_(switches.beta)
            tail.insert(0 if model.placement == "pre" else 1, norm)
        elif switches.gamma:
            affine = Affine(torch.ones(n_out, dtype=torch.float64), torch.zeros(n_out, dtype=torch.float64))
            tail.insert(0 if model.placement == "pre" else 1, affine)
        layers += tail
    return torch.nn.Sequential(*layers)


def optimizer_of(twin, setting):
    train = setting.train
    weights = [m.weight for m in twin if isinstance(m, torch.nn.Linear)]
    biases = [m.bias for m in twin if isinstance(m, torch.nn.Linear) and m.bias is not None]
    norms = [p for m in twin if isinstance(m, torch.nn.BatchNorm1d | Affine) for p in m.parameters() if p.requires_grad]
    groups = [{"params": weights, "weight_decay": train.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    if norms:
        groups.append({"params": norms, "weight_decay": train.norm_decay})
    if train.optimizer == "adam":
        return torch.optim.Adam(groups, lr=train.lr, betas=train.adam_betas, eps=train.adam_eps)
    return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov)


def scheduler_of(optimizer, setting):
    train = setting.train
    if train.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, train.step_every, train.step_factor)
    if train.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, train.epochs)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def train_twin(run, dataset, parameters, index):
    """The loop that a user would write."""
    twin = twin_of(run, parameters, index)
    optimizer = optimizer_of(twin, run.setting)
    scheduler = scheduler_of(optimizer, run.setting)
    x, t = torch.from_numpy(dataset.train.features).double(), torch.from_numpy(dataset.train.targets)
    steps, losses = 0, []
    for epoch in range(1, run.setting.train.epochs + 1):
        order = stream(run.seed, "order", epoch).permutation(len(x))
        size = run.structure.batch_size
        for start in range(0, len(x) - size + 1, size):
            rows = order[start : start + size]
            out = twin(x[rows])
            if dataset.task == "classification":
                loss = torch.nn.functional.cross_entropy(out, t[rows])
            else:
                loss = torch.nn.functional.mse_loss(out[:, 0], t[rows].double())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            steps += 1
        scheduler.step()
    assert steps == STEPS
    return twin, losses


def assert_close(ours, theirs, what, scale=None):
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs).detach()
    bound = 1e-10 * (theirs.abs().max() if scale is None else scale)
    assert (ours - theirs).abs().max() <= bound, what


def outputs_by_running_statistics(arrays, features, structure):
    """What the stacked network gives on rows, from the arrays that training left."""
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "test_correct"}
    layers = range(1, structure.n_layers) if structure.normalizes else ()
    running = [Statistics(tensors[f"running_mean{i}"], tensors[f"running_variance{i}"]) for i in layers]
    x = torch.from_numpy(features).double().T.expand(len(tensors["weight1"]), -1, -1)
    return forward(tensors, x, structure, running).logits


# The loss does not meet the optimizer: for the squared error (one output) one optimizer is enough.
@pytest.mark.parametrize(("optimizer", "n_classes"), [*((name, 3) for name in OPTIMIZERS), ("sgd", 1)])
@pytest.mark.parametrize("activation", MODULES)
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]"])
def test_fifty_steps_equal_the_twin(norms, placement, activation, optimizer, n_classes):
    dataset = make_dataset(n_train=95, n_classes=n_classes)
    text = SPEC.format(norms=norms, placement=placement, activation=activation, optimizer=OPTIMIZERS[optimizer])
    # With a linear activation the next norm's centring cancels β: its gradient is rounding alone, which Adam blows up.
    spec = make_spec(text, *(["train.adam_eps=1e-3"] if activation == "linear" else []))
    runs = runs_of(spec, dataset)
    initial = initialize(runs[0].structure, runs, torch.float64)
    epochs = train_runs(spec, dataset, runs, torch.float64)
    arrays = epochs[-1].arrays()
    curves = next(r for r in epochs[-1].records if r.table == "curves")
    evaluated = outputs_by_running_statistics(arrays, dataset.test.features, runs[0].structure)
    for index, run in enumerate(runs):
        twin, losses = train_twin(run, dataset, initial, index)
        linears = [m for m in twin if isinstance(m, torch.nn.Linear)]
        norms_ = [m for m in twin if isinstance(m, torch.nn.BatchNorm1d | Affine)]
        for layer, linear in enumerate(linears, start=1):
            assert_close(arrays[f"weight{layer}"][index], linear.weight, f"{run.id} weight{layer}")
            if linear.bias is not None:
                scale = max(linear.bias.abs().max().item(), linear.weight.abs().max().item())
                assert_close(arrays[f"bias{layer}"][index], linear.bias, f"{run.id} bias{layer}", scale)
        for layer, norm in enumerate(norms_, start=1):
            if norm.weight is not None:
                assert_close(arrays[f"gamma{layer}"][index], norm.weight, f"{run.id} gamma{layer}")
                scale = max(norm.bias.abs().max().item(), norm.weight.abs().max().item())
                assert_close(arrays[f"beta{layer}"][index], norm.bias, f"{run.id} beta{layer}", scale)
            if isinstance(norm, torch.nn.BatchNorm1d):
                sd = norm.running_var.sqrt().min()
                assert_close(arrays[f"running_mean{layer}"][index], norm.running_mean, f"{run.id} mean", sd)
                assert_close(arrays[f"running_variance{layer}"][index], norm.running_var, f"{run.id} variance")
        twin.eval()
        out = twin(torch.from_numpy(dataset.test.features).double())
        assert_close(evaluated[index].T, out, f"{run.id} eval outputs")
        if n_classes > 1:
            expected = torch.nn.functional.cross_entropy(out, torch.from_numpy(dataset.test.targets))
        else:
            expected = torch.nn.functional.mse_loss(out[:, 0], torch.from_numpy(dataset.test.targets).double())
        named = dict(zip(curves.columns, curves.values[index].tolist(), strict=True))
        assert named["test_loss"] == pytest.approx(expected.item(), rel=1e-10)
        assert named["train_loss"] == pytest.approx(np.mean(losses[-10:]), rel=1e-10)


def by_formula(a, c, s, gamma, beta, mean, variance, eps):
    """The contract's formula, written out in NumPy."""
    factor = s / np.sqrt(variance + eps) + 1 - s
    return gamma[:, None] * (a - c * mean[:, None]) * factor[:, None] + beta[:, None]


def numpy_network(parameters, x, model, n_layers, statistics=None):
    """One run, one batch: x [in, sample] → logits, each layer's norm by the formula above."""
    g = {"sigmoid": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}[
        model.activation
    ]
    c, s, _, _ = (int(switch) for switch in NORMS[model.norm])
    for layer in range(1, n_layers):
        bias = parameters.get(f"bias{layer}", np.zeros(1))
        x = parameters[f"weight{layer}"] @ x + bias[:, None]
        x = g(x) if model.placement == "post" else x
        mean, variance = (x.mean(1), x.var(1)) if statistics is None else statistics[layer - 1]
        ones = np.ones(len(x))
        gamma, beta = parameters.get(f"gamma{layer}", ones), parameters.get(f"beta{layer}", 0 * ones)
        x = by_formula(x, c, s, gamma, beta, mean, variance, model.eps)
        x = g(x) if model.placement == "pre" else x
    return parameters[f"weight{n_layers}"] @ x + parameters[f"bias{n_layers}"][:, None]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_equals_its_formula_in_numpy(norm, placement, activation):
    dataset = make_dataset()
    spec = make_spec(
        f"data: digits\nmodel: {{hidden: [7, 4], norm: {norm}, placement: {placement}, activation: {activation},"
        " gamma_init: 1.7, beta_init: -0.3, eps: 1e-2}\nseeds: 2"
    )
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = initialize(structure, runs, torch.float64)
    x = np.random.default_rng(1).normal(size=(2, 6, 13))
    given = [
        (
            np.random.default_rng(layer).normal(size=(2, width)),
            np.random.default_rng(9 + layer).uniform(1, 2, (2, width)),
        )
        for layer, width in enumerate((7, 4))
    ]
    statistics = [Statistics(torch.from_numpy(mean), torch.from_numpy(variance)) for mean, variance in given]
    by_batch = forward(parameters, torch.from_numpy(x), structure).logits
    by_given = forward(parameters, torch.from_numpy(x), structure, statistics).logits
    for index in range(2):
        own = {name: tensor[index].numpy() for name, tensor in parameters.items()}
        expected = numpy_network(own, x[index], runs[0].setting.model, structure.n_layers)
        assert_close(by_batch[index], expected, f"{norm} by the batch")
        own_given = [(mean[index], variance[index]) for mean, variance in given]
        expected = numpy_network(own, x[index], runs[0].setting.model, structure.n_layers, own_given)
        assert_close(by_given[index], expected, f"{norm} by given statistics")


@pytest.mark.parametrize("norm", ["center", "scale", "affine", "full"])
def test_gradients_equal_finite_differences_of_the_numpy_formula(norm):
    dataset = make_dataset()
    spec = make_spec(f"data: digits\nmodel: {{hidden: [5, 4], norm: {norm}, activation: tanh, eps: 1e-2}}\nseeds: 1")
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = initialize(structure, runs, torch.float64)
    x = np.random.default_rng(1).normal(size=(6, 12))
    targets = np.random.default_rng(2).integers(0, 3, 12)
    found = loss_and_gradients(parameters, Batch(torch.from_numpy(x)[None], torch.from_numpy(targets)[None]), structure)

    def loss(own):
        logits = numpy_network(own, x, runs[0].setting.model, structure.n_layers)
        return np.mean(np.log(np.exp(logits).sum(0)) - logits[targets, np.arange(12)])

    own = {name: tensor[0].numpy().copy() for name, tensor in parameters.items()}
    step = 1e-5
    for name, array in own.items():
        for place in np.ndindex(array.shape):
            kept = array[place]
            array[place] = kept + step
            above = loss(own)
            array[place] = kept - step
            below = loss(own)
            array[place] = kept
            assert found.gradients[name][0][place].item() == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_running_statistics_of_the_other_norms_follow_torch():
    a = torch.randn(3, 5, 11, dtype=torch.float64)
    given = Statistics(a.mean(-1), a.var(-1, correction=0))
    centered = normalize_by_statistics(a, given, center=True, scale=False, eps=0.1)
    assert_close(centered, a - a.mean(-1, keepdim=True), "center")
    scaled = normalize_by_statistics(a, given, center=False, scale=True, eps=0.1)
    assert_close(scaled, a / (a.var(-1, correction=0, keepdim=True) + 0.1).sqrt(), "scale")
