"""What the server of workers imports before it forks them: all that training needs, the compiled loops included.

The loops are loaded by training two tiny networks once.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from bnexp import source
from bnexp.data import load_dataset
from bnexp.loading import resolve
from bnexp.plan import DataShape, make_plan, make_runs
from bnexp.recording import Options
from bnexp.stacks import make_stacks
from bnexp.training import train

SPEC = """
data: {name: xor, samples: 40}
model: {hidden: [4, 4], norm: [none, full]}
train: {epochs: 1, batch_size: 8}
seeds: 1
"""


def load_loops() -> None:
    """Compile the loops that most studies need, or read them from Numba's cache."""
    spec = resolve(source.parse(SPEC, "preload"), (), "preload", Path("."))
    dataset = load_dataset(spec.settings[0].data)
    shape = DataShape(dataset.task, len(dataset.train.features), dataset.n_inputs, dataset.n_outputs)
    for stack in make_stacks(make_plan(make_runs(spec, {spec.settings[0].data: shape})), 1):
        for _ in train(stack, dataset, "cpu", Options.of(spec)):
            pass


with contextlib.suppress(Exception):  # what is wrong here is wrong in a worker, too, which reports it
    load_loops()
