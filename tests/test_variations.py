"""Noise after the norm, ghost batches, and training only a part: each against a slow twin and what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_slow_twin import assert_close, twin_of
from tools import initialize, make_dataset, make_spec, outcome_of_each, runs_of, train_runs

from bnexp.batches import Rows
from bnexp.noise import Noise, apply_noise, draw_noise
from bnexp.rng import stream
from bnexp.trained import chosen_weights

TEXT = """
data: digits
model: {{hidden: [8, 5], activation: {activation}, norm: {norms}, placement: {placement}, {model}}}
train: {{epochs: 3, batch_size: 12, lr: 0.2, {train}}}
seeds: 2
measure: []
"""


def study(norms="[standardize, full, gamma]", activation="tanh", placement="pre", model="", train="", n_train=60):
    dataset = make_dataset(n_train=n_train)
    text = TEXT.format(norms=norms, activation=activation, placement=placement, model=model, train=train)
    spec = make_spec(text.replace(", }", "}"))
    return spec, dataset, runs_of(spec, dataset)


class Ghosts(torch.nn.Module):
    """torch's BatchNorm1d on one ghost batch after the other, γ and β shared."""

    def __init__(self, norm, size):
        super().__init__()
        self.norm, self.size = norm, size

    def forward(self, a):
        return torch.cat([self.norm(part) for part in a.split(self.size)]) if self.training else self.norm(a)


class Noisy(torch.nn.Module):
    """Santurkar's noise for every step in turn; constants written out again."""

    def __init__(self, run, layer):
        super().__init__()
        self.run, self.layer, self.step = run, layer, 0

    def forward(self, y):
        if not self.training:
            return y
        self.step += 1
        generator = stream(self.run.seed, "noise", self.step)
        for layer, width in enumerate(self.run.structure.hidden, start=1):
            mean, center = generator.uniform(-0.5, 0.5, width), generator.uniform(1, 1.25, width)
            m = mean[:, None] + generator.uniform(-0.1, 0.1, (width, len(y)))
            s = center[:, None] + 0.1 * generator.standard_normal((width, len(y)))
            if layer == self.layer:
                break
        m, s = torch.from_numpy(m.T), torch.from_numpy(s.T)
        if self.run.switches.scale:
            return s * y + m
        mean, sd = y.detach().mean(0), y.detach().std(0, correction=0)
        return mean + s * (y - mean) + m * sd


def train_twin(run, dataset, twin, epochs=3):
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=run.setting.train.lr)
    x, t = torch.from_numpy(dataset.train.features).double(), torch.from_numpy(dataset.train.targets)
    for epoch in range(1, epochs + 1):
        order = stream(run.seed, "order", epoch).permutation(len(x))
        for start in range(0, len(x), 12):
            rows = order[start : start + 12]
            loss = torch.nn.functional.cross_entropy(twin(x[rows]), t[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def assert_trains_like(spec, dataset, runs, make_twin):
    initial = initialize(runs[0].structure, runs, torch.float64)
    arrays = train_runs(spec, dataset, runs, torch.float64)[-1].arrays()
    for index, run in enumerate(runs):
        twin = make_twin(run, initial, index)
        train_twin(run, dataset, twin)
        modules = list(twin.modules())
        linears = [m for m in modules if isinstance(m, torch.nn.Linear)]
        norms = [m for m in modules if isinstance(m, torch.nn.BatchNorm1d)]
        for layer, linear in enumerate(linears, start=1):
            assert_close(arrays[f"weight{layer}"][index], linear.weight, f"{run.id} weight{layer}")
        for layer, norm in enumerate(norms, start=1):
            assert_close(arrays[f"running_mean{layer}"][index], norm.running_mean, f"{run.id} mean", 1.0)
            assert_close(arrays[f"running_variance{layer}"][index], norm.running_var, f"{run.id} variance")


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_ghosts_are_batch_norm_on_each_part(placement):
    def make_twin(run, initial, index):
        layers = list(twin_of(run, initial, index))
        return torch.nn.Sequential(*(Ghosts(m, 4) if isinstance(m, torch.nn.BatchNorm1d) else m for m in layers))

    assert_trains_like(*study(placement=placement, model="ghost_size: 4"), make_twin)


def test_one_ghost_is_the_batch():
    found = []
    for ghost_size in (0, 12):
        spec, dataset, runs = study(model=f"ghost_size: {ghost_size}")
        found.append(train_runs(spec, dataset, runs)[-1].arrays())
    assert all(np.array_equal(array, found[1][name]) for name, array in found[0].items())


def test_a_norm_without_statistics_has_no_ghosts():
    _, _, runs = study("[none, affine]", model="ghost_size: 4")
    assert {run.structure.ghost_size for run in runs} == {0}


@pytest.mark.parametrize("norms", ["[standardize, full, gamma]", "[none, affine]"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_noise_is_santurkar_s(norms, placement):
    """After the norm: before the activation in pre, after the whole unit in post."""
    spec, dataset, runs = study(norms, placement=placement, model="noise: santurkar")

    def make_twin(run, initial, index):
        found, layer = [], 0
        layers = list(twin_of(run, initial, index))
        for place, module in enumerate(layers):
            follows = layers[place + 1] if place + 1 < len(layers) else None
            found.append(module)
            ends_norm = (
                isinstance(follows, torch.nn.Tanh) if placement == "pre" else isinstance(follows, torch.nn.Linear)
            )
            if ends_norm:
                layer += 1
                found.append(Noisy(run, layer))
        assert layer == 2
        return torch.nn.Sequential(*found)

    assert_trains_like(spec, dataset, runs, make_twin)


def test_noise_is_drawn_by_seed_and_step_and_has_the_paper_s_spread():
    drawn = [draw_noise(3, step, (400, 50), 64) for step in (1, 2, 1)]
    assert all(
        np.array_equal(a, b)
        for first, third in zip(drawn[0], drawn[2], strict=True)
        for a, b in zip(first, third, strict=True)
    )
    assert not np.array_equal(drawn[0][0][0], drawn[1][0][0])
    scale, shift = drawn[0][0]
    assert np.abs(shift).max() <= 0.6
    assert shift.mean(1).std() == pytest.approx(0.5 / 3**0.5, rel=0.1)
    assert (shift - shift.mean(1, keepdims=True)).std() == pytest.approx(0.1 / 3**0.5, rel=0.05)
    assert scale.mean() == pytest.approx(1.125, abs=0.01)
    assert (scale - scale.mean(1, keepdims=True)).std() == pytest.approx(0.1, rel=0.05)


def test_noise_of_a_bare_unit_is_in_units_of_its_sd():
    y = 7 + 3 * torch.randn(1, 2, 5000, dtype=torch.float64)
    noise = Noise(torch.ones_like(y), torch.full_like(y, 0.5))
    moved = (apply_noise(y, noise, in_own_units=False) - y).mean()
    assert moved.item() == pytest.approx(0.5 * y.std(-1, correction=0).mean().item(), rel=1e-6)


def test_evaluation_is_without_noise_and_ghosts():
    dataset = make_dataset(n_train=60)
    spec = make_spec(
        "data: digits\nmodel: {hidden: [8, 5], norm: full, noise: santurkar, ghost_size: 4}\n"
        "train: {epochs: 0, batch_size: 12}\nseeds: 2\nmeasure: [activations]"
    )
    bare = make_spec(
        "data: digits\nmodel: {hidden: [8, 5], norm: full}\ntrain: {epochs: 0, batch_size: 12}\nseeds: 2\n"
        "measure: [activations]"
    )
    found = [train_runs(one, dataset, runs_of(one, dataset))[0] for one in (spec, bare)]
    for ours, theirs in zip(found[0].records, found[1].records, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)


@pytest.mark.parametrize("model", ["noise: santurkar", "ghost_size: 4", "noise: santurkar, ghost_size: 6"])
def test_variations_do_not_break_the_independence_of_stacked_runs(model):
    spec, dataset, runs = study("[standardize, full]", "sigmoid", model=model)
    together = outcome_of_each(spec, dataset, runs)
    for run in runs:
        assert outcome_of_each(spec, dataset, [run])[run.id] == together[run.id]


@pytest.mark.parametrize("only", ["norm", "norm+output", "random", "all"])
@pytest.mark.parametrize("optimizer", ["momentum: 0.5", "optimizer: adam"])
def test_only_what_is_named_moves(only, optimizer):
    spec, dataset, runs = study("[full, beta]", train=f"only: {only}, {optimizer}, weight_decay: 0.1, norm_decay: 0.1")
    before = initialize(runs[0].structure, runs, torch.float32)
    epochs = train_runs(spec, dataset, runs)
    after = epochs[-1].arrays()
    for index, run in enumerate(runs):
        moved = {name: (after[name][index] != tensor[index].numpy()) for name, tensor in before.items()}
        count = sum(int(flags.sum()) for flags in moved.values())
        expected = run.structure.n_parameters(run.switches, only)
        assert epochs[-1].outcomes[index].n_parameters == expected
        assert count == expected
        if only == "norm":
            assert moved["beta1"].all()
            assert moved["gamma2"].all() == run.switches.gamma
        if only == "norm+output":
            assert moved["weight3"].all()
            assert not moved["weight1"].any()
        if only == "random":
            assert not moved["beta1"].any()


def test_random_weights_are_as_many_as_the_norm_has_and_a_function_of_the_seed():
    _, _, runs = study("[full, beta]", train="only: random")
    counts = {run.id: sum(int(part.sum()) for part in chosen_weights(run)) for run in runs}
    assert set(counts.values()) == {2 * 13, 13}
    full = [run for run in runs if run.setting.model.norm == "full"]
    assert not np.array_equal(chosen_weights(full[0])[0], chosen_weights(full[1])[0])
    assert np.array_equal(chosen_weights(full[0])[0], chosen_weights(full[0])[0])


def test_runs_that_train_different_parts_share_a_stack():
    spec, dataset, runs = study("[full]", train="only: [all, norm, norm+output, random]")
    assert len({run.structure for run in runs}) == 1
    together = outcome_of_each(spec, dataset, runs)
    for run in runs:
        assert outcome_of_each(spec, dataset, [run])[run.id] == together[run.id]


def test_noise_draws_are_shared_by_the_runs_of_a_seed():
    _, dataset, runs = study("[standardize, full]", model="noise: santurkar")
    rows = Rows(runs[0].structure, runs, dataset, "float64", "cpu")
    noise = rows.noise(1, 12)[0].scale
    by_seed = {run.seed: noise[index] for index, run in enumerate(runs)}
    assert all(np.array_equal(noise[index], by_seed[run.seed]) for index, run in enumerate(runs))
    assert not np.array_equal(by_seed[0], by_seed[1])
