"""What is kept of a training: epochs as records, and how each run ended. It looks, and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bnexp.arrays import Array, as_tensors, library, on_cpu, put, quiet
from bnexp.batches import Rows
from bnexp.evaluation import evaluate, population_statistics, probe_rows
from bnexp.measures import MEASURES, LastStep, Measure, NextStep, Reading, Record
from bnexp.network import Batch, Parameters, forward
from bnexp.norms import Statistics
from bnexp.plan import Run, Structure
from bnexp.spec import Spec


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

    ``arrays()`` copies everything that the run's end needs, and ``checkpoint()`` what its continuation needs.
    """

    number: int
    records: Sequence[Record]
    alive: Sequence[bool]
    loss: float  # mean training loss of the runs that are finite, for the progress line
    outcomes: Sequence[Outcome] | None
    arrays: Callable[[], dict[str, np.ndarray[Any, Any]]]
    checkpoint: Callable[[], dict[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Options:
    """What the study asks to be recorded: see ``bnexp.spec.StudyFields``; ``measure`` maps a measure to its options."""

    evaluate: tuple[str, ...]
    evaluate_every: int
    fit_every: int
    probe: int
    track: int
    learned_at: float
    measure: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, spec: Spec) -> Options:
        """Those of a spec."""
        s = spec.study
        return cls(s.evaluate, s.evaluate_every, s.fit_every, s.probe, s.track, s.learned_at, spec.measure)


class State(NamedTuple):
    """A stack between two epochs. ``last`` and ``means`` (the minibatches') are None at epoch 0."""

    parameters: Parameters
    optimizer: Parameters
    running: list[Statistics]
    last: LastStep | None
    means: Mapping[str, Array] | None
    diverged: Sequence[int | None]
    identities: Sequence[str]


class Recorder:
    """Turns the state after an epoch into records, outcomes and arrays."""

    def __init__(self, structure: Structure, runs: Sequence[Run], rows: Rows, options: Options) -> None:
        self.structure, self.runs, self.rows, self.options = structure, runs, rows, options
        chosen = probe_rows(structure.shape.n_train, options.probe)
        targets = rows.fit_targets[:, chosen]
        of_each = targets if len(targets) > 1 else library(targets).concatenate([targets] * len(runs))
        self.probe = Batch(rows.train_x[chosen].T[None], of_each)
        self.measures = [(MEASURES[name], options.measure[name]) for name in options.measure]
        self.memory: dict[str, dict[str, Array]] = {name: {} for name in options.measure}
        self.within: list[Record] = []  # what was read inside the epoch
        self.predictions: Array | None = None

    def due(self, every: int, epoch: int, first: int = 0) -> bool:
        """Whether something with this cadence is due; the first and the last epoch always are."""
        return epoch in (first, self.structure.epochs) or (every > 0 and epoch % every == 0)

    # --- inside an epoch ----------------------------------------------------------------------------------------------

    def reads_next_step(self, epoch: int) -> bool:
        """Whether some measure looks at the first step of this epoch."""
        return any(m.read_step and self.due(options["every"], epoch, first=1) for m, options in self.measures)

    def stops(self, epoch: int) -> list[int]:
        """The steps of an epoch (from 1), but for the last, after which some measure looks."""
        steps = self.structure.steps_per_epoch
        begun = (epoch - 1) * steps
        every = [options["steps"] for measure, options in self.measures if measure.trace and options["steps"]]
        return [step for step in range(1, steps) if any((begun + step) % one == 0 for one in every)] if every else []

    def before_first_step(self, step: NextStep) -> None:
        """Let the measures look that read the first step of an epoch."""
        for measure, options in self.measures:
            if measure.read_step and self.due(options["every"], step.epoch, first=1):
                seen = step if measure.by_arrays else as_tensors(step)
                self.within += measure.read_step(seen._replace(options=options))

    def reads_last_step(self, epoch: int) -> bool:
        """Whether some measure will ask for the last step of this epoch."""
        return any(m.needs_last_step and self.due(options["every"], epoch) for m, options in self.measures)

    def after_step(self, epoch: int, step: int, parameters: Parameters, running: list[Statistics]) -> None:
        """Let the measures look that read every so many steps, after a step of the epoch (from 1)."""
        count = (epoch - 1) * self.structure.steps_per_epoch + step
        for measure, options in self.measures:
            if measure.trace and options["steps"] and count % options["steps"] == 0:
                reading = self._reading(epoch, parameters, running, None)
                self.within += measure.trace(self._own(reading, measure, options), count)

    def _reading(self, epoch: int, parameters: Parameters, running: list[Statistics], last: LastStep | None) -> Reading:
        taps = forward(parameters, self.probe.x, self.structure, with_taps=True).taps
        return Reading(
            epoch, parameters, running, self.probe, taps, self.rows, last, self.structure, self.runs,
            self.options.track, {}, {},
        )  # fmt: skip

    def _own(self, reading: Reading, measure: Measure, options: Mapping[str, Any]) -> Reading:
        seen = reading if measure.by_arrays else as_tensors(reading)
        return seen._replace(options=options, memory=self.memory[measure.name])

    # --- after an epoch -----------------------------------------------------------------------------------------------

    def epoch(self, epoch: int, state: State) -> Epoch:
        """Record what is due after an epoch. A diverged run's rows end with the epoch in which it diverged."""
        with quiet():
            return self._epoch(epoch, state)

    def _epoch(self, epoch: int, state: State) -> Epoch:
        present = [at is None or at == epoch for at in state.diverged]
        records: list[Record] = []
        curves = self._curves(epoch, state, present, records)
        due = [(m, options) for m, options in self.measures if m.read and self.due(options["every"], epoch)]
        found, self.within = self.within, []
        if due:
            reading = self._reading(epoch, state.parameters, state.running, state.last)
            for measure, options in due:
                assert measure.read is not None
                found += measure.read(self._own(reading, measure, options))
        records += (r._replace(present=present if r.present is None else _both(present, r.present)) for r in found)
        outcomes = self.outcomes(curves, state) if epoch == self.structure.epochs else None
        alive = [at is None for at in state.diverged]
        loss = on_cpu(state.means["train_loss"]) if state.means else np.full(1, math.nan)
        finite = loss[np.isfinite(loss)]
        shown = float(finite.mean()) if len(finite) else math.nan
        return Epoch(epoch, records, alive, shown, outcomes, lambda: self.arrays(state), lambda: self.checkpoint(state))

    def last(self, state: State) -> Epoch:
        """The end of a stack in which every run has diverged before the last epoch."""
        alive = [False] * len(self.runs)
        outcomes = self.outcomes({}, state)
        return Epoch(
            self.structure.epochs,
            [],
            alive,
            math.nan,
            outcomes,
            lambda: self.arrays(state),
            lambda: self.checkpoint(state),
        )

    def _curves(self, epoch: int, state: State, present: Sequence[bool], records: list[Record]) -> Mapping[str, Array]:
        """Evaluate if it is due, or if a run has just diverged; add the row and return its columns."""
        just_ended = [at == epoch for at in state.diverged]
        due = self.due(self.options.evaluate_every, epoch)
        if not (due or any(just_ended)):
            return {}
        curves = {**(state.means or {}), **self.evaluations(epoch, state.parameters, state.running)}
        values = np.stack([on_cpu(column).astype(np.float64) for column in curves.values()], 1)
        records.append(Record("curves", (), tuple(curves), values, present if due else just_ended))
        return curves

    def evaluations(self, epoch: int, parameters: Parameters, running: list[Statistics]) -> dict[str, Array]:
        """Loss and accuracy (R²) on all training rows when due, on validation and on test rows, by each statistics."""
        splits = [("val", *self.rows.validation), ("test", *self.rows.test)]
        if self.due(self.options.fit_every, epoch):
            splits.insert(0, ("fit", self.rows.train_x, self.rows.fit_targets))
        columns: dict[str, Array] = {}
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

    def outcomes(self, curves: Mapping[str, Array], state: State) -> list[Outcome]:
        """One Outcome per run; a diverged run has no final metrics and has not learned."""
        values = {name: column.tolist() for name, column in curves.items()}
        found = []
        for index, (run, order) in enumerate(zip(self.runs, self.rows.order_ids(), strict=True)):
            at = state.diverged[index]
            metrics = {name: column[index] for name, column in values.items()} if at is None else {}
            found.append(
                Outcome(
                    "done" if at is None else "diverged",
                    at,
                    at is None and has_learned(metrics, self.structure, self.options.learned_at),
                    self.structure.n_parameters(run.switches, run.setting.train.only),
                    state.identities[index],
                    order,
                    metrics,
                )
            )
        return found

    def checkpoint(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of all that a stack needs to go on after this epoch, run axis first: ``restore`` puts them back."""
        found = trained_arrays(state)
        found |= {f"optimizer.{name}": on_cpu(array).copy() for name, array in state.optimizer.items() if array.ndim}
        for measure, kept in self.memory.items():
            found |= {f"memory.{measure}.{name}": on_cpu(array).copy() for name, array in kept.items()}
        found["diverged"] = np.array([-1 if at is None else at for at in state.diverged], np.int64)
        return found

    def restore(self, saved: Sequence[Mapping[str, np.ndarray[Any, Any]]], state: State, epoch: int) -> State:
        """Put back what ``checkpoint`` copied after an epoch, one mapping a shard; the state with who had diverged."""
        places = dict(state.parameters)
        places |= {f"optimizer.{name}": array for name, array in state.optimizer.items() if array.ndim}
        for layer, statistics in enumerate(state.running, start=1):
            places[f"running_mean{layer}"], places[f"running_variance{layer}"] = statistics
        first, kept, diverged = 0, [], []
        for arrays in saved:
            here = slice(first, first + len(arrays["diverged"]))
            # What a shard's own stack did not have, a γ that none of its runs learns, stays as it starts.
            for name, place in places.items():
                if name in arrays:
                    place[here] = put(arrays[name], self.rows.device)
            kept.append({name: array for name, array in arrays.items() if name.startswith("memory.")})
            diverged += [None if at < 0 else int(at) for at in arrays["diverged"]]
            first = here.stop
        if "t" in state.optimizer:  # Adam's count of steps, which all runs share
            state.optimizer["t"][...] = epoch * self.structure.steps_per_epoch
        for name in dict.fromkeys(name for part in kept for name in part):
            _, measure, key = name.split(".", 2)
            whole = put(_joined([part.get(name) for part in kept], saved), self.rows.device)
            self.memory[measure][key] = whole if MEASURES[measure].by_arrays else as_tensors(whole)
        return state._replace(diverged=diverged)

    def arrays(self, state: State) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of weights, running statistics and final test predictions, run axis first."""
        found = trained_arrays(state)
        ended = np.array([at is not None for at in state.diverged])
        if self.structure.shape.task == "classification" and (self.predictions is not None or ended.all()):
            right = np.zeros((len(self.runs), len(self.rows.test[1])), np.bool_)
            if self.predictions is not None:
                right[:] = on_cpu(self.predictions == self.rows.test[1])
            right[ended] = False  # a run that diverged predicts nothing
            found["test_correct"] = right
        return found


def _joined(
    parts: Sequence[np.ndarray[Any, Any] | None], saved: Sequence[Mapping[str, np.ndarray[Any, Any]]]
) -> np.ndarray[Any, Any]:
    """The shards' arrays one after the other; NaN for a tap that a shard's stack did not have."""
    like = next(part for part in parts if part is not None)
    missing = [np.full((len(arrays["diverged"]), *like.shape[1:]), np.nan, like.dtype) for arrays in saved]
    return np.concatenate([none if part is None else part for part, none in zip(parts, missing, strict=True)])


def trained_arrays(state: State) -> dict[str, np.ndarray[Any, Any]]:
    """Copies of the weights and running statistics, run axis first."""
    found = {name: on_cpu(array).copy() for name, array in state.parameters.items()}
    for layer, statistics in enumerate(state.running, start=1):
        found[f"running_mean{layer}"] = on_cpu(statistics.mean).copy()
        found[f"running_variance{layer}"] = on_cpu(statistics.variance).copy()
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


def _both(first: Iterable[bool], second: Iterable[bool]) -> list[bool]:
    return [a and b for a, b in zip(first, second, strict=True)]
