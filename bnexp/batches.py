"""The rows on the device, and the minibatches of every run.

Row orders are a function of (seed, epoch) alone, noise of (seed, step): runs of one seed share both. With batch size
``full`` the rows stay in stored order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bnexp.arrays import Array, put, rows_at
from bnexp.data import Dataset, noisy_labels
from bnexp.network import Batch
from bnexp.noise import Noise, draw_noise
from bnexp.plan import Run, Structure
from bnexp.rng import stream


class Rows:
    """A data set on the device: ``train_x`` [n, in], ``fit_targets`` [run or 1, n] as trained on, and what is held out.

    ``validation`` and ``test`` are (x [n, in], targets [n]).
    """

    def __init__(self, structure: Structure, runs: Sequence[Run], dataset: Dataset, dtype: str, device: str) -> None:
        self.structure, self.device, self.dtype = structure, device, dtype
        self.seeds = list(dict.fromkeys(run.seed for run in runs))
        self.seed_of_run = np.array([self.seeds.index(run.seed) for run in runs])
        # Consecutive runs of one seed share their rows; where seeds do not have equally many, every run gets its own.
        shares = len(runs) // len(self.seeds)
        even = np.array_equal(self.seed_of_run, np.repeat(np.arange(len(self.seeds)), shares))
        self._seed_of_group = np.arange(len(self.seeds)) if even else self.seed_of_run
        self._groups: dict[int, Array] = {}
        self._group_of_run = np.repeat(np.arange(len(self._seed_of_group)), len(runs) // len(self._seed_of_group))

        def here(array: np.ndarray[Any, Any]) -> Array:
            return put(array.astype(dtype if array.dtype.kind == "f" else np.int64, copy=False), device)

        self.train_x, self.train_targets = here(dataset.train.features), here(dataset.train.targets)
        self.validation = (here(dataset.validation.features), here(dataset.validation.targets))
        self.test = (here(dataset.test.features), here(dataset.test.targets))
        # Targets trained on, one row per run, or one for all where there is no label noise.
        self.fit_targets = self.train_targets[None]
        noise = structure.data.label_noise
        if noise:
            labels = np.stack([noisy_labels(dataset, noise, seed) for seed in self.seeds])
            self.fit_targets = here(labels[self.seed_of_run])

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

    def groups(self, epoch: int) -> tuple[Array, Array]:
        """An epoch's row order per group of runs that share their rows, [group, row]; the group of each run."""
        if epoch not in self._groups:
            orders = self.orders(epoch)
            self._groups = {kept: order for kept, order in self._groups.items() if kept == epoch - 1}
            self._groups[epoch] = np.stack([orders[seed] for seed in self._seed_of_group])
        return self._groups[epoch], self._group_of_run

    def minibatches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the Batch of each step of an epoch (from 1), from the first step on (from 0), as arrays."""
        n, size, steps = self.structure.shape.n_train, self.structure.batch_size, self.structure.steps_per_epoch
        groups, group_of_run = self.groups(epoch)
        left = groups[:, first * size :]
        order, of_run = put(np.ascontiguousarray(left), self.device), put(left[group_of_run], self.device)
        own = put(np.arange(len(of_run)) if len(self.fit_targets) > 1 else np.zeros(1, np.int64), self.device)
        for step in range(first, steps):
            here = slice((step - first) * size, min((step - first + 1) * size, n - first * size))
            noise = self.noise((epoch - 1) * steps + step + 1, here.stop - here.start)
            rows = rows_at(self.train_x, order[:, here]).swapaxes(1, 2)
            targets = self.fit_targets[own[:, None], of_run[:, here]]  # [run, row]
            yield Batch(rows, targets, self.structure.ghost_size, noise)

    def noise(self, step: int, n: int) -> list[Noise]:
        """The noise of a step (from 1) on n samples, per hidden layer; empty where the structure has none."""
        if self.structure.noise == "none":
            return []
        drawn = [draw_noise(seed, step, self.structure.hidden, n) for seed in self.seeds]
        return [
            Noise(*(self._per_run(parts) for parts in zip(*layer, strict=True))) for layer in zip(*drawn, strict=True)
        ]

    def _per_run(self, per_seed: Sequence[np.ndarray[Any, Any]]) -> Array:
        return put(np.stack(per_seed).astype(self.dtype)[self.seed_of_run], self.device)


def order_ids(orders: Sequence[np.ndarray[Any, Any]]) -> list[str]:
    """``o`` + 16 hex of SHA-256 over the first epoch's row indices (int64, little-endian)."""
    return ["o" + hashlib.sha256(np.ascontiguousarray(o, dtype="<i8").tobytes()).hexdigest()[:16] for o in orders]
