"""The compiled loops against the formulas written out: float64, and where it matters float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tools import make_dataset, make_spec, outcome_of_each, runs_of

from bnexp import kernels, network
from bnexp.batches import Rows
from bnexp.cpu_step import CpuStep
from bnexp.descent import Descent
from bnexp.gradients import loss_and_gradients
from bnexp.measures.activations import unit_statistics, unit_statistics_by_torch
from bnexp.measures.parameters import row_sums, row_sums_by_torch
from bnexp.norms import update_running
from bnexp.optimizers import make_knobs, make_optimizer

pytestmark = pytest.mark.skipif(not kernels.AVAILABLE, reason="no Numba for this Python")

NORM_GROUPS = ["[none, affine]", "[standardize, full, gamma, beta]", "[center]", "[scale]", "[none]"]
TEXT = """
data: digits
model: {{hidden: {hidden}, norm: {norms}, activation: {activation}, placement: {placement}, ghost_size: {ghosts},
         eps: 1e-2, gamma_init: 1.2, beta_init: -0.1}}
train: {{batch_size: 12, lr: [0.1, 0.3], {train}}}
seeds: 2
"""


def parts(norms="[full]", activation="tanh", placement="pre", ghosts=0, train="", hidden="[7, 6, 5]", n_classes=3):
    text = TEXT.format(
        norms=norms, activation=activation, placement=placement, ghosts=ghosts, train=train, hidden=hidden
    )
    dataset, spec = make_dataset(n_classes=n_classes), make_spec(text)
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    parameters = network.initialize(structure, runs, "float64")
    knobs = make_knobs(structure, runs, "float64", "cpu")
    return runs, structure, Rows(structure, runs, dataset, "float64", "cpu"), parameters, knobs


CASES = [
    (norms, activation, placement, 0, n_classes)
    for norms in NORM_GROUPS
    for activation in ("sigmoid", "tanh", "relu", "linear")
    for placement in ("pre", "post")
    for n_classes in (3, 1)
]
CASES += [("[standardize, full]", "tanh", placement, 4, 3) for placement in ("pre", "post")]
CASES += [("[scale]", "sigmoid", "pre", 6, 1)]


@pytest.mark.parametrize(("norms", "activation", "placement", "ghosts", "n_classes"), CASES)
def test_a_step_in_place_equals_the_twin(norms, activation, placement, ghosts, n_classes):
    _, structure, rows, parameters, _ = parts(norms, activation, placement, ghosts, n_classes=n_classes)
    step = CpuStep(parameters, structure, 12)
    for _, batch in zip(range(3), rows.minibatches(1), strict=False):
        ours, twin = step(batch), loss_and_gradients(parameters, batch, structure)
        np.testing.assert_allclose(ours.loss, twin.loss, rtol=1e-12)
        assert (ours.correct is None) == (n_classes == 1)
        assert n_classes == 1 or np.array_equal(ours.correct, twin.correct)
        assert list(ours.gradients) == list(twin.gradients)
        for name, gradient in twin.gradients.items():
            largest = max(abs(array).max() for array in twin.gradients.values())
            np.testing.assert_allclose(ours.gradients[name], gradient, rtol=1e-10, atol=1e-13 * largest, err_msg=name)
        for mine, theirs in zip(ours.statistics, twin.statistics, strict=True):
            np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-11, atol=1e-14)
            np.testing.assert_allclose(mine.variance, theirs.variance, rtol=1e-11, atol=1e-14)


TRAIN = [
    "",
    "momentum: [0, 0.9]",
    "momentum: 0.8, nesterov: true, weight_decay: [0, 0.02]",
    "norm_decay: 0.1",
    "only: random",
]


@pytest.mark.parametrize(("norms", "activation", "placement", "ghosts", "n_classes"), CASES[::3])
@pytest.mark.parametrize("train", TRAIN)
def test_descent_equals_a_step_after_the_other(norms, activation, placement, ghosts, n_classes, train):
    if train in ("norm_decay: 0.1", "only: random"):
        norms = "[full, gamma]"
    made = [parts(norms, activation, placement, ghosts, train, n_classes=n_classes) for _ in range(2)]
    (runs, structure, rows, parameters, knobs), (_, _, _, twin, _) = made
    optimizer, keep = make_optimizer(structure), np.linspace(0.05, 0.2, len(runs))
    rates = np.array([run.setting.train.lr for run in runs])
    state, running = optimizer.init(parameters), network.initial_running(structure, len(runs), "float64")
    descent = Descent(parameters, state, running, structure, knobs, keep)
    pieces = [descent(rows, rows.groups(1), *ends, rates) for ends in ((0, 2), (2, 5))]

    twin_state, twin_running = optimizer.init(twin), network.initial_running(structure, len(runs), "float64")
    losses, correct = [], []
    for _, batch in zip(range(5), rows.minibatches(1), strict=False):
        step = loss_and_gradients(twin, batch, structure)
        optimizer.update(twin, step.gradients, twin_state, knobs, rates)
        for old, new in zip(twin_running, step.statistics, strict=True):
            update_running(old, new, keep, structure.ghost_size or 12)
        losses.append(step.loss)
        correct.append(step.correct)
    np.testing.assert_allclose(np.concatenate([found for found, _ in pieces], 1), np.stack(losses, 1), rtol=1e-9)
    if n_classes > 1:
        assert np.array_equal(np.concatenate([found for _, found in pieces], 1), np.stack(correct, 1))
    for name, array in twin.items():
        np.testing.assert_allclose(parameters[name], array, rtol=1e-8, atol=1e-11, err_msg=name)
        used = knobs.momentum > 0  # without momentum the twin keeps the last gradient as a velocity that nobody reads
        np.testing.assert_allclose(state[name][used], twin_state[name][used], rtol=1e-8, atol=1e-11, err_msg=name)
    for ours, theirs in zip(running, twin_running, strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.variance, theirs.variance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("noise", [0, 0.3])
def test_descent_shares_rows_between_runs_of_a_seed_and_not_where_seeds_are_uneven(noise):
    text = f"data: {{name: digits, label_noise: {noise}}}\nmodel: {{norm: [standardize, full], hidden: [6, 5]}}\n"
    spec, dataset = make_spec(text + "train: {batch_size: 12}\nseeds: 3"), make_dataset()
    runs = runs_of(spec, dataset)
    alone = {run.id: outcome_of_each(spec, dataset, [run])[run.id] for run in runs}
    for stack in (runs, runs[1:], runs[::2], runs[::-1]):
        assert outcome_of_each(spec, dataset, stack) == {run.id: alone[run.id] for run in stack}


@pytest.mark.parametrize("where", ["weight1", "bias4"])
def test_descent_stops_a_run_whose_loss_is_no_number(where):
    runs, structure, rows, parameters, knobs = parts("[standardize, full]")
    optimizer = make_optimizer(structure)
    parameters[where][2] = np.nan
    running = network.initial_running(structure, len(runs), "float64")
    descent = Descent(parameters, optimizer.init(parameters), running, structure, knobs, np.full(len(runs), 0.1))
    descent(rows, rows.groups(1), 0, 2, np.full(len(runs), 0.1))
    broken = [bool(np.isnan(parameters["bias4"][run]).all()) for run in range(len(runs))]
    assert broken == [run == 2 for run in range(len(runs))]


def test_exp_and_tanh_are_exact_to_float32():
    x = np.concatenate([np.linspace(-90, 40, 200_001), np.geomspace(1e-30, 1, 10_001)]).astype(np.float32)
    wide = x.astype(np.float64)
    found = np.empty_like(x)
    kernels.activate(x, found, kernels.SIGMOID)
    expected = 1 / (1 + np.exp(-wide))
    there = expected > 1e-37  # below lie the numbers that float32 holds with fewer digits
    assert abs(found[there] / expected[there] - 1).max() < 4e-7
    assert found[~there].max() < 2e-37
    x = np.concatenate([x, -x])
    found = np.empty_like(x)
    kernels.activate(x, found, kernels.TANH)
    assert abs(found - np.tanh(x.astype(np.float64)))[x != 0].max() < 3e-7
    small = abs(x) > 1e-30
    assert abs(found[small] / np.tanh(x[small].astype(np.float64)) - 1).max() < 6e-7


def test_activations_of_what_is_no_number():
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    expected = {kernels.SIGMOID: [np.nan, 1, 0], kernels.TANH: [np.nan, 1, -1], kernels.RELU: [np.nan, np.inf, 0]}
    for kind, values in expected.items():
        found = np.empty_like(x)
        kernels.activate(x, found, kind)
        np.testing.assert_allclose(found, values, rtol=3e-7, atol=1e-37)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", None])
def test_unit_statistics_equal_the_twin(activation, dtype):
    x = np.random.default_rng(0).normal(0, 0.5, (3, 5, 37)).astype(dtype)
    x[0, 0], x[0, 1, 3], x[1, 2, 0], x[2, 4] = 0, np.nan, np.inf, -0.7
    x = x.clip(0) if activation == "relu" else x
    twin = unit_statistics_by_torch(torch.from_numpy(x), activation)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(unit_statistics(x, activation), twin, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_row_sums_equal_the_twin(dtype):
    arrays = [np.random.default_rng(seed).normal(size=(3, 5, 11)).astype(dtype) for seed in range(3)]
    np.testing.assert_allclose(row_sums(*arrays), row_sums_by_torch(*arrays), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full]", "[scale]"])
def test_without_numba_numbers_are_the_same_but_for_rounding(norms, monkeypatch):
    spec = make_spec(
        f"data: digits\nmodel: {{norm: {norms}, hidden: [6, 5]}}\ntrain: {{epochs: 2, batch_size: 12}}\nseeds: 2"
    )
    dataset = make_dataset()
    runs = runs_of(spec, dataset)
    with_loops = outcome_of_each(spec, dataset, runs)
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    without = outcome_of_each(spec, dataset, runs)
    for run in runs:
        for line, other in zip(with_loops[run.id][0], without[run.id][0], strict=True):
            ours, theirs = (numbers(text) for text in (line, other))
            np.testing.assert_allclose(ours, theirs, rtol=1e-2, atol=1e-4)
    alone = outcome_of_each(spec, dataset, [runs[-1]])
    assert alone[runs[-1].id] == without[runs[-1].id]


def numbers(text: str) -> list[float]:
    found = []
    for field in text.replace("\n", ",").split(","):
        try:
            found.append(float(field))
        except ValueError:
            continue
    return found


def test_a_regression_s_loss_does_not_depend_on_where_its_numbers_lie():
    """A loop that sums and stores is compiled twice, and which one runs depends on whether memory may overlap."""
    numbers = np.random.default_rng(0).normal(size=32).astype(np.float32)
    found = set()
    for gap in range(0, 80, 4):
        memory = np.zeros(400, np.float32)
        targets, predictions = memory[:32], memory[64:96][None]
        slope = memory[96 + gap : 128 + gap][None]
        targets[:], predictions[:] = numbers, numbers[::-1]
        found.add(float(kernels.regress(predictions, targets, slope)))
    assert len(found) == 1


def test_all_loops_are_in_one_file():
    """Numba keeps a compiled loop until its own file changes, so a loop must not contain another file's."""
    folder = Path(kernels.__file__).parent
    others = [path.name for path in folder.rglob("*.py") if "@compiled" in path.read_text(encoding="utf-8")]
    assert others == ["kernels.py"]
