"""A run alone and the same run among any neighbours: the same bits, in float32 on the CPU."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch
from tools import make_dataset, make_spec, outcome_of_each, runs_of, stack_of

import bnexp.network
import bnexp.training

SPEC = """
data: digits
model: {{hidden: {hidden}, activation: {activation}, norm: {norms}, placement: {placement}}}
train: {{epochs: 1, batch_size: {batch_size}, lr: [0.1, 0.7, 3], optimizer: {optimizer}, last_batch: keep}}
seeds: 34
probe: {probe}
"""

CASES = [
    (batch_size, probe, optimizer, activation)
    for batch_size, probe, optimizer in ((32, 24, "sgd"), (7, 21, "adam"), (30, 98, "sgd"))
    for activation in ("sigmoid", "tanh", "relu", "linear")
    if not (batch_size == 30 and activation in ("tanh", "linear"))
]


def study(norms="[none]", activation="relu", placement="pre", batch_size=32, optimizer="sgd", n_classes=3, probe=24):
    hidden = "[9, 6]" if batch_size % 4 else "[7, 5]"
    spec = make_spec(
        SPEC.format(
            norms=norms,
            activation=activation,
            placement=placement,
            batch_size=batch_size,
            optimizer=optimizer,
            hidden=hidden,
            probe=probe,
        )
    )
    dataset = make_dataset(n_train=98, n_inputs=5, n_classes=n_classes)
    return spec, dataset, runs_of(spec, dataset)


@pytest.mark.parametrize(("batch_size", "probe", "optimizer", "activation"), CASES)
@pytest.mark.parametrize("norms", ["[none]", "[standardize]", "[center]", "[scale]", "[full, gamma, beta]", "[affine]"])
def test_every_run_of_every_stack_equals_itself_alone(norms, activation, batch_size, probe, optimizer, counts):
    spec, dataset, runs = study(norms, activation, batch_size=batch_size, probe=probe, optimizer=optimizer)
    chosen = runs[:100]
    alone = {}
    for run in chosen:
        alone |= outcome_of_each(spec, dataset, [run])
    mixed = random.Random(0).sample(chosen, len(chosen))
    for size in (2, 3, 8, 30, 100):
        for stack in (chosen[:size], chosen[-size:], mixed[:size]):
            together = outcome_of_each(spec, dataset, stack)
            wrong = [run_id for run_id, found in together.items() if found != alone[run_id]]
            assert not wrong, f"stack of {size}"
            counts.update(stacks=1, runs=len(stack))


@pytest.fixture(scope="module")
def counts():
    return Counter()


def test_how_many_stacks_that_were(counts, counted):
    counted(f"stacks against single runs: {counts['stacks']} stacks of {counts['runs']} runs, all bits equal")


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("n_classes", [1, 3])
def test_neighbours_with_and_without_affine_do_not_matter(placement, n_classes):
    spec, dataset, runs = study("[standardize, full]", "tanh", placement, n_classes=n_classes)
    together = outcome_of_each(spec, dataset, runs[:12])
    plain = [run for run in runs[:12] if run.setting.model.norm == "standardize"]
    assert outcome_of_each(spec, dataset, plain) == {run.id: together[run.id] for run in plain}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full]", "[center]"])
def test_regressions_too(norms, activation):
    """Their R² and losses are compared in full, by the outcomes."""
    spec, dataset, runs = study(norms, activation, n_classes=1, batch_size=30, probe=98)
    alone = {}
    for run in runs[:12]:
        alone |= outcome_of_each(spec, dataset, [run])
    for stack in (runs[:12], runs[3:8], runs[11:0:-1]):
        assert outcome_of_each(spec, dataset, stack) == {run.id: alone[run.id] for run in stack}


def sigmoid_by_place(a, out=None):
    found = bnexp.network.sigmoid(a, out)
    found += 1e-6 * np.arange(len(found), dtype=found.dtype)[:, None, None]
    return found


def raw_sigmoid(a, out=None):
    """Torch's own: the vectors of its loop and what is left over at the end are rounded differently."""
    found = torch.sigmoid(torch.from_numpy(np.ascontiguousarray(a))).numpy()
    return found if out is None else np.copyto(out, found) or out


@pytest.mark.parametrize("mutant", [sigmoid_by_place, raw_sigmoid])
def test_the_test_can_fail(monkeypatch, mutant):
    """With a sigmoid that looks at a run's place in the stack, openly or by its place in memory."""
    monkeypatch.setitem(bnexp.network.ACTIVATIONS, "sigmoid", mutant)
    differs = False
    for batch_size in (7, 30, 32):
        spec, dataset, runs = study("[none]", "sigmoid", batch_size=batch_size)
        alone = {}
        for run in runs[:8]:
            alone |= outcome_of_each(spec, dataset, [run])
        differs |= outcome_of_each(spec, dataset, runs[:8]) != alone
    assert differs


def test_the_start_up_probe_sees_it(monkeypatch):
    for activation, expected in ((bnexp.network.sigmoid, True), (sigmoid_by_place, False)):
        monkeypatch.setitem(bnexp.network.ACTIVATIONS, "sigmoid", activation)
        _, dataset, runs = study("[none]", "sigmoid", batch_size=7)
        difference = bnexp.training.stacking_difference(stack_of(runs[:3]), dataset, "cpu")
        assert (difference == 0) == expected
        assert expected or 1e-9 < difference < 1e-4


@pytest.mark.parametrize("slot", [0, 4, 8])
@pytest.mark.parametrize("norms", ["[none]", "[full]"])
def test_quarantine_of_a_run_that_explodes(slot, norms):
    spec, dataset, runs = study(norms)
    calm = [run for run in runs if run.setting.train.lr == 0.1][:8]
    wild_spec = make_spec(
        SPEC.format(
            norms=norms, activation="relu", placement="pre", batch_size=32, optimizer="sgd", hidden="[7, 5]", probe=24
        ),
        "train.lr=1e30",
    )
    wild = runs_of(wild_spec, dataset)[0]
    before = outcome_of_each(spec, dataset, calm)
    together = outcome_of_each(spec, dataset, [*calm[:slot], wild, *calm[slot:]])
    assert "diverged" in together[wild.id][1]
    assert {run.id: together[run.id] for run in calm} == before


@pytest.mark.parametrize("slot", [0, 4, 7])
def test_quarantine_of_an_injected_infinity(slot, monkeypatch):
    spec, dataset, runs = study("[standardize, full]")
    chosen = runs[:8]
    before = outcome_of_each(spec, dataset, chosen)
    honest = bnexp.training.initialize

    def poisoned(structure, runs, dtype):
        parameters = honest(structure, runs, dtype)
        parameters["weight2"][slot, 0, 0] = torch.inf
        return parameters

    monkeypatch.setattr(bnexp.training, "initialize", poisoned)
    after = outcome_of_each(spec, dataset, chosen)
    assert "diverged" in after[chosen[slot].id][1]
    others = [run.id for index, run in enumerate(chosen) if index != slot]
    assert {run_id: after[run_id] for run_id in others} == {run_id: before[run_id] for run_id in others}


def test_none_is_the_same_before_and_after_the_activation():
    found = []
    for placement in ("pre", "post"):
        spec, dataset, runs = study("[none]", "tanh", placement)
        found.append([(text[0][-1], arrays) for text, _, arrays in outcome_of_each(spec, dataset, runs[:6]).values()])
    assert found[0] == found[1]
