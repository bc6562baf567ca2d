"""Steps on a device, for which torch's CPU stands in: the same numbers as the twin, stacks that fit and that do not."""

from __future__ import annotations

import contextlib
import math
import types

import numpy as np
import pytest
import torch
from tools import make_dataset, make_spec, options_of, runs_of, stack_of

import bnexp.batches
import bnexp.data
import bnexp.device_steps
import bnexp.evaluation
import bnexp.executors
import bnexp.optimizers
import bnexp.training
from bnexp import network
from bnexp.arrays import as_tensors, library
from bnexp.batches import Rows
from bnexp.cli import app
from bnexp.device_steps import DeviceSteps, bytes_per_run
from bnexp.evaluation import evaluate
from bnexp.gradients import loss_and_gradients
from bnexp.norms import update_running
from bnexp.optimizers import make_knobs, make_optimizer
from bnexp.plan import make_plan
from bnexp.stacks import make_stacks
from bnexp.tables import study_tables

TEXT = """
data: {{name: digits, label_noise: {noise}}}
model: {{hidden: [7, 5], norm: {norms}, activation: tanh, ghost_size: {ghosts}}}
train: {{batch_size: 12, lr: [0.1, 0.3], {train}}}
seeds: 2
"""
CASES = [
    ("[none, affine]", "", 0, 0),
    ("[standardize, full]", "momentum: 0.9, weight_decay: 0.01", 0, 0.2),
    ("[standardize, full]", "optimizer: adam", 4, 0),
    ("[center]", "nesterov: true, momentum: 0.5", 0, 0),
    ("[scale]", "", 6, 0),
]


def parts(norms, train, ghosts, noise, n_classes=3):
    spec = make_spec(TEXT.format(norms=norms, train=train, ghosts=ghosts, noise=noise))
    dataset = make_dataset(n_classes=n_classes)
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    rows = Rows(structure, runs, dataset, "float64", "cpu")
    parameters, optimizer = network.initialize(structure, runs, "float64"), make_optimizer(structure)
    running = network.initial_running(structure, len(runs), "float64")
    knobs, rates = make_knobs(structure, runs, "float64", "cpu"), np.array([run.setting.train.lr for run in runs])
    return structure, rows, parameters, optimizer, running, knobs, np.full(len(runs), 0.1), rates


def on_device(structure, rows, parameters, optimizer, running, knobs, keep, rates):
    rows.train_x, rows.fit_targets = as_tensors((rows.train_x, rows.fit_targets))
    parameters, running, knobs, keep, rates = as_tensors((parameters, running, knobs, keep, rates))
    state = optimizer.init(parameters)
    return DeviceSteps(parameters, optimizer, state, running, structure, knobs, keep, rows), rates


@pytest.mark.parametrize("n_classes", [3, 1])
@pytest.mark.parametrize("case", CASES)
def test_equals_a_step_after_the_other(case, n_classes):
    if case[3] and n_classes == 1:
        pytest.skip("labels are noisy in classification only")
    structure, rows, parameters, optimizer, running, knobs, keep, rates = parts(*case, n_classes=n_classes)
    state, losses, correct = optimizer.init(parameters), [], []
    for batch in rows.minibatches(1):
        step = loss_and_gradients(parameters, batch, structure)
        optimizer.update(parameters, step.gradients, state, knobs, rates)
        for old, new in zip(running, step.statistics, strict=True):
            update_running(old, new, keep, structure.ghost_size or 12)
        losses.append(step.loss)
        correct.append(step.correct)

    others = parts(*case, n_classes=n_classes)
    steps, tensor_rates = on_device(*others)
    orders = others[1].groups(1)
    first = steps(others[1], orders, 0, 3, tensor_rates)  # in two pieces
    second = steps(others[1], orders, 3, structure.steps_per_epoch, tensor_rates)
    for name, array in parameters.items():
        np.testing.assert_allclose(steps.parameters[name].numpy(), array, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(steps.running, running, strict=True):
        np.testing.assert_allclose(ours.mean.numpy(), theirs.mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ours.variance.numpy(), theirs.variance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(torch.cat([first[0], second[0]], 1).numpy(), np.stack(losses, 1), rtol=1e-9)
    if n_classes > 1:
        assert np.array_equal(torch.cat([first[1], second[1]], 1).numpy(), np.stack(correct, 1))


def test_a_loss_that_is_no_number_stops_its_run_alone():
    pieces = parts("[standardize, full]", "", 0, 0)
    pieces[2]["weight1"][1] = np.nan
    steps, rates = on_device(*pieces)
    steps(pieces[1], pieces[1].groups(1), 0, 2, rates)
    broken = [bool(torch.isnan(steps.parameters["bias3"][run]).all()) for run in range(len(rates))]
    assert broken == [run == 1 for run in range(len(rates))]


class FakeCuda(types.SimpleNamespace):
    """CUDA's graph functions where there is no CUDA: what a recording runs is run."""

    def __init__(self):
        stream = types.SimpleNamespace(wait_stream=lambda other: None)
        graph = types.SimpleNamespace(replay=lambda: None)
        super().__init__(
            Stream=lambda: stream,
            current_stream=lambda: stream,
            stream=lambda stream: contextlib.nullcontext(),
            graph=lambda graph, capture_error_mode: contextlib.nullcontext(),
            CUDAGraph=lambda: graph,
        )


@pytest.mark.parametrize("train", ["momentum: 0.9", "optimizer: adam"])
def test_recording_a_graph_changes_nothing(train, monkeypatch):
    pieces = parts("[standardize, full]", train, 0, 0)
    steps, rates = on_device(*pieces)
    steps(pieces[1], pieces[1].groups(1), 0, 2, rates)
    before = [tensor.clone() for tensor in steps._changing()]
    fake = types.SimpleNamespace(**{name: getattr(torch, name) for name in ("where", "full_like")}, cuda=FakeCuda())
    monkeypatch.setattr(bnexp.device_steps, "torch", fake)
    steps._recorded()
    assert all(torch.equal(tensor, old) for tensor, old in zip(steps._changing(), before, strict=True))


def test_minibatches_from_a_step_on():
    rows = parts("[standardize, full]", "", 0, 0)[1]
    whole, left = list(rows.minibatches(2)), list(rows.minibatches(2, 3))
    assert len(left) == len(whole) - 3
    for one, other in zip(left, whole[3:], strict=True):
        assert np.array_equal(one.x, other.x)
        assert np.array_equal(one.targets, other.targets)


@pytest.mark.parametrize("n_classes", [3, 1])
def test_evaluates_tensors_as_arrays(n_classes, monkeypatch):
    structure, rows, parameters, _, running, *_ = parts("[standardize, full]", "", 0, 0, n_classes=n_classes)
    monkeypatch.setattr(bnexp.evaluation, "DEVICE_CHUNK", 7)
    arguments = parameters, running, *rows.test
    ours, theirs = evaluate(*as_tensors(arguments), structure), evaluate(*arguments, structure)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-12)
    np.testing.assert_allclose(ours.score, theirs.score, rtol=1e-12)
    np.testing.assert_allclose(ours.predictions.numpy(), theirs.predictions, rtol=1e-12)


def test_stacks_on_a_device_are_as_large_as_its_memory():
    dataset = make_dataset()
    spec = make_spec("data: digits\nmodel: {hidden: [64, 64], norm: full}\ntrain: {batch_size: 32}\nseeds: 100")
    runs = runs_of(spec, dataset)
    shards = make_plan(runs)
    one = bytes_per_run(runs[0].structure, runs[0].structure.n_parameters(runs[0].switches))
    assert [len(stack.runs) for stack in make_stacks(shards, 1, 200 * one)] == [100]
    for room in (50, 8, 1):
        stacks = make_stacks(shards, 1, room * one)
        assert sum(len(stack.runs) for stack in stacks) == 100
        assert max(len(stack.runs) for stack in stacks) <= max(room, 8)  # a shard is the least


CONFIG = """
name: small
data: {name: xor, samples: 60}
model: {hidden: [4, 4], norm: [none, full]}
train: {epochs: 3, batch_size: 12}
seeds: 20
"""


def trained(tmp_path, name, workers=1):
    (tmp_path / "small.yaml").write_text(CONFIG)
    out = tmp_path / name
    with pytest.raises(SystemExit) as end:
        app(["train", str(tmp_path / "small.yaml"), "--out", str(out), "--workers", str(workers), "-q"])
    return end.value.code, {path.name: path.read_bytes() for path in out.glob("*.csv")}, out


def test_threads_give_what_one_process_gives(tmp_path, monkeypatch):
    code, whole, _ = trained(tmp_path, "whole")
    monkeypatch.setattr(bnexp.executors, "_in_workers", bnexp.executors._in_threads)
    assert trained(tmp_path, "threads", workers=2)[:2] == (code, whole) == (0, whole)


def test_a_device_that_gives_no_stream_is_told(tmp_path, monkeypatch, capsys):
    def refuse(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(bnexp.executors, "_in_workers", bnexp.executors._in_threads)
    monkeypatch.setattr(bnexp.executors, "_queue_of_work", refuse)
    code, _, out = trained(tmp_path, "refused", workers=2)
    assert code == 1
    assert "6 shards failed (RuntimeError: CUDA error: out of memory)" in " ".join(capsys.readouterr().err.split())
    assert (out / "runs.csv").read_text().count("failed") == 40


@pytest.mark.parametrize("fits", [16, 8])
def test_a_stack_that_does_not_fit_is_halved_by_whole_shards(tmp_path, monkeypatch, fits):
    code, whole, _ = trained(tmp_path, "whole")
    assert code == 0
    honest, sizes = bnexp.executors.train, []

    def limited(stack, *arguments, **options):
        for epoch in honest(stack, *arguments, **options):
            if epoch.number == 2 and len(stack.runs) > fits:  # after some rows were sent
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield epoch
        sizes.append(len(stack.runs))

    monkeypatch.setattr(bnexp.executors, "train", limited)
    monkeypatch.setattr(bnexp.executors, "MESSAGE_EVERY", 0.0)
    code, halved, _ = trained(tmp_path, "halved")
    assert code == 0
    assert sum(sizes) == 40
    assert max(sizes) <= fits
    assert halved == whole


def test_a_shard_that_does_not_fit_fails_alone(tmp_path, monkeypatch):
    honest = bnexp.executors.train

    def limited(stack, *arguments, **options):
        if any(run.seed == 19 for run in stack.runs):
            raise MemoryError
        yield from honest(stack, *arguments, **options)

    monkeypatch.setattr(bnexp.executors, "train", limited)
    code, _, out = trained(tmp_path, "failed")
    assert code == 8
    runs = (out / "runs.csv").read_text()
    assert runs.count("done") == 40 - 8  # the last shard of either structure holds seeds 16 to 19
    assert runs.count("failed") == 8
    monkeypatch.setattr(bnexp.executors, "train", honest)
    assert trained(tmp_path, "failed")[:2] == (0, trained(tmp_path, "whole")[1])


def sigmoid_by_place(a, out=None):
    return with_error(a, out, 1e-3 * library(a).arange(len(a))[:, None, None])


def sigmoid_by_company(a, out=None):
    return with_error(a, out, math.nan if len(a) > 1 else 0)


def with_error(a, out, error):
    found = network.sigmoid(a)
    found += error
    if out is None:
        return found
    out[:] = found
    return out


@pytest.mark.parametrize("train", ["", "optimizer: adam"])
def test_the_difference_between_stack_sizes(monkeypatch, train):
    """Torch's CPU stands in for the device: rounding at most, unless an activation looks at a run's place."""
    for module in (bnexp.training, bnexp.batches, bnexp.optimizers):
        monkeypatch.setattr(module, "put", lambda array, device: torch.from_numpy(array.copy()))
    monkeypatch.setattr(bnexp.training, "can_descend_on_device", lambda *_: False)
    steps = []
    honest = DeviceSteps.step
    monkeypatch.setattr(DeviceSteps, "step", lambda self: steps.append(len(self.rates)) or honest(self))
    spec, dataset = (
        make_spec(TEXT.format(norms="[none, affine]", train=train, ghosts=0, noise=0), "model.activation=sigmoid"),
        make_dataset(),
    )
    stack = stack_of(runs_of(spec, dataset))

    def difference():
        return bnexp.training.stacking_difference(stack, dataset, "cuda")

    assert 0 <= difference() < 1e-5
    assert steps == [8, 8, 1, 1, 1, 1]  # two steps of the stack, of its first and of its last run
    monkeypatch.setitem(network.ACTIVATIONS, "sigmoid", sigmoid_by_place)
    assert 1e-5 < difference() < 0.5
    monkeypatch.setitem(network.ACTIVATIONS, "sigmoid", sigmoid_by_company)
    assert difference() == math.inf


def lose_the_device(monkeypatch, at):
    """Training in this process is as on a device that fails at an epoch; returns how often it did."""
    honest, times = bnexp.executors.train, []

    def losing(stack, *arguments, **options):
        for epoch in honest(stack, *arguments, **options):
            if epoch.number == at:
                times.append(at)
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            yield epoch

    monkeypatch.setattr(bnexp.executors, "train", losing)
    monkeypatch.setattr(bnexp.executors, "_here", here_on_a_device(1))
    monkeypatch.setattr(bnexp.executors, "_in_workers", here_on_a_device(2))
    return times


def here_on_a_device(threads, here=bnexp.executors._here):
    """The executor of a GPU, on the CPU."""

    def execute(stacks, job, *more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bnexp.executors, "_here", here)
            yield from bnexp.executors._on_device(stacks, job, threads, *more[-2:])

    return execute


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [0, 2, 3])
def test_another_process_goes_on_when_the_device_is_lost(tmp_path, monkeypatch, workers, at):
    code, whole, _ = trained(tmp_path, "whole")
    assert code == 0
    times = lose_the_device(monkeypatch, at)
    assert trained(tmp_path, "lost", workers)[:2] == (0, whole)
    assert 1 <= len(times) <= workers  # in this process once, or by either thread


def test_a_worker_ends_when_its_device_is_lost(monkeypatch):
    """So that another is hired, three times, as after any other end."""
    spec, sent = make_spec(CONFIG), []
    dataset = bnexp.data.load_dataset(spec.settings[0].data)
    runs = runs_of(spec, dataset)
    stack = make_stacks(make_plan(runs), 1)[0]

    class Pipe:
        def __init__(self):
            self.tasks = [(0, stack, [None] * len(stack.shards))]

        def send(self, message):
            sent.append(message)

        def poll(self):
            return False

        def recv(self):
            return self.tasks.pop()

    job = bnexp.executors.Job(
        {spec.settings[0].data: dataset}, options_of(spec), study_tables(spec, {dataset.task}), "cpu"
    )
    monkeypatch.setattr(bnexp.executors, "receive", lambda pipe: job)
    monkeypatch.setattr(bnexp.executors, "MESSAGE_EVERY", 0.0)
    lose_the_device(monkeypatch, 2)
    bnexp.executors._work(Pipe())
    assert [message.epoch for message in sent[1:]] == [0, 1]


def test_a_device_that_is_lost_again_and_again_is_given_up(tmp_path, monkeypatch, capsys):
    lose_the_device(monkeypatch, 2)
    hired = []
    monkeypatch.setattr(bnexp.executors._Crew, "hire", lambda crew, count: hired.append(count) or [Ended()])
    code, _, out = trained(tmp_path, "lost")
    assert code == 8
    assert len(hired) >= bnexp.executors.REPLACEMENTS
    assert "its device failed" in " ".join(capsys.readouterr().err.split())
    assert (out / "runs.csv").read_text().count("failed") == 40


class Ended:
    """A pipe to a worker that ended at once."""

    def send(self, task):
        raise BrokenPipeError

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "memory", "lost"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (MemoryError(), True, False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), False, True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), False, True),
        (RuntimeError("shape mismatch"), False, False),
        (ValueError("CUDA error"), False, False),
    ],
)
def test_what_an_error_says_of_the_device(error, memory, lost):
    assert bnexp.executors._is_out_of_memory(error) == memory
    assert bnexp.executors._is_device_lost(error) == lost
