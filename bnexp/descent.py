"""Many steps of plain gradient descent on a CPU, run after run: each run's numbers stay in the cache from step to step.

``kernels.descend`` is a step written out for one network, compiled: rows, forward, loss, backward, update, running
statistics. Products are calls of BLAS. It computes what ``bnexp.cpu_step`` and an update compute for all runs in
lockstep, but for rounding; the tests hold it against the twin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array
from bnexp.batches import Rows
from bnexp.kernels import KINDS
from bnexp.network import Parameters
from bnexp.norms import Statistics
from bnexp.optimizers import Knobs
from bnexp.plan import Structure

_Array = np.ndarray[Any, Any]


def can_descend(structure: Structure, device: str) -> bool:
    """Whether ``Descent`` trains the structure: on a CPU, by SGD, without noise."""
    return device == "cpu" and kernels.AVAILABLE and structure.optimizer == "sgd" and structure.noise == "none"


class Layers:
    """Where each layer's numbers lie in a run's flat array; ``table``, one row per layer, is for the compiled loops.

    Each parameter begins at a multiple of ``multiple``.
    """

    def __init__(self, parameters: Parameters, structure: Structure, multiple: int = 1) -> None:
        self.slices: dict[str, slice] = {}
        end = 0
        for name, array in parameters.items():
            size = math.prod(array.shape[1:])
            self.slices[name] = slice(end, end + size)
            end += -(-size // multiple) * multiple
        self.size = end
        units = np.cumsum([0, *structure.widths[1:]])
        rows = []
        for layer, (n_in, n_out) in enumerate(pairwise(structure.widths), start=1):
            firsts = [self._first(f"{kind}{layer}") for kind in ("weight", "bias", "gamma", "beta")]
            rows.append([n_out, n_in, *firsts, units[layer - 1]])
        self.table = np.array(rows, np.int64)

    def _first(self, name: str) -> int:
        return self.slices[name].start if name in self.slices else -1

    def constants(self) -> dict[str, tuple[int, ...]]:
        """Where each layer's weights, biases, γ and β begin, −1 where it has none."""
        columns = zip(*self.table[:, 2:6].tolist(), strict=True)
        return dict(zip(("WEIGHTS", "BIASES", "GAMMAS", "BETAS"), columns, strict=True))

    def gather(self, arrays: Parameters, out: Array) -> None:
        """Copy arrays [run, …] to their places in out [run, number]."""
        for name, here in self.slices.items():
            out[:, here] = arrays[name].reshape(len(out), -1)

    def scatter(self, numbers: Array, arrays: Parameters) -> None:
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
        self.layers = Layers(parameters, structure)
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
        kernels.descend(
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
