"""Many steps of plain gradient descent on a GPU, each run in a program of its own: ``bnexp.device_kernels``.

It does there what ``bnexp.descent`` does on a CPU, and is laid out like it.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bnexp.batches import Rows
from bnexp.descent import Layers
from bnexp.lazy_torch import torch
from bnexp.network import Parameters
from bnexp.norms import Statistics
from bnexp.optimizers import Knobs
from bnexp.plan import Structure

if TYPE_CHECKING:
    from torch import Tensor

_Array = np.ndarray[Any, Any]

SAMPLES, OUTPUTS = 128, 64  # the most that a tile can hold
PLENTY = 160 * 2**10  # bytes of shared memory that one program may take
STEPS_AT_ONCE, RUNS_AT_ONCE = 60, 64  # of one launch: fewer cost the host more than they save
CAPABILITY = (8, 0)  # the first with tf32, of which three make a float32
# What a run's step takes in its program, and a stack's step in kernels for all: measured on an H200, LOG.md.
PROGRAM_SECONDS, PROGRAM_RATE = 15e-6, 0.2e12
KERNELS_SECONDS, KERNELS_RATE = 200e-6, 18e12


def can_descend_on_device(structure: Structure, runs: int, dtype: str) -> bool:
    """Whether ``DeviceDescent`` trains the structure on CUDA, and sooner than kernels for all runs together would.

    It does SGD in minibatches of at most 128 rows, without ghosts or noise, in float32, and needs Triton. Where a
    network is large and there are few, a program for each leaves most of the device idle.
    """
    plain = structure.optimizer == "sgd" and structure.noise == "none" and not structure.ghost_size
    small = structure.batch_size <= SAMPLES and structure.shape.n_outputs <= OUTPUTS
    if not (plain and small and dtype == "float32" and importlib.util.find_spec("triton")):
        return False
    if torch.version.hip or torch.cuda.get_device_capability() < CAPABILITY:
        return False
    weights = sum(a * b for a, b in pairwise(structure.widths))
    operations = 6 * weights * structure.batch_size
    waves = -(-runs // torch.cuda.get_device_properties().multi_processor_count)
    alone = waves * (PROGRAM_SECONDS + operations / PROGRAM_RATE)
    return alone < KERNELS_SECONDS + runs * operations / KERNELS_RATE


class Tiles(NamedTuple):
    """How a program cuts its work, see ``bnexp.device_kernels.descend``; chosen by trial on an H200, LOG.md."""

    units: int = 128
    inner: int = 32
    columns: int = 64
    num_warps: int = 8
    num_stages: int = 3
    # Full float32: each product is three of tf32, of the leading and the trailing halves of the digits.
    precision: str = "tf32x3"


def tiles(device: Any, samples: int) -> Tiles:
    """The tiles that fit on a device with so many samples in a tile."""
    shared = 0
    if device.type == "cuda":
        shared = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)
    if shared >= PLENTY:
        return Tiles() if samples <= 64 else Tiles(units=64, num_warps=4, num_stages=2)
    return Tiles(units=64 if samples <= 64 else 32, num_warps=4, num_stages=2)


class DeviceDescent:
    """A stack's parameters, optimizer state and running statistics on a device, and memory for each run's step."""

    def __init__(
        self,
        parameters: Parameters,
        state: Parameters,
        running: Sequence[Statistics],
        structure: Structure,
        knobs: Knobs,
        keep: Tensor,
    ) -> None:
        self.parameters, self.state, self.running = parameters, state, running
        self.structure, self.knobs, self.keep = structure, knobs, keep
        self.layers = Layers(parameters, structure, multiple=32)  # 128 bytes: a line of the cache
        weight = parameters["weight1"]
        runs, hidden, samples = len(weight), sum(structure.hidden), _power(structure.batch_size)
        self.numbers = torch.zeros((runs, self.layers.size), dtype=weight.dtype, device=weight.device)
        self.velocities = torch.zeros_like(self.numbers) if knobs.any_momentum else self.numbers
        self.masks = torch.ones_like(self.numbers) if knobs.masks else self.numbers
        for name, mask in knobs.masks.items():
            if name in self.layers.slices:
                whole = torch.broadcast_to(mask, parameters[name].shape)
                self.masks[:, self.layers.slices[name]] = whole.reshape(runs, -1)
        size = (3 * hidden + structure.shape.n_outputs) * samples + 4 * hidden
        like = {"dtype": weight.dtype, "device": weight.device}
        self.scratch = torch.zeros((runs, size), **like)
        self.means, self.variances = torch.zeros((runs, hidden), **like), torch.zeros((runs, hidden), **like)
        self.nothing = torch.zeros(1, dtype=torch.int32, device=weight.device)
        self.streams: list[Any] = []

    def __call__(
        self, rows: Rows, orders: tuple[_Array, _Array], first: int, last: int, rates: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take an epoch's steps first … last − 1 (from 0); each run's losses and correct predictions, [run, step]."""
        from bnexp.device_kernels import descend

        s, knobs, layers = self.structure, self.knobs, self.layers
        runs, device = len(self.numbers), self.numbers.device
        losses = torch.zeros((runs, last - first), dtype=self.numbers.dtype, device=device)
        correct = torch.zeros((runs, last - first), dtype=torch.int64, device=device)
        if last == first:
            return losses, correct
        order, group_of_run = (torch.from_numpy(part.astype(np.int32)).to(device) for part in orders)
        layers.gather(self.parameters, self.numbers)
        if knobs.any_momentum:
            layers.gather(self.state, self.velocities)
        for memory, kept in zip((self.means, self.variances), self._running(), strict=True):
            if kept:
                memory[:] = torch.cat(kept, 1)
        constants = self._constants()

        def launch(start: int, stop: int, first_run: int, count: int) -> None:
            descend[(count,)](
                start, stop, first_run, self.numbers, self.velocities, self.masks, self.means, self.variances,
                rates, self.keep, knobs.momentum, knobs.weight_decay, knobs.norm_decay,
                rows.train_x, rows.fit_targets, rows.fit_targets.shape[1] if len(rows.fit_targets) > 1 else 0,
                order, order.shape[1], group_of_run, self.scratch, self.nothing, losses, correct, first, last - first,
                s.eps, s.batch_size / max(s.batch_size - 1, 1), **constants,
            )  # fmt: skip

        self._launch_all(launch, first, last)
        layers.scatter(self.numbers, self.parameters)
        if knobs.any_momentum:
            layers.scatter(self.velocities, self.state)
        for memory, kept in zip((self.means, self.variances), self._running(), strict=True):
            for old, new in zip(kept, torch.split(memory, list(s.hidden), 1), strict=False):
                old[:] = new
        return losses, correct

    def _launch_all(self, launch: Callable[[int, int, int, int], None], first: int, last: int) -> None:
        """Take the steps by pieces, group of runs by group, each group in a queue of its own.

        A device has not as many multiprocessors as there are runs, nor a divisor: with short pieces none waits long.
        """
        runs, pieces = len(self.numbers), -(-(last - first) // STEPS_AT_ONCE)
        if pieces == 1 or not has_queues(self.numbers.device):
            launch(first, last, 0, runs)
            return
        now = torch.cuda.current_stream()
        while len(self.streams) < -(-runs // RUNS_AT_ONCE):
            self.streams.append(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        bounds = [runs * index // len(self.streams) for index in range(len(self.streams) + 1)]
        for stream in self.streams:
            stream.wait_stream(now)
        for start in range(first, last, STEPS_AT_ONCE):
            for stream, (begin, end) in zip(self.streams, pairwise(bounds), strict=True):
                with torch.cuda.stream(stream):
                    launch(start, min(last, start + STEPS_AT_ONCE), begin, end - begin)
        for stream in self.streams:
            now.wait_stream(stream)

    def _constants(self) -> dict[str, Any]:
        """What is compiled into the kernel."""
        from bnexp.device_kernels import KINDS

        s, knobs, layers = self.structure, self.knobs, self.layers
        samples = _power(s.batch_size)
        cut = tiles(self.numbers.device, samples)
        return {
            **layers.constants(),
            "WIDTHS": s.widths,
            "UNITS_BEFORE": tuple(int(n) for n in np.cumsum([0, *s.hidden])),
            "SIZE": layers.size,
            "SCRATCH": self.scratch.shape[1],
            "BATCH": s.batch_size,
            "SAMPLES": samples,
            "UNITS": min(cut.units, _power(max(s.hidden))),
            "INNER": cut.inner,
            "COLUMNS": cut.columns,
            "TOP": _power(s.shape.n_outputs),
            "CLASSES": s.shape.task == "classification",
            "PRE": s.placement == "pre",
            "KIND": KINDS[s.activation],
            "NORMALIZES": s.normalizes,
            "CENTER": s.center,
            "SCALE": s.scale,
            "MOMENTUM": knobs.any_momentum,
            "NESTEROV": s.nesterov,
            "WEIGHT_DECAY": knobs.any_weight_decay,
            "NORM_DECAY": knobs.any_norm_decay,
            "MASKED": bool(knobs.masks),
            "WEIGHTS_MASKED": any(name.startswith("weight") for name in knobs.masks),
            "PRECISION": cut.precision,
            "num_warps": cut.num_warps,
            "num_stages": cut.num_stages,
            "enable_fp_fusion": False,  # else what a kernel leaves out, a product with 1, could change its bits
        }

    def _running(self) -> tuple[list[Tensor], list[Tensor]]:
        return [one.mean for one in self.running], [one.variance for one in self.running]


def has_queues(device: Any) -> bool:
    """Whether work for the device waits in streams."""
    return bool(device.type == "cuda")


@functools.cache
def _power(n: int) -> int:
    """The least power of two that is at least n and at least 16, the least side of a tile."""
    return max(16, 1 << (n - 1).bit_length())
