"""The training loop: a stack of networks, in lockstep, one epoch after the other.

``train`` yields what was measured after every epoch; it neither prints nor writes. Each run sees only its own numbers:
a run that leaves the finite numbers is poisoned (all its parameters become NaN) and its neighbours never know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array, copied, library, on_cpu, put, quiet, widened
from bnexp.batches import Rows
from bnexp.data import Dataset
from bnexp.descent import Descent, can_descend
from bnexp.device_descent import DeviceDescent, can_descend_on_device
from bnexp.device_steps import DeviceSteps
from bnexp.gradients import loss_and_gradients
from bnexp.measures import LastStep, NextStep
from bnexp.network import Batch, Gradients, Parameters, calibrate, init_ids, initial_running, initialize
from bnexp.norms import Statistics, update_running
from bnexp.optimizers import Knobs, Optimizer, make_knobs, make_optimizer
from bnexp.plan import Run, Stack, Structure
from bnexp.recording import Epoch, Options, Recorder, State


def train(
    stack: Stack,
    dataset: Dataset,
    device: str,
    options: Options,
    dtype: str = "float32",
    saved: Sequence[Mapping[str, np.ndarray[Any, Any]]] = (),
) -> Iterator[Epoch]:
    """Train a stack and yield an Epoch for the initialisation (number 0) and after every epoch.

    ``saved``: the checkpoint of each shard after ``stack.epoch``, if the stack goes on from there.
    """
    structure, runs = stack.structure, stack.runs
    rows = Rows(structure, runs, dataset, dtype, device)
    start = initialize(structure, runs, dtype)
    identities = init_ids(start, structure)
    running = initial_running(structure, len(runs), dtype)
    with quiet():
        calibrate(start, running, structure, runs, dataset.train.features.T.astype(dtype, copy=False))

    # Arrays: NumPy's on a CPU, tensors elsewhere. Steps change them in place.
    parameters = {name: put(array, device) for name, array in start.items()}
    running = [Statistics(*(put(array, device) for array in one)) for one in running]
    optimizer, knobs = make_optimizer(structure), make_knobs(structure, runs, dtype, device)
    state = optimizer.init(parameters)
    keep = put(np.array([run.setting.model.statistics_momentum for run in runs], dtype), device)
    differentiate = make_step(parameters, structure, device)
    descent = make_descent(parameters, optimizer, state, running, structure, knobs, keep, rows, device)
    recorder = Recorder(structure, runs, rows, options)
    last: LastStep | None = None
    minibatches: _Sums | None = None

    now = State(parameters, state, running, None, None, [None] * len(runs), identities)
    if stack.epoch is not None:
        now = recorder.restore(saved, now, stack.epoch)
    diverged = list(now.diverged)
    for epoch in range(0 if stack.epoch is None else stack.epoch + 1, structure.epochs + 1):
        if all(at is not None for at in diverged):
            yield recorder.last(now)
            return
        if epoch > 0:
            rates = put(learning_rates(runs, structure, epoch, dtype), device)
            minibatches = _Sums(structure)
            with quiet():
                if recorder.reads_next_step(epoch):
                    batch = next(rows.minibatches(epoch))
                    recorder.before_first_step(
                        NextStep(epoch, parameters, batch, optimizer, state, knobs, rates, structure, runs, {})
                    )
                taken = 0  # steps of this epoch
                if descent:  # all steps but the last, which is taken below, where its gradients can be read
                    orders = rows.groups(epoch)
                    stops = recorder.stops(epoch)
                    for stop in dict.fromkeys([*stops, structure.steps_per_epoch - 1]):
                        minibatches.add_many(descent(rows, orders, taken, stop, rates), structure.batch_size)
                        taken = stop
                        if stop in stops:
                            recorder.after_step(epoch, stop, parameters, running)
                    if device != "cpu" and epoch < structure.epochs:
                        rows.groups(epoch + 1)  # drawn while the device computes
                for index, batch in enumerate(rows.minibatches(epoch, taken), start=taken + 1):
                    step = differentiate(batch)
                    # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
                    xp = library(step.loss)
                    lr = xp.where(xp.isfinite(step.loss), rates, math.nan)
                    if index == structure.steps_per_epoch and recorder.reads_last_step(epoch):
                        last = LastStep(_copies(parameters), _copies(step.gradients), lr)
                    optimizer.update(parameters, step.gradients, state, knobs, lr)
                    size = structure.ghost_size or batch.x.shape[-1]
                    for old, new in zip(running, step.statistics, strict=True):
                        update_running(old, new, keep, size)
                    minibatches.add(step, batch.targets.shape[-1])
                    recorder.after_step(epoch, index, parameters, running)
            finite = all_finite(parameters)
            diverged = [epoch if at is None and not ok else at for at, ok in zip(diverged, finite, strict=True)]
            _poison(running, diverged)
        means = minibatches.means() if minibatches else None
        now = State(parameters, state, running, last, means, diverged, identities)
        yield recorder.epoch(epoch, now)


def _poison(running: list[Statistics], diverged: Sequence[int | None]) -> None:
    """Make the running statistics of diverged runs NaN, whether or not their neighbours go on."""
    for index in (index for index, at in enumerate(diverged) if at is not None):
        for one in running:
            one.mean[index], one.variance[index] = math.nan, math.nan


def _copies(arrays: Parameters) -> Parameters:
    return {name: copied(array) for name, array in arrays.items()}


def make_descent(
    parameters: Parameters,
    optimizer: Optimizer,
    state: Parameters,
    running: list[Statistics],
    structure: Structure,
    knobs: Knobs,
    keep: Array,
    rows: Rows,
    device: str,
) -> Descent | DeviceDescent | DeviceSteps | None:
    """What takes many steps of an epoch at once, where there is something for the structure and the device."""
    if can_descend(structure, device):
        return Descent(parameters, state, running, structure, knobs, keep)
    if device == "cuda" and can_descend_on_device(structure, len(keep), rows.dtype):
        return DeviceDescent(parameters, state, running, structure, knobs, keep)
    if device == "cuda" and structure.noise == "none":
        return DeviceSteps(parameters, optimizer, state, running, structure, knobs, keep, rows)
    return None


def make_step(parameters: Parameters, structure: Structure, device: str) -> Callable[[Batch], Gradients]:
    """A function from a minibatch to loss and gradients at the parameters, which are read anew at each call.

    On a CPU what it returns is overwritten by its next call.
    """
    if device != "cpu" or structure.noise != "none" or not kernels.AVAILABLE:
        return lambda batch: loss_and_gradients(parameters, batch, structure)
    from bnexp.cpu_step import CpuStep

    of_size: dict[int, CpuStep] = {}  # the last minibatch of an epoch may be smaller

    def differentiate(batch: Batch) -> Gradients:
        n = batch.targets.shape[1]
        if n not in of_size:
            of_size[n] = CpuStep(parameters, structure, n)
        return of_size[n](batch)

    return differentiate


def stacking_difference(stack: Stack, dataset: Dataset, device: str) -> float:
    """How much a stack's first and last run differ after three steps from the same runs trained alone.

    The largest |together − alone| of a parameter, as a share of the largest |alone| in its tensor. 0 is bit for bit,
    inf where a number is finite in one of them alone.
    """
    runs = stack.runs
    together = _three_steps(stack.structure, runs, dataset, device)
    largest = 0.0
    for index in (0, len(runs) - 1):
        alone = _three_steps(stack.structure, [runs[index]], dataset, device)
        for name, array in alone.items():
            largest = max(largest, _difference(together[name][index], array[0]))
    return largest


def _difference(together: np.ndarray[Any, Any], alone: np.ndarray[Any, Any]) -> float:
    if np.array_equal(together, alone, equal_nan=True):
        return 0.0
    with quiet():
        share = float(np.abs(widened(together) - widened(alone)).max() / np.abs(widened(alone)).max())
    return share if math.isfinite(share) else math.inf


def _three_steps(
    structure: Structure, runs: Sequence[Run], dataset: Dataset, device: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Parameters after three steps, some of them by what takes many at once."""
    rows = Rows(structure, runs, dataset, "float32", device)
    parameters = {name: put(array, device) for name, array in initialize(structure, runs).items()}
    running = [Statistics(*(put(x, device) for x in one)) for one in initial_running(structure, len(runs))]
    knobs, optimizer = make_knobs(structure, runs, "float32", device), make_optimizer(structure)
    lr, keep = (put(np.full(len(runs), 0.1, np.float32), device) for _ in range(2))
    state = optimizer.init(parameters)
    differentiate = make_step(parameters, structure, device)
    descent = make_descent(parameters, optimizer, state, running, structure, knobs, keep, rows, device)
    with quiet():
        taken = 0
        if descent:
            taken = min(2, structure.steps_per_epoch - 1)
            descent(rows, rows.groups(1), 0, taken, lr)
        for batch in itertools.islice(rows.minibatches(1, taken), 3 - taken):
            step = differentiate(batch)
            optimizer.update(parameters, step.gradients, state, knobs, lr)
    return {name: on_cpu(array) for name, array in parameters.items()}


class _Sums:
    """Losses and correct predictions of an epoch's minibatches, per run."""

    def __init__(self, structure: Structure) -> None:
        self.classes = structure.shape.task == "classification"
        self._losses: list[Array] = []
        self._correct: list[tuple[Array, int]] = []

    def add(self, step: Gradients, n: int) -> None:
        self._losses.append(copied(step.loss)[:, None])  # the step's memory is used again
        if step.correct is not None:
            self._correct.append((copied(step.correct)[:, None], n))

    def add_many(self, found: tuple[Array, Array], n: int) -> None:
        """Losses and correct predictions of several steps at once, [run, step]; a regression has no correct ones."""
        losses, correct = found
        self._losses.append(losses)
        self._correct.append((correct, n))

    def means(self) -> dict[str, Array]:
        """Mean over minibatches, in float64. A regression target has variance 1 over its rows, so R² = 1 − loss."""
        loss = _mean([on_cpu(block) for block in self._losses])
        if self.classes:
            return {"train_loss": loss, "train_accuracy": _mean([on_cpu(found) / n for found, n in self._correct])}
        return {"train_loss": loss, "train_r2": 1 - loss}


def _mean(blocks: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Mean over steps of values [run, step]."""
    mean: np.ndarray[Any, Any] = widened(np.concatenate(blocks, 1)).mean(-1)
    return mean


def learning_rates(runs: Sequence[Run], structure: Structure, epoch: int, dtype: str) -> np.ndarray[Any, Any]:
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
    return np.array(rates, np.float64).astype(dtype)


def all_finite(parameters: Parameters) -> list[bool]:
    """Whether all numbers of each run are finite."""
    found = [on_cpu(library(array).isfinite(array.reshape(len(array), -1)).all(1)) for array in parameters.values()]
    together: list[bool] = np.asarray(np.stack(found).all(0)).tolist()
    return together
