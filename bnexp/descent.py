"""Many steps of plain gradient descent on a CPU, run after run: each run's numbers stay in the cache from step to step.

``descend`` is a step written out for one network, compiled: rows, forward, loss, backward, update, running statistics.
Products are calls of BLAS. It computes what ``bnexp.cpu_step`` and an update compute for all runs in lockstep, but for
rounding; the tests hold it against the twin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bnexp import kernels
from bnexp.batches import Rows
from bnexp.kernels import KINDS, compiled
from bnexp.network import Parameters
from bnexp.norms import Statistics
from bnexp.optimizers import Knobs
from bnexp.plan import Structure

_Array = np.ndarray[Any, Any]


def can_descend(structure: Structure, device: str) -> bool:
    """Whether ``Descent`` trains the structure: on a CPU, by SGD, without noise."""
    return device == "cpu" and kernels.AVAILABLE and structure.optimizer == "sgd" and structure.noise == "none"


# Columns of the table of layers: widths; the first place of weight, bias, γ and β in a run's numbers (−1: none); the
# first unit of the layer among all.
OUT, IN, WEIGHT, BIAS, GAMMA, BETA, UNIT = range(7)


class _Layers:
    """Where each layer's numbers lie in a run's flat array; ``table``, one row per layer, is for the compiled loops."""

    def __init__(self, parameters: Parameters, structure: Structure) -> None:
        self.slices: dict[str, slice] = {}
        end = 0
        for name, array in parameters.items():
            self.slices[name] = slice(end, end + array[0].size)
            end += array[0].size
        self.size = end
        units = np.cumsum([0, *structure.widths[1:]])
        rows = []
        for layer, (n_in, n_out) in enumerate(pairwise(structure.widths), start=1):
            firsts = [self._first(f"{kind}{layer}") for kind in ("weight", "bias", "gamma", "beta")]
            rows.append([n_out, n_in, *firsts, units[layer - 1]])
        self.table = np.array(rows, np.int64)

    def _first(self, name: str) -> int:
        return self.slices[name].start if name in self.slices else -1

    def gather(self, arrays: Parameters, out: _Array) -> None:
        """Copy arrays [run, …] to their places in out [run, number]."""
        for name, here in self.slices.items():
            out[:, here] = arrays[name].reshape(len(out), -1)

    def scatter(self, numbers: _Array, arrays: Parameters) -> None:
        """Copy them back."""
        for name, here in self.slices.items():
            arrays[name][:] = numbers[:, here].reshape(arrays[name].shape)


class Descent:
    """A stack's parameters, optimizer state and running statistics, and memory for one network's step."""

    def __init__(
        self,
        parameters: Parameters,
        state: Parameters,
        running: Sequence[Statistics],
        structure: Structure,
        knobs: Knobs,
        keep: _Array,
    ) -> None:
        self.parameters, self.state, self.running = parameters, state, running
        self.structure, self.knobs, self.keep = structure, knobs, keep
        self.layers = _Layers(parameters, structure)
        runs, self.dtype = len(parameters["weight1"]), parameters["weight1"].dtype
        n, units, top = structure.batch_size, sum(structure.widths[1:-1]), structure.widths[-1]
        self.numbers, self.velocities = (np.empty((runs, self.layers.size), self.dtype) for _ in range(2))
        self.masks = np.ones_like(self.numbers)
        for name, mask in knobs.masks.items():
            if name in self.layers.slices:
                self.masks[:, self.layers.slices[name]] = np.broadcast_to(mask, parameters[name].shape).reshape(
                    runs, -1
                )
        self.masked = any(name.startswith("weight") for name in knobs.masks)
        self.statistics = tuple(np.zeros((runs, units), self.dtype) for _ in range(2))
        ghosts = n // structure.ghost_size if structure.ghost_size else 1
        # A step of one network: the gradient; γ and β where there are none; mean and variance [unit, ghost].
        self.gradient = np.empty(self.layers.size, self.dtype)
        self.neutral = np.ones(units, self.dtype), np.zeros(units, self.dtype), np.empty(units, self.dtype)
        self.moments = np.empty((units, ghosts), self.dtype), np.empty((units, ghosts), self.dtype)
        # Rows, classes, values; per unit and sample: preactivation, what lies between norm and activation, output,
        # ∂loss/∂output; logits and ∂loss/∂logits.
        self.batch = (np.empty((n, structure.widths[0]), self.dtype), np.empty(n, np.int64), np.empty(n, self.dtype))
        self.places = tuple(np.empty(units * n, self.dtype) for _ in range(4))
        self.ends = tuple(np.empty((top, n), self.dtype) for _ in range(2))

    def __call__(
        self, rows: Rows, orders: tuple[_Array, _Array], first: int, last: int, rates: _Array
    ) -> tuple[_Array, _Array]:
        """Take an epoch's steps first … last − 1 (from 0); each run's losses and correct predictions, [run, step].

        ``orders``: the epoch's row order of each group of runs, and the group of each run. ``rates`` [run].
        """
        s, knobs, number = self.structure, self.knobs, self.dtype.type
        losses = np.empty((len(self.numbers), last - first), self.dtype)
        correct = np.zeros(losses.shape, np.int64)
        classes = s.shape.task == "classification"
        labels = rows.fit_targets if classes else np.zeros((1, 1), np.int64)
        values = np.zeros((1, 1), self.dtype) if classes else rows.fit_targets
        transforms = s.normalizes or "gamma1" in self.parameters
        size = s.ghost_size or s.batch_size
        self.layers.gather(self.parameters, self.numbers)
        self.layers.gather(self.state, self.velocities)
        for kind, (memory, kept) in enumerate(zip(self.statistics, self._running(), strict=True)):
            memory[:] = np.concatenate(kept, 1) if kept else kind
        descend(
            first,
            last,
            classes,
            (rows.train_x, labels, values, *orders),
            (s.placement == "pre", KINDS[s.activation]),
            (transforms, s.normalizes, number(s.center), s.scale, number(s.eps), number(size / max(size - 1, 1))),
            self.layers.table,
            (self.numbers, self.velocities, self.masks),
            (rates, self.keep, knobs.momentum, knobs.weight_decay, knobs.norm_decay),
            (self.masked, s.nesterov),
            self.statistics,
            self.gradient,
            self.neutral,
            self.moments,
            self.batch,
            self.places,
            self.ends,
            losses,
            correct,
        )
        self.layers.scatter(self.numbers, self.parameters)
        self.layers.scatter(self.velocities, self.state)
        ends = np.cumsum(s.hidden)[:-1]
        for memory, kept in zip(self.statistics, self._running(), strict=True):
            for old, new in zip(kept, np.split(memory, ends, 1), strict=False):
                old[:] = new
        return losses, correct

    def _running(self) -> tuple[list[_Array], list[_Array]]:
        return [one.mean for one in self.running], [one.variance for one in self.running]


@compiled
def descend(
    first: int,
    last: int,
    classes: bool,
    data: Any,
    unit: Any,
    norm: Any,
    layers: _Array,
    stack: Any,
    rates: Any,
    switches: Any,
    running: Any,
    gradient: _Array,
    neutral: Any,
    moments: Any,
    batch: Any,
    places: Any,
    ends: Any,
    losses: _Array,
    correct: _Array,
) -> None:
    """Steps first … last − 1 of every run, one run after the other; ``Descent`` says what is in each tuple."""
    numbers, velocities, masks = stack
    lr, keep, momentum, weight_decay, norm_decay = rates
    masked, nesterov = switches
    logits, top = ends
    nowhere = lr.dtype.type(math.nan)
    for run in range(losses.shape[0]):
        own = numbers[run]
        for step in range(first, last):
            take_rows(run, step, classes, data, batch)
            forward(own, layers, unit, norm, batch[0], neutral, moments, places, logits)
            if classes:
                loss, correct[run, step - first] = kernels.classify(logits, batch[1], top)
            else:
                loss = kernels.regress(logits, batch[2], top)
            losses[run, step - first] = loss
            backward(own, layers, unit, norm, batch[0], neutral, moments, places, top, gradient)
            # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
            rate = lr[run] if math.isfinite(loss) else nowhere
            decays = weight_decay[run], norm_decay[run]
            update(own, gradient, velocities[run], masks[run], masked, layers, rate, momentum[run], decays, nesterov)
            if norm[1]:
                follow(running[0][run], running[1][run], moments, keep[run], norm[5])


@compiled
def take_rows(run: int, step: int, classes: bool, data: Any, batch: Any) -> None:
    """The rows and targets of a run's step, to their places."""
    x, labels, values, order, group_of_run = data
    rows, chosen, goals = batch
    n, features = rows.shape
    own = order[group_of_run[run]]
    own_labels = labels[run if labels.shape[0] > 1 else 0]
    own_values = values[run if values.shape[0] > 1 else 0]
    for i in range(n):
        row = own[step * n + i]
        source, target = x[row], rows[i]
        for j in range(features):
            target[j] = source[j]
        if classes:
            chosen[i] = own_labels[row]
        else:
            goals[i] = own_values[row]


@compiled
def weight_of(own: _Array, layers: _Array, layer: int) -> _Array:
    """A layer's weight matrix [out, in]."""
    n_out, n_in, start = layers[layer, OUT], layers[layer, IN], layers[layer, WEIGHT]
    return own[start : start + n_out * n_in].reshape(n_out, n_in)


@compiled
def units_of(numbers: _Array, layers: _Array, layer: int, n: int) -> _Array:
    """A hidden layer's part of numbers that are laid out unit by unit, [unit, n]."""
    first, count = layers[layer, UNIT], layers[layer, OUT]
    return numbers[first * n : (first + count) * n].reshape(count, n)


@compiled
def part_of(own: _Array, start: int, layers: _Array, layer: int, otherwise: _Array) -> _Array:
    """A layer's numbers [unit] from ``start`` on, or where that is −1 those of the layer's units in ``otherwise``."""
    count = layers[layer, OUT]
    if start >= 0:
        return own[start : start + count]
    first = layers[layer, UNIT]
    return otherwise[first : first + count]


@compiled
def forward(
    own: _Array,
    layers: _Array,
    unit: Any,
    norm: Any,
    rows: _Array,
    neutral: Any,
    moments: Any,
    places: Any,
    logits: _Array,
) -> None:
    """From a network's rows to its logits."""
    before, kind = unit
    transforms, _, center, scale, eps, _ = norm
    n, hidden = rows.shape[0], layers.shape[0] - 1
    for layer in range(hidden):
        a, between, output = (
            units_of(places[0], layers, layer, n),
            units_of(places[1], layers, layer, n),
            units_of(places[2], layers, layer, n),
        )
        if layer == 0:
            np.dot(weight_of(own, layers, 0), rows.T, a)
        else:
            np.dot(weight_of(own, layers, layer), units_of(places[2], layers, layer - 1, n), a)
        if layers[layer, BIAS] >= 0:
            kernels.add_to_units(a, part_of(own, layers[layer, BIAS], layers, layer, neutral[1]))
        if not before:
            kernels.activate(a.reshape(-1), between.reshape(-1), kind)
        source, target = (a, between) if before else (between, output)
        if transforms:
            units, ghosts = layers[layer, OUT], moments[0].shape[1]
            kernels.normalize_units(
                source.reshape(units, ghosts, n // ghosts),
                part_of(own, layers[layer, GAMMA], layers, layer, neutral[0]),
                part_of(own, layers[layer, BETA], layers, layer, neutral[1]),
                center,
                scale,
                eps,
                units_of(moments[0].reshape(-1), layers, layer, ghosts),
                units_of(moments[1].reshape(-1), layers, layer, ghosts),
                target.reshape(units, ghosts, n // ghosts),
            )
        elif not before:
            target[:] = source
        if before:
            kernels.activate((between if transforms else a).reshape(-1), output.reshape(-1), kind)
    np.dot(weight_of(own, layers, hidden), units_of(places[2], layers, hidden - 1, n), logits)
    kernels.add_to_units(logits, part_of(own, layers[hidden, BIAS], layers, hidden, neutral[1]))


@compiled
def backward(
    own: _Array,
    layers: _Array,
    unit: Any,
    norm: Any,
    rows: _Array,
    neutral: Any,
    moments: Any,
    places: Any,
    top: _Array,
    gradient: _Array,
) -> None:
    """From ∂loss/∂logits to the gradient of everything, laid out as the numbers are."""
    before, kind = unit
    transforms, _, center, scale, eps, _ = norm
    n, hidden = rows.shape[0], layers.shape[0] - 1
    above = top
    for back in range(hidden + 1):
        layer = hidden - back
        if back > 0:
            above = units_of(places[3], layers, layer, n)
            np.dot(
                weight_of(own, layers, layer + 1).T,
                top if back == 1 else units_of(places[3], layers, layer + 1, n),
                above,
            )
            a, between, output = (
                units_of(places[0], layers, layer, n),
                units_of(places[1], layers, layer, n),
                units_of(places[2], layers, layer, n),
            )
            if before:
                kernels.through_activation(above.reshape(-1), output.reshape(-1), kind)
            if transforms:
                units, ghosts = layers[layer, OUT], moments[0].shape[1]
                kernels.units_through_norm(
                    above.reshape(units, ghosts, n // ghosts),
                    (a if before else between).reshape(units, ghosts, n // ghosts),
                    part_of(own, layers[layer, GAMMA], layers, layer, neutral[0]),
                    center,
                    scale,
                    eps,
                    units_of(moments[0].reshape(-1), layers, layer, ghosts),
                    units_of(moments[1].reshape(-1), layers, layer, ghosts),
                    part_of(gradient, layers[layer, GAMMA], layers, layer, neutral[2]),
                    part_of(gradient, layers[layer, BETA], layers, layer, neutral[2]),
                )
            if not before:
                kernels.through_activation(above.reshape(-1), between.reshape(-1), kind)
        if layer > 0:
            np.dot(above, units_of(places[2], layers, layer - 1, n).T, weight_of(gradient, layers, layer))
        else:
            np.dot(above, rows, weight_of(gradient, layers, 0))
        if layers[layer, BIAS] >= 0:
            kernels.sum_units(above, part_of(gradient, layers[layer, BIAS], layers, layer, neutral[2]))


@compiled
def update(
    own: _Array,
    gradient: _Array,
    velocity: _Array,
    mask: _Array,
    masked: bool,
    layers: _Array,
    rate: Any,
    momentum: Any,
    decays: Any,
    nesterov: bool,
) -> None:
    """A network's step of SGD, as ``bnexp.optimizers`` has it."""
    for layer in range(layers.shape[0]):
        for kind in (WEIGHT, BIAS, GAMMA, BETA):
            start = layers[layer, kind]
            if start >= 0:
                end = start + layers[layer, OUT] * (layers[layer, IN] if kind == WEIGHT else 1)
                decay = decays[0] if kind == WEIGHT else (decays[1] if kind != BIAS else decays[0] * 0)
                kernels.update(
                    own[start:end],
                    gradient[start:end],
                    velocity[start:end],
                    mask[start:end],
                    masked or kind != WEIGHT,
                    rate,
                    momentum,
                    decay,
                    nesterov,
                )


@compiled
def follow(running_mean: _Array, running_variance: _Array, moments: Any, keep: Any, unbiased: Any) -> None:
    """A network's running statistics after a step: ``bnexp.norms.update_running``."""
    mean, variance = moments
    for unit in range(mean.shape[0]):
        for ghost in range(mean.shape[1]):
            running_mean[unit] += keep * (mean[unit, ghost] - running_mean[unit])
            running_variance[unit] += keep * (unbiased * variance[unit, ghost] - running_variance[unit])
