"""Many steps of plain gradient descent on a CPU, run after run: each run's numbers stay in the cache from step to step.

``descend`` is a step written out for one network, compiled: rows, forward, loss, backward, update, running statistics.
Products are calls of BLAS. It computes what ``bnexp.cpu_step`` and an update compute for all runs in lockstep, but for
rounding; the tests hold it against the twin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


class Descent:
    """A stack's parameters, optimizer state and running statistics, and the places where a step leaves its numbers."""

    def __init__(
        self,
        parameters: Parameters,
        state: Parameters,
        running: Sequence[Statistics],
        structure: Structure,
        knobs: Knobs,
        keep: _Array,
    ) -> None:
        self.structure = structure
        weight, n, hidden = parameters["weight1"], structure.batch_size, structure.hidden
        self.runs, self.dtype, self.widths = len(weight), weight.dtype, structure.widths[1:]
        layers = range(1, structure.n_layers + 1)
        kinds = (("weight", 0.0), ("bias", 0.0), ("gamma", 1.0), ("beta", 0.0))
        self.weights = tuple(parameters[f"weight{layer}"] for layer in layers)
        self.others = tuple(self._of_layers(kind, parameters, neutral) for kind, neutral in kinds[1:])
        self.has = tuple(np.array([f"{kind}{layer}" in parameters for layer in layers]) for kind in ("bias", "gamma"))
        self.velocities = tuple(state[f"weight{layer}"] for layer in layers)
        self.other_velocities = tuple(self._of_layers(kind, state, 0.0) for kind, _ in kinds[1:])
        self.other_masks = tuple(self._of_layers(kind, knobs.masks, 1.0) for kind, _ in kinds[1:])
        self.masked = any(name.startswith("weight") for name in knobs.masks)
        self.masks = tuple(self._mask(knobs.masks.get(f"weight{layer}"), layer) for layer in layers)
        self.running = tuple(s.mean for s in running), tuple(s.variance for s in running)
        if not running:  # there must be something of this type
            self.running = ((np.zeros((0, 0), self.dtype),),) * 2
        self.per_run = (keep, knobs.momentum, knobs.weight_decay, knobs.norm_decay)
        ghosts = n // structure.ghost_size if structure.ghost_size else 1
        # Per hidden layer: preactivation, what lies between norm and activation, output, ∂loss/∂output.
        self.places = tuple(tuple(np.empty((width, n), self.dtype) for width in hidden) for _ in range(4))
        self.statistics = tuple(tuple(np.empty((width, ghosts), self.dtype) for width in hidden) for _ in range(2))
        self.gradients = tuple(np.empty_like(array[0]) for array in self.weights)
        self.other_gradients = tuple(tuple(np.empty(width, self.dtype) for width in self.widths) for _ in range(3))
        self.scratch = (
            np.empty((n, structure.widths[0]), self.dtype),
            *(np.empty((self.widths[-1], n), self.dtype) for _ in range(2)),
        )

    def __call__(
        self, rows: Rows, orders: tuple[_Array, _Array], first: int, last: int, rates: _Array
    ) -> tuple[_Array, _Array]:
        """Take an epoch's steps first … last − 1 (from 0); each run's losses and correct predictions, [run, step].

        ``orders``: the epoch's row order of each group of runs, and the group of each run. ``rates`` [run].
        """
        s, number = self.structure, self.dtype.type
        losses = np.empty((self.runs, last - first), self.dtype)
        correct = np.zeros((self.runs, last - first), np.int64)
        classes = s.shape.task == "classification"
        labels = rows.fit_targets if classes else np.zeros((1, 1), np.int64)
        values = np.zeros((1, 1), self.dtype) if classes else rows.fit_targets
        size = s.ghost_size or s.batch_size
        switches = (
            classes,
            s.placement == "pre",
            s.normalizes,
            s.normalizes or bool(self.has[1].any()),
            s.scale,
            s.nesterov,
            self.masked,
        )
        descend(
            first,
            last,
            (rows.train_x, labels, values, *orders),
            (rates, *self.per_run),
            switches,
            KINDS[s.activation],
            (number(s.center), number(s.eps), number(size / max(size - 1, 1))),
            (self.weights, self.velocities, self.masks, self.gradients),
            (self.others, self.other_velocities, self.other_masks, self.other_gradients),
            self.has,
            (self.running, self.statistics),
            self.places,
            self.scratch,
            losses,
            correct,
        )
        return losses, correct

    def _of_layers(self, kind: str, arrays: Mapping[str, _Array], neutral: float) -> tuple[_Array, ...]:
        """One array [run, unit] per layer: those of a kind, or where there is none the neutral number."""
        found = []
        for layer, width in enumerate(self.widths, start=1):
            array = arrays.get(f"{kind}{layer}")
            shape = (self.runs, width)
            if array is None:
                array = np.full(shape, neutral, self.dtype)
            found.append(array if array.shape == shape else np.ascontiguousarray(np.broadcast_to(array, shape)))
        return tuple(found)

    def _mask(self, mask: _Array | None, layer: int) -> _Array:
        """A weight's mask [run, out, in], or if no weight has one something of its type."""
        if not self.masked:
            return np.ones((1, 1, 1), self.dtype)
        shape = self.weights[layer - 1].shape
        return np.ascontiguousarray(np.broadcast_to(np.ones((1, 1, 1), self.dtype) if mask is None else mask, shape))


@compiled
def descend(
    first: int,
    last: int,
    data: Any,
    per_run: Any,
    switches: Any,
    kind: int,
    numbers: Any,
    weights: Any,
    others: Any,
    has: Any,
    norms: Any,
    places: Any,
    scratch: Any,
    losses: _Array,
    correct: _Array,
) -> None:
    """See ``Descent``: it says what each tuple holds. Losses and correct predictions are left in [run, step]."""
    x, labels, values, order, group_of_run = data
    rates, keep, momenta, decays, norm_decays = per_run
    classes, before, normalizes, transforms, scale, nesterov, masked = switches
    center, eps, unbiased = numbers
    w, velocity, mask, w_slope = weights
    (bias, gamma, beta), other_velocity, other_mask, (bias_slope, gamma_slope, beta_slope) = others
    has_bias, has_gamma = has
    (running_mean, running_variance), (mean, variance) = norms
    pre, mid, out, slope = places
    rows, logits, top = scratch
    n, hidden = rows.shape[0], len(pre)
    zero = rows.dtype.type(0)
    classes_of_rows, values_of_rows = np.empty(n, np.int64), np.empty(n, rows.dtype)
    for run in range(losses.shape[0]):
        own = run if max(labels.shape[0], values.shape[0]) > 1 else 0
        for step in range(first, last):
            for i in range(n):
                row = order[group_of_run[run], step * n + i]
                for j in range(rows.shape[1]):
                    rows[i, j] = x[row, j]
                if classes:
                    classes_of_rows[i] = labels[own, row]
                else:
                    values_of_rows[i] = values[own, row]

            # forward
            np.dot(w[0][run], rows.T, pre[0])
            for layer in range(hidden):
                if layer > 0:
                    np.dot(w[layer][run], out[layer - 1], pre[layer])
                if has_bias[layer]:
                    kernels.add_to_units(pre[layer], bias[layer][run])
                units, ghosts = mean[layer].shape
                shape = (units, ghosts, n // ghosts)
                source, target = (pre[layer], mid[layer]) if before else (mid[layer], out[layer])
                if not before:
                    kernels.activate(pre[layer].reshape(-1), mid[layer].reshape(-1), kind)
                if transforms:
                    kernels.normalize_units(
                        source.reshape(shape),
                        gamma[layer][run],
                        beta[layer][run],
                        center,
                        scale,
                        eps,
                        mean[layer],
                        variance[layer],
                        target.reshape(shape),
                    )
                else:
                    target[:] = source
                if before:
                    kernels.activate(mid[layer].reshape(-1), out[layer].reshape(-1), kind)
            np.dot(w[hidden][run], out[hidden - 1], logits)
            kernels.add_to_units(logits, bias[hidden][run])

            # loss
            if classes:
                loss, hits = kernels.classify(logits, classes_of_rows, top)
                correct[run, step - first] = hits
            else:
                loss = kernels.regress(logits, values_of_rows, top)
            losses[run, step - first] = loss
            # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
            rate = rates[run] if math.isfinite(loss) else zero * math.nan

            # backward
            np.dot(top, out[hidden - 1].T, w_slope[hidden])
            kernels.sum_units(top, bias_slope[hidden])
            np.dot(w[hidden][run].T, top, slope[hidden - 1])
            for back in range(hidden):
                layer = hidden - 1 - back
                units, ghosts = mean[layer].shape
                shape = (units, ghosts, n // ghosts)
                activation = out[layer] if before else mid[layer]
                if before:
                    kernels.through_activation(slope[layer].reshape(-1), activation.reshape(-1), kind)
                if transforms:
                    kernels.units_through_norm(
                        slope[layer].reshape(shape),
                        (pre[layer] if before else mid[layer]).reshape(shape),
                        gamma[layer][run],
                        center,
                        scale,
                        eps,
                        mean[layer],
                        variance[layer],
                        gamma_slope[layer],
                        beta_slope[layer],
                    )
                if not before:
                    kernels.through_activation(slope[layer].reshape(-1), activation.reshape(-1), kind)
                if layer > 0:
                    np.dot(slope[layer], out[layer - 1].T, w_slope[layer])
                    np.dot(w[layer][run].T, slope[layer], slope[layer - 1])
                else:
                    np.dot(slope[0], rows, w_slope[0])
                if has_bias[layer]:
                    kernels.sum_units(slope[layer], bias_slope[layer])

            # update
            momentum, decay, norm_decay = momenta[run], decays[run], norm_decays[run]
            for layer in range(hidden + 1):
                kernels.update(
                    w[layer][run].reshape(-1),
                    w_slope[layer].reshape(-1),
                    velocity[layer][run].reshape(-1),
                    mask[layer][run if masked else 0].reshape(-1),
                    masked,
                    rate,
                    momentum,
                    decay,
                    nesterov,
                )
                if has_bias[layer]:
                    kernels.update(
                        bias[layer][run],
                        bias_slope[layer],
                        other_velocity[0][layer][run],
                        other_mask[0][layer][run],
                        True,
                        rate,
                        momentum,
                        zero,
                        nesterov,
                    )
                if has_gamma[layer]:
                    kernels.update(
                        gamma[layer][run],
                        gamma_slope[layer],
                        other_velocity[1][layer][run],
                        other_mask[1][layer][run],
                        True,
                        rate,
                        momentum,
                        norm_decay,
                        nesterov,
                    )
                    kernels.update(
                        beta[layer][run],
                        beta_slope[layer],
                        other_velocity[2][layer][run],
                        other_mask[2][layer][run],
                        True,
                        rate,
                        momentum,
                        norm_decay,
                        nesterov,
                    )
            if normalizes:
                for layer in range(hidden):
                    for ghost in range(mean[layer].shape[1]):
                        kernels.follow(running_mean[layer][run], keep[run], mean[layer][:, ghost], unbiased / unbiased)
                        kernels.follow(running_variance[layer][run], keep[run], variance[layer][:, ghost], unbiased)
