"""The training loop: a stack of networks, in lockstep, one epoch after the other.

``train`` yields what was measured after every epoch; it neither prints nor writes. Each run sees only its own numbers:
a run that leaves the finite numbers is poisoned (all its parameters become NaN) and its neighbours never know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bnexp import kernels
from bnexp.arrays import Array, as_arrays, as_tensors, library, over_samples, quiet
from bnexp.batches import Rows
from bnexp.data import Dataset
from bnexp.gradients import loss_and_gradients
from bnexp.measures import LastStep, NextStep
from bnexp.network import Batch, Gradients, Parameters, calibrate, init_ids, initial_running, initialize
from bnexp.norms import Statistics, update_running
from bnexp.optimizers import make_knobs, make_optimizer
from bnexp.plan import Run, Stack, Structure
from bnexp.recording import Epoch, Options, Recorder, State


def train(
    stack: Stack,
    dataset: Dataset,
    device: torch.device,
    options: Options,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Epoch]:
    """Train a stack and yield an Epoch for the initialisation (number 0) and after every epoch."""
    structure, runs = stack.structure, stack.runs
    rows = Rows(structure, runs, dataset, dtype, device)
    tensors = initialize(structure, runs, dtype)
    identities = init_ids(tensors, structure)
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    start = [Statistics(*(t.to(device) for t in s)) for s in initial_running(structure, len(runs), dtype)]
    calibrate(tensors, start, structure, runs, rows.train_x.T)

    # From here on arrays: NumPy's on a CPU. They share their memory with the tensors, and steps change them in place.
    optimizer, knobs = make_optimizer(structure), as_arrays(make_knobs(structure, runs, dtype, device))
    parameters, running = as_arrays(tensors), as_arrays(start)
    state = optimizer.init(parameters)
    keep = as_arrays(torch.tensor([run.setting.model.statistics_momentum for run in runs], dtype=dtype, device=device))
    differentiate = make_step(parameters, structure, device)
    recorder = Recorder(structure, runs, rows, options)
    diverged: list[int | None] = [None] * len(runs)
    last: LastStep | None = None
    minibatches: _Sums | None = None

    for epoch in range(structure.epochs + 1):
        if epoch > 0:
            rates = as_arrays(learning_rates(runs, structure, epoch, dtype, device))
            minibatches = _Sums()
            with quiet():
                for index, batch in enumerate(rows.minibatches(epoch), start=1):
                    if index == 1 and recorder.reads_next_step(epoch):
                        now = (parameters, batch, optimizer, state, knobs, rates)
                        recorder.before_first_step(NextStep(epoch, *as_tensors(now), structure, runs, {}))
                    step = differentiate(batch)
                    # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
                    xp = library(step.loss)
                    lr = xp.where(xp.isfinite(step.loss), rates, math.nan)
                    if index == structure.steps_per_epoch and recorder.reads_last_step(epoch):
                        before = {name: tensor.clone() for name, tensor in tensors.items()}
                        gradients = {name: tensor.clone() for name, tensor in as_tensors(step.gradients).items()}
                        last = LastStep(before, gradients, as_tensors(lr))
                    optimizer.update(parameters, step.gradients, state, knobs, lr)
                    size = structure.ghost_size or batch.x.shape[-1]
                    for old, new in zip(running, step.statistics, strict=True):
                        update_running(old, new, keep, size)
                    minibatches.add(step, batch.targets.shape[-1])
                    if recorder.traces_steps:
                        count = (epoch - 1) * structure.steps_per_epoch + index
                        recorder.after_step(epoch, count, tensors, as_tensors(running))
            finite = all_finite(tensors).tolist()
            diverged = [epoch if at is None and not ok else at for at, ok in zip(diverged, finite, strict=True)]
        means = as_tensors(minibatches.means()) if minibatches else None
        now = State(tensors, as_tensors(running), last, means, diverged, identities)
        yield recorder.epoch(epoch, now)
        if all(at is not None for at in diverged) and epoch < structure.epochs:
            yield recorder.last(now)
            return


def make_step(parameters: Parameters, structure: Structure, device: torch.device) -> Callable[[Batch], Gradients]:
    """A function from a minibatch to loss and gradients at the parameters, which are read anew at each call.

    On a CPU what it returns is overwritten by its next call.
    """
    if device.type != "cpu" or structure.noise != "none" or not kernels.AVAILABLE:
        return lambda batch: loss_and_gradients(parameters, batch, structure)
    from bnexp.cpu_step import CpuStep

    of_size: dict[int, CpuStep] = {}  # the last minibatch of an epoch may be smaller

    def differentiate(batch: Batch) -> Gradients:
        n = batch.targets.shape[1]
        if n not in of_size:
            of_size[n] = CpuStep(parameters, structure, n)
        return of_size[n](batch)

    return differentiate


def is_exact(stack: Stack, dataset: Dataset) -> bool:
    """Whether this machine gives the first and the last run of a stack the same bits as alone, over three steps."""
    runs = stack.runs
    together = _three_steps(stack.structure, runs, dataset)
    for index in (0, len(runs) - 1):
        alone = _three_steps(stack.structure, [runs[index]], dataset)
        if not all(torch.equal(tensor[0], together[name][index]) for name, tensor in alone.items()):
            return False
    return True


def _three_steps(structure: Structure, runs: Sequence[Run], dataset: Dataset) -> Parameters:
    device, dtype = torch.device("cpu"), torch.float32
    rows, tensors = Rows(structure, runs, dataset, dtype, device), initialize(structure, runs, dtype)
    knobs, optimizer = as_arrays(make_knobs(structure, runs, dtype, device)), make_optimizer(structure)
    parameters, lr = as_arrays(tensors), as_arrays(torch.full((len(runs),), 0.1))
    state = optimizer.init(parameters)
    differentiate = make_step(parameters, structure, device)
    with quiet():
        for batch in itertools.islice(rows.minibatches(1), 3):
            step = differentiate(batch)
            optimizer.update(parameters, step.gradients, state, knobs, lr)
    return tensors


class _Sums:
    """Losses and correct predictions of an epoch's minibatches, per run."""

    def __init__(self) -> None:
        self._losses: list[Array] = []
        self._correct: list[Array] = []

    def add(self, step: Gradients, n: int) -> None:
        self._losses.append(step.loss + 0)  # a copy: the step's memory is used again
        if step.correct is not None:
            self._correct.append(step.correct / n)

    def means(self) -> dict[str, Array]:
        """Mean over minibatches, in float64. A regression target has variance 1 over its rows, so R² = 1 − loss."""
        loss = _mean(self._losses)
        if self._correct:
            return {"train_loss": loss, "train_accuracy": _mean(self._correct)}
        return {"train_loss": loss, "train_r2": 1 - loss}


def _mean(steps: Sequence[Array]) -> Array:
    """Mean over steps of values [run]."""
    xp = library(steps[0])
    return over_samples(xp.stack(steps, 1)[:, None])[:, 0] / len(steps)


def learning_rates(
    runs: Sequence[Run], structure: Structure, epoch: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Learning rate of each run in an epoch (from 1), shape [run].

    constant; step: lr · step_factor^⌊(epoch − 1)/step_every⌋; cosine: lr · ½(1 + cos(π(epoch − 1)/epochs)).
    """
    done = epoch - 1
    rates = []
    for run in runs:
        factor = 1.0
        if structure.schedule == "step":
            factor = run.setting.train.step_factor ** (done // structure.step_every)
        elif structure.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * done / structure.epochs))
        rates.append(run.setting.train.lr * factor)
    return torch.tensor(rates, dtype=torch.float64).to(dtype).to(device)


def all_finite(parameters: Parameters) -> Tensor:
    """Whether all numbers of a run are finite, shape [run]."""
    found = [tensor.isfinite().flatten(1).all(1) for tensor in parameters.values()]
    return torch.stack(found).all(0)
