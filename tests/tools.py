"""Small studies for tests: a spec from text, a data set from a seed, stacks of any composition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bnexp import network, source
from bnexp.arrays import as_tensors
from bnexp.data import Dataset, Rows
from bnexp.loading import resolve
from bnexp.norms import Statistics
from bnexp.plan import DataShape, Run, Shard, Stack, Structure, make_runs
from bnexp.recording import Epoch, Options
from bnexp.spec import Spec
from bnexp.tables import encode, study_tables
from bnexp.training import train

ROOT = Path(__file__).parents[1]
MNIST = ROOT.parent / "shared" / "data" / "mnist"


def make_spec(text: str, *overrides: str) -> Spec:
    return resolve(source.parse(text, "test.yaml"), overrides, "test", Path("."))


def make_dataset(n_train: int = 96, n_inputs: int = 6, n_classes: int = 3, n_test: int = 23, seed: int = 0) -> Dataset:
    """Random rows; classes by a random linear rule, or a smooth target where ``n_classes`` is 1."""
    generator = np.random.default_rng(seed)
    rule = generator.normal(size=(n_inputs, max(n_classes, 1)))

    def rows(n: int) -> Rows:
        x = generator.normal(size=(n, n_inputs)).astype(np.float32)
        scores = x @ rule
        targets = scores.argmax(1).astype(np.int64) if n_classes > 1 else np.sin(scores[:, 0]).astype(np.float32)
        return Rows(x, targets)

    train_rows = rows(n_train)
    if n_classes == 1:
        t = train_rows.targets
        train_rows = Rows(train_rows.features, ((t - t.mean()) / t.std()).astype(np.float32))
    classes = tuple(str(i) for i in range(n_classes)) if n_classes > 1 else ()
    task: Any = "classification" if n_classes > 1 else "regression"
    return Dataset("random", task, classes, train_rows, rows(17), rows(n_test), "0" * 64)


def shape_of(dataset: Dataset) -> DataShape:
    return DataShape(dataset.task, len(dataset.train.features), dataset.n_inputs, dataset.n_outputs)


def runs_of(spec: Spec, dataset: Dataset) -> tuple[Run, ...]:
    return make_runs(spec, {setting.data: shape_of(dataset) for setting in spec.settings})


def stack_of(runs: Sequence[Run]) -> Stack:
    """A stack of exactly these runs, as one shard, whatever the plan would have cut."""
    return Stack(runs[0].structure, (Shard("test", runs[0].structure, tuple(runs)),))


def options_of(spec: Spec) -> Options:
    return Options.of(spec)


def train_runs(spec: Spec, dataset: Dataset, runs: Sequence[Run], dtype: torch.dtype = torch.float32) -> list[Epoch]:
    """Every epoch of a stack of these runs."""
    return list(train(stack_of(runs), dataset, "cpu", options_of(spec), _name(dtype)))


def initialize(
    structure: Structure, runs: Sequence[Run], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """A stack's initial parameters as tensors."""
    return as_tensors(network.initialize(structure, runs, _name(dtype)))


def initial_running(structure: Structure, n_runs: int, dtype: torch.dtype = torch.float32) -> list[Statistics]:
    """A stack's first running statistics as tensors."""
    return as_tensors(network.initial_running(structure, n_runs, _name(dtype)))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def outcome_of_each(spec: Spec, dataset: Dataset, runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    """Per run: its CSV lines, its outcome, and the bytes of its final arrays."""
    tables = study_tables(spec, {dataset.task})
    lines: dict[str, list[str]] = {run.id: [] for run in runs}
    epochs = []
    for epoch in train(stack_of(runs), dataset, "cpu", options_of(spec)):
        texts = encode(epoch, [run.id for run in runs], list(range(len(runs))), tables)
        for run, text in zip(runs, texts, strict=True):
            lines[run.id] += [f"{name}:{rows}" for name, rows in text.items()]
        epochs.append(epoch)
    arrays = epochs[-1].arrays()
    assert epochs[-1].outcomes is not None
    found = {}
    for index, (run, outcome) in enumerate(zip(runs, epochs[-1].outcomes, strict=True)):
        # γ = 1 and β = 0 are there only if a neighbour learns them; they carry no information for this run.
        own = {
            name: np.where(np.isnan(array[index]), np.nan, array[index] + 0.0).tobytes()  # one NaN, one zero
            for name, array in sorted(arrays.items())
            if not name.startswith(("gamma", "beta")) or run.switches.gamma or run.switches.beta
        }
        found[run.id] = (tuple(lines[run.id]), repr(outcome), own)
    return found


class Silent:
    """Watches a study and says nothing."""

    def begin(self, outline: Any) -> None:
        self.outline = outline

    def epoch(self, stack: Any, message: Any) -> None: ...

    def warn(self, problem: Any) -> None: ...

    def end(self) -> None: ...
