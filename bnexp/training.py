"""The training loop: a stack of networks, in lockstep, one epoch after the other.

``train`` yields what was measured after every epoch; it neither prints nor writes. Each run sees only its own numbers:
a run that leaves the finite numbers is poisoned (all its parameters become NaN) and its neighbours never know.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bnexp.batches import Rows
from bnexp.data import Dataset
from bnexp.gradients import loss_and_gradients
from bnexp.measures import LastStep, NextStep
from bnexp.network import Parameters, calibrate, init_ids, initial_running, initialize
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
    parameters = initialize(structure, runs, dtype)
    identities = init_ids(parameters, structure)
    parameters = {name: tensor.to(device) for name, tensor in parameters.items()}
    running = [Statistics(*(t.to(device) for t in s)) for s in initial_running(structure, len(runs), dtype)]
    calibrate(parameters, running, structure, runs, rows.train_x.T)

    knobs, optimizer = make_knobs(structure, runs, dtype, device), make_optimizer(structure)
    state = optimizer.init(parameters)
    keep = torch.tensor([[run.setting.model.statistics_momentum] for run in runs], dtype=dtype, device=device)
    nan = torch.tensor(math.nan, dtype=dtype, device=device)
    recorder = Recorder(structure, runs, rows, options)
    diverged: list[int | None] = [None] * len(runs)
    last: LastStep | None = None
    minibatches: _Sums | None = None

    for epoch in range(structure.epochs + 1):
        if epoch > 0:
            rates = learning_rates(runs, structure, epoch, dtype, device)
            minibatches = _Sums()
            for index, batch in enumerate(rows.minibatches(epoch), start=1):
                if index == 1:
                    recorder.before_first_step(
                        NextStep(epoch, parameters, batch, optimizer, state, knobs, rates, structure, runs, {})
                    )
                step = loss_and_gradients(parameters, batch, structure)
                # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
                lr = torch.where(step.loss.isfinite(), rates, nan)
                if index == structure.steps_per_epoch and recorder.reads_last_step(epoch):
                    before = {name: tensor.clone() for name, tensor in parameters.items()}
                    last = LastStep(before, step.gradients, lr)
                optimizer.update(parameters, step.gradients, state, knobs, lr)
                size = structure.ghost_size or batch.x.shape[-1]
                running = [
                    update_running(old, new, keep, size) for old, new in zip(running, step.statistics, strict=True)
                ]
                minibatches.add(step.loss, step.logits, batch.targets, structure)
                recorder.after_step(epoch, (epoch - 1) * structure.steps_per_epoch + index, parameters, running)
            finite = all_finite(parameters).tolist()
            diverged = [epoch if at is None and not ok else at for at, ok in zip(diverged, finite, strict=True)]
        means = minibatches.means() if minibatches else None
        now = State(parameters, running, last, means, diverged, identities)
        yield recorder.epoch(epoch, now)
        if all(at is not None for at in diverged) and epoch < structure.epochs:
            yield recorder.last(now)
            return


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
    rows, parameters = Rows(structure, runs, dataset, dtype, device), initialize(structure, runs, dtype)
    knobs, optimizer = make_knobs(structure, runs, dtype, device), make_optimizer(structure)
    state, lr = optimizer.init(parameters), torch.full((len(runs),), 0.1)
    for batch in itertools.islice(rows.minibatches(1), 3):
        step = loss_and_gradients(parameters, batch, structure)
        optimizer.update(parameters, step.gradients, state, knobs, lr)
    return parameters


class _Sums:
    """Losses and correct predictions of an epoch's minibatches, per run."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._correct: list[Tensor] = []

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor, structure: Structure) -> None:
        self._losses.append(loss)
        if structure.shape.task == "classification":
            self._correct.append((logits.max(1).indices == targets).sum(-1) / targets.shape[-1])

    def means(self) -> dict[str, Tensor]:
        """Mean over minibatches. A regression target has variance 1 over the training rows, so R² = 1 − loss."""
        # The run axis comes first: sums over the last axis do not depend on the number of runs.
        loss = torch.stack(self._losses, 1).mean(-1)
        if self._correct:
            return {"train_loss": loss, "train_accuracy": torch.stack(self._correct, 1).mean(-1)}
        return {"train_loss": loss, "train_r2": 1 - loss}


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
