"""The kernel that trains a run in a program of its own: on a GPU, or where there is none in Triton's interpreter."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import types

import numpy as np
import pytest
import torch
from tools import make_dataset, make_spec, runs_of

import bnexp.device_descent
from bnexp import network
from bnexp.arrays import on_cpu
from bnexp.batches import Rows
from bnexp.device_descent import DeviceDescent, can_descend_on_device, tiles
from bnexp.gradients import loss_and_gradients
from bnexp.norms import Statistics, update_running
from bnexp.optimizers import make_knobs, make_optimizer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and "BNEXP_TRITON" not in os.environ,
    reason="Triton comes with torch for CUDA, or from bnexp[triton]",
)

TEXT = """
data: {{name: digits, label_noise: {noise}}}
model: {{hidden: {hidden}, norm: {norms}, activation: {activation}, placement: {placement}}}
train: {{batch_size: {batch}, lr: [0.1, 0.3], {train}}}
seeds: 2
"""
STEPS = 4
#       norms, train, activation, placement, hidden, classes, batch, label noise
CASES = [
    ("[none, affine]", "", "tanh", "pre", [20, 5], 3, 12, 0),
    ("[standardize, full]", "momentum: 0.9, weight_decay: 0.01", "sigmoid", "pre", [20, 5], 3, 12, 0.2),
    ("[gamma, beta, full]", "momentum: 0.9, nesterov: true, norm_decay: 0.01", "relu", "post", [20, 5], 3, 12, 0),
    ("[center]", "", "linear", "post", [8, 8], 3, 12, 0),
    ("[scale]", "", "tanh", "pre", [8, 8], 1, 12, 0),
    ("[full]", "only: [norm, all]", "sigmoid", "post", [150, 20, 7], 3, 12, 0),
    ("[none]", "", "relu", "pre", [40], 3, 17, 0),
    ("[standardize]", "", "sigmoid", "pre", [5, 5], 40, 16, 0),
]


def as_tensors(value):
    """The same nest on the device, in memory of its own."""
    if isinstance(value, dict):
        return {name: as_tensors(array) for name, array in value.items()}
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()).to(DEVICE)
    return value


class Study:
    """A stack and what its steps need, as arrays."""

    def __init__(self, norms, train, activation, placement, hidden, n_classes, batch, noise, chosen=slice(None)):
        values = {"norms": norms, "train": train, "activation": activation, "placement": placement, "hidden": hidden}
        spec = make_spec(TEXT.format(**values, batch=batch, noise=noise))
        self.dataset = make_dataset(n_classes=n_classes)
        self.runs = runs_of(spec, self.dataset)[chosen]
        self.structure = self.runs[0].structure
        self.optimizer = make_optimizer(self.structure)
        self.parameters = network.initialize(self.structure, self.runs)
        self.running = network.initial_running(self.structure, len(self.runs))
        self.keep = np.full(len(self.runs), 0.1, np.float32)
        self.rates = np.array([run.setting.train.lr for run in self.runs], np.float32)

    def rows(self, device):
        return Rows(self.structure, self.runs, self.dataset, "float32", device)

    def by_steps(self):
        """A step after the other: parameters, running statistics, losses and correct predictions [run, step]."""
        rows, knobs = self.rows("cpu"), make_knobs(self.structure, self.runs, "float32", "cpu")
        state, losses, correct = self.optimizer.init(self.parameters), [], []
        for batch in itertools.islice(rows.minibatches(1), STEPS):
            step = loss_and_gradients(self.parameters, batch, self.structure)
            self.optimizer.update(self.parameters, step.gradients, state, knobs, self.rates)
            for old, new in zip(self.running, step.statistics, strict=True):
                update_running(old, new, self.keep, batch.targets.shape[1])
            losses.append(step.loss.copy())
            correct.append(np.zeros(len(self.runs)) if step.correct is None else step.correct.copy())
        return self.parameters, self.running, np.stack(losses, 1), np.stack(correct, 1)

    def by_kernel(self, pieces=(0, 1, STEPS)):
        """The same by the kernel, in pieces."""
        parameters, running = as_tensors(self.parameters), [Statistics(*map(as_tensors, s)) for s in self.running]
        knobs, rows = make_knobs(self.structure, self.runs, "float32", DEVICE), self.rows(DEVICE)
        if DEVICE == "cpu":
            rows.train_x, rows.fit_targets = as_tensors(rows.train_x), as_tensors(rows.fit_targets)
            columns = {name: as_tensors(value) for name, value in knobs._asdict().items()}
            knobs = knobs._replace(**columns)
        state = self.optimizer.init(parameters)
        descent = DeviceDescent(parameters, state, running, self.structure, knobs, as_tensors(self.keep))
        found = [
            descent(rows, rows.groups(1), first, last, as_tensors(self.rates))
            for first, last in itertools.pairwise(pieces)
        ]
        losses, correct = (np.concatenate([on_cpu(part) for part in parts], 1) for parts in zip(*found, strict=True))
        arrays = {name: on_cpu(tensor) for name, tensor in parameters.items()}
        return arrays, [Statistics(*map(on_cpu, s)) for s in running], losses, correct


@needs_triton
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[4]}")
def test_equals_a_step_after_the_other(case):
    parameters, running, losses, correct = Study(*case).by_kernel()
    wanted, wanted_running, wanted_losses, wanted_correct = Study(*case).by_steps()
    for name, array in wanted.items():
        np.testing.assert_allclose(parameters[name], array, rtol=1e-4, atol=3e-6, err_msg=name)
    for ours, theirs in zip(running, wanted_running, strict=True):
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-4, atol=3e-6)
        np.testing.assert_allclose(ours.variance, theirs.variance, rtol=1e-4, atol=3e-6)
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-5)
    assert np.array_equal(correct, wanted_correct)


@needs_triton
def test_a_run_has_the_same_bits_alone():
    together = Study(*CASES[1]).by_kernel()
    for run in (0, 3, 6):
        alone = Study(*CASES[1], chosen=slice(run, run + 1)).by_kernel()
        assert all(np.array_equal(array[0], together[0][name][run]) for name, array in alone[0].items())
        assert np.array_equal(alone[2][0], together[2][run])


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # the interpreter's, by NumPy
def test_a_loss_that_is_no_number_stops_its_run_alone():
    study = Study(*CASES[1])
    study.parameters["weight1"][1] = np.nan
    parameters = study.by_kernel()[0]
    broken = [bool(np.isnan(parameters["bias3"][run]).all()) for run in range(len(study.runs))]
    assert broken == [run == 1 for run in range(len(study.runs))]
    assert not np.isnan(np.delete(parameters["weight1"], 1, 0)).any()


@needs_triton
def test_what_one_launch_takes_changes_nothing(monkeypatch):
    whole = Study(*CASES[1]).by_kernel((0, STEPS))
    monkeypatch.setattr(bnexp.device_descent, "STEPS_AT_ONCE", 1)
    monkeypatch.setattr(bnexp.device_descent, "RUNS_AT_ONCE", 3)
    if DEVICE == "cpu":  # the queues of a device that is not there
        fake_streams(monkeypatch)
    pieces = Study(*CASES[1]).by_kernel((0, STEPS))
    assert all(np.array_equal(pieces[0][name], array) for name, array in whole[0].items())
    assert np.array_equal(pieces[2], whole[2])


def fake_streams(monkeypatch):
    stream = types.SimpleNamespace(wait_stream=lambda other: None)
    fakes = {"Stream": lambda: stream, "current_stream": lambda: stream, "stream": lambda one: contextlib.nullcontext()}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(bnexp.device_descent, "has_queues", lambda device: True)


def test_which_structures_it_takes(monkeypatch):
    fakes = {
        "get_device_capability": lambda: (9, 0),
        "get_device_properties": lambda device=None: types.SimpleNamespace(multi_processor_count=132),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)

    def taken(train="", model="hidden: [64, 64]", batch=32, runs=30, data="digits", n_inputs=64):
        spec = make_spec(f"data: {data}\nmodel: {{{model}}}\ntrain: {{batch_size: {batch}, {train}}}")
        structure = runs_of(spec, make_dataset(n_train=512, n_inputs=n_inputs))[0].structure
        return can_descend_on_device(structure, runs, "float32")

    assert taken()
    assert not taken("optimizer: adam")
    assert not taken(model="norm: full, ghost_size: 8")
    assert not taken(batch=256)
    assert not taken(model="hidden: [2000, 2000]", runs=2)  # a program each would leave the device idle
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert not taken()


def test_tiles_fit_on_small_devices(monkeypatch):
    shared = types.SimpleNamespace(shared_memory_per_block_optin=99 * 2**10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: shared)
    device = types.SimpleNamespace(type="cuda")
    small = tiles(device, 64), tiles(device, 128)
    shared.shared_memory_per_block_optin = 227 * 2**10
    large = tiles(device, 64), tiles(device, 128)
    assert all(a.units * a.num_stages < b.units * b.num_stages for a, b in zip(small, large, strict=True))
