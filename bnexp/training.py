"""The training loop: a stack of networks, in lockstep, one epoch after the other.

``train`` yields what was measured after every epoch; it neither prints nor writes. Each run sees only its own numbers:
a run that leaves the finite numbers is poisoned (all its parameters become NaN) and its neighbours never know.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bnexp.data import Dataset, noisy_labels
from bnexp.evaluation import evaluate, population_statistics, probe_rows
from bnexp.gradients import loss_and_gradients
from bnexp.measures import MEASURES, Reading, Record
from bnexp.network import (
    Parameters,
    calibrate,
    forward,
    init_ids,
    initial_running,
    initialize,
)
from bnexp.norms import Statistics, update_running
from bnexp.optimizers import make_knobs, make_optimizer
from bnexp.plan import Run, Stack, Structure
from bnexp.rng import stream


class Outcome(NamedTuple):
    """How a run ended: status done or diverged, the epoch of divergence, whether it learned, its two identities."""

    status: str
    diverged_epoch: int | None
    learned: bool
    n_parameters: int
    init_id: str
    order_id: str
    metrics: Mapping[str, float]  # at the last epoch; empty if diverged


class Epoch(NamedTuple):
    """What one epoch gave: records for the tables, the number of runs alive, and after the last epoch the outcomes.

    ``arrays()`` copies everything that the run's end, or its continuation, needs.
    """

    number: int
    records: Sequence[Record]
    alive: Sequence[bool]
    loss: float  # mean training loss of the runs that are finite, for the progress line
    outcomes: Sequence[Outcome] | None
    arrays: Callable[[], dict[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Options:
    """What the study asks to be recorded: see ``bnexp.spec.StudyFields``; ``measure`` maps a measure to its cadence."""

    evaluate: tuple[str, ...]
    evaluate_every: int
    fit_every: int
    probe: int
    track: int
    learned_at: float
    measure: Mapping[str, int]


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

    knobs, optimizer = make_knobs(runs, dtype, device), make_optimizer(structure)
    state = optimizer.init(parameters)
    keep = torch.tensor([[run.setting.model.statistics_momentum] for run in runs], dtype=dtype, device=device)
    nan = torch.tensor(math.nan, dtype=dtype, device=device)
    recorder = Recorder(structure, runs, rows, options)
    diverged: list[int | None] = [None] * len(runs)
    gradients: Parameters | None = None
    minibatches: _Sums | None = None

    for epoch in range(structure.epochs + 1):
        if epoch > 0:
            lr = learning_rates(runs, structure, epoch, dtype, device)
            minibatches = _Sums()
            for x, targets in rows.minibatches(epoch):
                step = loss_and_gradients(parameters, x, targets, structure)
                # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
                optimizer.update(parameters, step.gradients, state, knobs, torch.where(step.loss.isfinite(), lr, nan))
                running = [
                    update_running(old, new, keep, x.shape[-1])
                    for old, new in zip(running, step.statistics, strict=True)
                ]
                minibatches.add(step.loss, step.logits, targets, structure)
                gradients = step.gradients
            finite = all_finite(parameters).tolist()
            diverged = [epoch if at is None and not ok else at for at, ok in zip(diverged, finite, strict=True)]
        yield recorder.epoch(epoch, parameters, running, gradients, minibatches, diverged, identities)
        if all(at is not None for at in diverged) and epoch < structure.epochs:
            yield recorder.last(parameters, running, diverged, identities)
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
    knobs, optimizer = make_knobs(runs, dtype, device), make_optimizer(structure)
    state, lr = optimizer.init(parameters), torch.full((len(runs),), 0.1)
    for x, targets in itertools.islice(rows.minibatches(1), 3):
        step = loss_and_gradients(parameters, x, targets, structure)
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


def order_ids(orders: Sequence[np.ndarray[Any, Any]]) -> list[str]:
    """``o`` + 16 hex of SHA-256 over the first epoch's row indices (int64, little-endian)."""
    return ["o" + hashlib.sha256(np.ascontiguousarray(o, dtype="<i8").tobytes()).hexdigest()[:16] for o in orders]


class Rows:
    """The data set on the device, and each run's minibatches.

    Row orders are a function of (seed, epoch) alone. With batch size ``full`` the rows stay in stored order.
    """

    def __init__(
        self, structure: Structure, runs: Sequence[Run], dataset: Dataset, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.structure, self.device = structure, device
        self.seeds = list(dict.fromkeys(run.seed for run in runs))
        self.seed_of_run = torch.tensor([self.seeds.index(run.seed) for run in runs])

        def put(array: np.ndarray[Any, Any]) -> Tensor:
            tensor = torch.from_numpy(array)
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else torch.int64)

        self.train_x, self.train_targets = put(dataset.train.features), put(dataset.train.targets)
        self.validation = (put(dataset.validation.features), put(dataset.validation.targets))
        self.test = (put(dataset.test.features), put(dataset.test.targets))
        # Targets trained on, one row per run, or one for all where there is no label noise.
        self.fit_targets = self.train_targets[None]
        noise = structure.data.label_noise
        if noise:
            labels = np.stack([noisy_labels(dataset, noise, seed) for seed in self.seeds])
            self.fit_targets = put(labels)[self.seed_of_run.to(device)]

    def orders(self, epoch: int) -> list[np.ndarray[Any, Any]]:
        """Row order of an epoch (from 1), one array per seed."""
        n = self.structure.shape.n_train
        if self.structure.full_batch:
            return [np.arange(n)] * len(self.seeds)
        return [stream(seed, "order", epoch).permutation(n) for seed in self.seeds]

    def order_ids(self) -> list[str]:
        """Each run's order_id."""
        found = order_ids(self.orders(1))
        return [found[index] for index in self.seed_of_run.tolist()]

    def minibatches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield x [run, in, sample] and targets [run, sample] for each step of an epoch."""
        n, size, steps = self.structure.shape.n_train, self.structure.batch_size, self.structure.steps_per_epoch
        n_runs = len(self.seed_of_run)
        order = torch.from_numpy(np.stack(self.orders(epoch)))[self.seed_of_run].to(self.device)
        for start in range(0, steps * size, size):
            index = order[:, start : min(start + size, n)]
            x = self.train_x.index_select(0, index.reshape(-1)).view(n_runs, -1, self.structure.shape.n_inputs)
            yield x.transpose(1, 2), self.fit_targets.expand(n_runs, -1).gather(1, index)


class Recorder:
    """Turns the state after an epoch into records, outcomes and arrays."""

    def __init__(self, structure: Structure, runs: Sequence[Run], rows: Rows, options: Options) -> None:
        self.structure, self.runs, self.rows, self.options = structure, runs, rows, options
        probe = rows.train_x[probe_rows(structure.shape.n_train, options.probe)]
        self.probe = probe.expand(len(runs), -1, -1).contiguous().transpose(1, 2)
        self.predictions: Tensor | None = None

    def due(self, every: int, epoch: int) -> bool:
        """Whether something with this cadence is due; the first and the last epoch always are."""
        return epoch in (0, self.structure.epochs) or (every > 0 and epoch % every == 0)

    def epoch(
        self,
        epoch: int,
        parameters: Parameters,
        running: list[Statistics],
        gradients: Parameters | None,
        minibatches: _Sums | None,
        diverged: Sequence[int | None],
        identities: Sequence[str],
    ) -> Epoch:
        """Record what is due after an epoch. A diverged run's rows end with the epoch in which it diverged."""
        present = [at is None or at == epoch for at in diverged]
        just_ended = [at == epoch for at in diverged]
        train = minibatches.means() if minibatches is not None else {}
        records: list[Record] = []
        curves: dict[str, Tensor] = {}
        if self.due(self.options.evaluate_every, epoch) or any(just_ended):
            shown = present if self.due(self.options.evaluate_every, epoch) else just_ended
            curves = {**train, **self.evaluations(epoch, parameters, running)}
            records.append(
                Record(
                    "curves", (), tuple(curves), torch.stack([column.double() for column in curves.values()], 1), shown
                )
            )
        due = [name for name, every in self.options.measure.items() if self.due(every, epoch)]
        if due:
            taps = forward(parameters, self.probe, self.structure, with_taps=True).taps
            reading = Reading(parameters, taps, gradients, self.structure, self.runs, self.options.track)
            for name in due:
                for record in MEASURES[name].read(reading):
                    rows = present if record.present is None else _both(present, record.present)
                    records.append(record._replace(present=rows))
        loss = train["train_loss"] if train else torch.full((1,), math.nan)
        outcomes = None
        if epoch == self.structure.epochs:
            outcomes = self.outcomes(curves, diverged, identities)
        alive = [at is None for at in diverged]
        shown_loss = float(loss[loss.isfinite()].mean()) if bool(loss.isfinite().any()) else math.nan
        return Epoch(epoch, records, alive, shown_loss, outcomes, lambda: self.arrays(parameters, running))

    def last(
        self,
        parameters: Parameters,
        running: list[Statistics],
        diverged: Sequence[int | None],
        identities: Sequence[str],
    ) -> Epoch:
        """The end of a stack in which every run has diverged before the last epoch."""
        outcomes = self.outcomes({}, diverged, identities)
        alive = [False] * len(self.runs)
        return Epoch(self.structure.epochs, [], alive, math.nan, outcomes, lambda: self.arrays(parameters, running))

    def evaluations(self, epoch: int, parameters: Parameters, running: list[Statistics]) -> dict[str, Tensor]:
        """Loss and accuracy (R²) on all training rows when due, on validation and on test rows, by each statistics."""
        splits = [("val", *self.rows.validation), ("test", *self.rows.test)]
        if self.due(self.options.fit_every, epoch):
            splits.insert(0, ("fit", self.rows.train_x, self.rows.fit_targets))
        columns: dict[str, Tensor] = {}
        for kind in self.options.evaluate:
            given: list[Statistics] | None = running
            if kind == "population":
                given = population_statistics(parameters, self.rows.train_x, self.structure)
            elif kind == "batch":
                given = None
            suffix = "" if kind == "running" else f"_{kind}"
            for split, x, targets in splits:
                if len(x):
                    found = evaluate(parameters, given, x, targets, self.structure)
                    metric = "accuracy" if self.structure.shape.task == "classification" else "r2"
                    columns[f"{split}_loss{suffix}"], columns[f"{split}_{metric}{suffix}"] = found.loss, found.score
                    if split == "test" and kind == self.options.evaluate[0]:
                        self.predictions = found.predictions
        return columns

    def outcomes(
        self, curves: Mapping[str, Tensor], diverged: Sequence[int | None], identities: Sequence[str]
    ) -> list[Outcome]:
        """One Outcome per run; a diverged run has no final metrics and has not learned."""
        values = {name: column.tolist() for name, column in curves.items()}
        found = []
        for index, (run, order) in enumerate(zip(self.runs, self.rows.order_ids(), strict=True)):
            at = diverged[index]
            metrics = {name: column[index] for name, column in values.items()} if at is None else {}
            found.append(
                Outcome(
                    "done" if at is None else "diverged",
                    at,
                    at is None and has_learned(metrics, self.structure, self.options.learned_at),
                    self.structure.n_parameters(run.switches),
                    identities[index],
                    order,
                    metrics,
                )
            )
        return found

    def arrays(self, parameters: Parameters, running: list[Statistics]) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of weights, running statistics and final test predictions, run axis first."""
        found = {name: tensor.detach().cpu().numpy().copy() for name, tensor in parameters.items()}
        for layer, statistics in enumerate(running, start=1):
            found[f"running_mean{layer}"] = statistics.mean.cpu().numpy().copy()
            found[f"running_variance{layer}"] = statistics.variance.cpu().numpy().copy()
        if self.predictions is not None and self.structure.shape.task == "classification":
            correct = (self.predictions == self.rows.test[1]).cpu().numpy()
            found["test_correct"] = correct
        return found


UNEXPLAINED_AT_MOST = 0.9  # regression: a run has learned if it explains a tenth of the variance


def has_learned(metrics: Mapping[str, float], structure: Structure, learned_at: float) -> bool:
    """Classification: fit_accuracy ≥ chance + learned_at·(1 − chance), chance = 1/classes; regression: 1 − fit_r2 ≤ .9.

    Evaluated with the first kind of statistics that the study asks for.
    """
    if structure.shape.task == "classification":
        accuracy = next(value for name, value in metrics.items() if name.startswith("fit_accuracy"))
        chance = 1 / structure.shape.n_outputs
        return accuracy >= chance + learned_at * (1 - chance)
    return 1 - next(value for name, value in metrics.items() if name.startswith("fit_r2")) <= UNEXPLAINED_AT_MOST


def _both(first: Sequence[bool], second: Sequence[bool]) -> list[bool]:
    return [a and b for a, b in zip(first, second, strict=True)]
