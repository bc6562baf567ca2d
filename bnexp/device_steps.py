"""Many steps on a device without asking the host: what a step needs lies there, and on CUDA it is one recorded graph.

A step of a small stack is some hundred kernels of microseconds each; launched one by one they would wait for Python. So
the first step is recorded as a CUDA graph and then replayed: rows are gathered by a step counter that lives on the
device, losses are left there, and the host reads them once an epoch. Elsewhere (and in the tests) the same step is
called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnexp.arrays import Array, rows_at
from bnexp.batches import Rows
from bnexp.evaluation import DEVICE_CHUNK
from bnexp.gradients import loss_and_gradients
from bnexp.lazy_torch import torch
from bnexp.network import Batch, Parameters
from bnexp.norms import Statistics, update_running
from bnexp.optimizers import Knobs, Optimizer
from bnexp.plan import Structure

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP = (
    3  # steps before the recording, in which libraries allocate what they need; torch's documentation asks for some
)


class DeviceSteps:
    """A stack's tensors on a device, and the place of everything that changes from step to step.

    All tensors are changed in place: a graph knows addresses, not names. Noise is not drawn on a device.
    """

    def __init__(
        self,
        parameters: Parameters,
        optimizer: Optimizer,
        state: Parameters,
        running: Sequence[Statistics],
        structure: Structure,
        knobs: Knobs,
        keep: Tensor,
        rows: Rows,
    ) -> None:
        self.parameters, self.optimizer, self.state, self.running = parameters, optimizer, state, running
        self.structure, self.knobs, self.keep, self.rows = structure, knobs, keep, rows
        weight = parameters["weight1"]
        runs, steps, size = len(weight), structure.steps_per_epoch, structure.batch_size
        orders, group_of_run = rows.groups(1)
        self.order = torch.zeros((steps, len(orders), size), dtype=torch.int64, device=weight.device)
        self.group_of_run = torch.from_numpy(group_of_run).to(weight.device)
        own = np.arange(runs) if len(rows.fit_targets) > 1 else np.zeros(1, np.int64)
        self.own = torch.from_numpy(own).to(weight.device)[:, None]
        self.counter = torch.zeros(1, dtype=torch.int64, device=weight.device)
        self.rates = torch.zeros(runs, dtype=weight.dtype, device=weight.device)
        self.nan = torch.full((), float("nan"), dtype=weight.dtype, device=weight.device)
        self.losses = torch.zeros((steps, runs), dtype=weight.dtype, device=weight.device)
        self.correct = torch.zeros((steps, runs), dtype=torch.int64, device=weight.device)
        self.play: Callable[[], None] | None = None

    def __call__(
        self, rows: Rows, orders: tuple[np.ndarray, np.ndarray], first: int, last: int, rates: Tensor
    ) -> tuple[Array, Array]:
        """Take an epoch's steps first … last − 1 (from 0); each run's losses and correct predictions, [run, step]."""
        steps, size = self.structure.steps_per_epoch, self.structure.batch_size
        # A smaller last minibatch is not taken here.
        whole = min(steps, orders[0].shape[1] // size)
        used = orders[0][:, : whole * size].reshape(len(orders[0]), whole, size).swapaxes(0, 1)
        self.order[:whole].copy_(torch.from_numpy(np.ascontiguousarray(used)))
        self.rates.copy_(rates)
        if last > first and self.play is None:
            self.play = self._recorded() if self.counter.is_cuda else self.step
        self.counter.fill_(first)
        for _ in range(first, last):
            assert self.play is not None
            self.play()
        return self.losses[first:last].T.clone(), self.correct[first:last].T.clone()

    def step(self) -> None:
        """One step, and the counter moves on."""
        index = self.order.index_select(0, self.counter)[0]  # [group, sample]
        of_run = index.index_select(0, self.group_of_run)
        targets = self.rows.fit_targets[self.own, of_run]
        batch = Batch(rows_at(self.rows.train_x, index).swapaxes(1, 2), targets, self.structure.ghost_size)
        found = loss_and_gradients.__wrapped__(self.parameters, batch, self.structure)  # type: ignore[attr-defined]
        # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
        lr = torch.where(found.loss.isfinite(), self.rates, self.nan)
        self.optimizer.update(self.parameters, found.gradients, self.state, self.knobs, lr)
        size = self.structure.ghost_size or self.structure.batch_size
        for old, new in zip(self.running, found.statistics, strict=True):
            update_running(old, new, self.keep, size)
        self.losses.index_copy_(0, self.counter, found.loss[None])
        if found.correct is not None:
            self.correct.index_copy_(0, self.counter, found.correct[None])
        self.counter += 1

    def _recorded(self) -> Callable[[], None]:
        """The step as a CUDA graph; what the steps before the recording changed is put back."""
        kept = [(tensor, tensor.clone()) for tensor in self._changing()]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self.counter.zero_()
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on
            self.step()
        for tensor, before in kept:
            tensor.copy_(before)
        replay: Callable[[], None] = graph.replay
        return replay

    def _changing(self) -> list[Tensor]:
        groups: list[Mapping[str, Tensor]] = [self.parameters, self.state]
        return [tensor for group in groups for tensor in group.values()] + [t for s in self.running for t in s]


def bytes_per_run(structure: Structure, n_parameters: int) -> int:
    """Memory of a run on a device: an upper estimate by counting tensors, float32.

    Of every parameter eight copies (itself, gradient, optimizer's two, the last step's two, two in passing); of every
    activation of a minibatch twelve, of its rows two; of the rows that are evaluated at a time four.
    """
    units, n_in, n_out = sum(structure.hidden), structure.shape.n_inputs, structure.shape.n_outputs
    evaluated = min(DEVICE_CHUNK, structure.shape.n_train)
    numbers = 8 * n_parameters + structure.batch_size * (12 * (units + n_out) + 2 * n_in)
    return 4 * (numbers + 4 * evaluated * (units + n_out))
