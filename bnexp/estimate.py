"""How long a study will take, roughly, before it begins. What costs what was measured on one machine: LOG.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bnexp.data import Dataset
from bnexp.plan import Stack, Structure
from bnexp.recording import Options
from bnexp.spec import DataFields
from bnexp.stacks import estimated_seconds

START = 0.9  # seconds: imports, workers, and putting the CSVs together
PRODUCTS, ACTIVATION = 200e9, 0.6e-9  # operations a second; seconds an activation
READING = 30e-6  # seconds of a run's epoch for rows of CSV, whatever is measured
# Seconds of a run's reading at 128 hidden units, with the norm full; taken to be in proportion to units.
MEASURES = {
    "activations": 170e-6,
    "parameters": 65e-6,
    "shift": 1100e-6,
    "ics": 170e-6,
    "landscape": 500e-6,
    "identity": 2600e-6,
    "rank": 1900e-6,
    "gradients": 175e-6,
    "predictions": 50e-6,
}
OTHER = 100e-6  # of a measure that is not listed, assumption


def work_of(stacks: Sequence[Stack], options: Options, datasets: Mapping[DataFields, Dataset]) -> tuple[float, ...]:
    """Seconds of one core for each stack, evaluations and measures included."""
    return tuple(
        estimated_seconds(stack) + len(stack.runs) * _watching(stack, options, datasets[stack.structure.data])
        for stack in stacks
    )


def study_seconds(work: Sequence[float], workers: int) -> float:
    """Seconds from the command to its end on so many workers of a CPU; 0 where nothing is left to train."""
    return START + sum(work) / workers if work else 0.0


def _watching(stack: Stack, options: Options, dataset: Dataset) -> float:
    """Seconds of one run for evaluations and measures."""
    structure = stack.structure
    epochs = structure.epochs - (stack.epoch or 0)
    held_out, fitted = len(dataset.test) + len(dataset.validation), len(dataset.train)
    rows = _times(options.evaluate_every, epochs) * held_out * len(options.evaluate)
    rows += _times(options.fit_every, epochs) * fitted
    units = sum(structure.hidden) / 128
    readings = 0.0
    for name, chosen in options.measure.items():
        readings += _times(chosen["every"], epochs) * units * MEASURES.get(name, OTHER) * _share(name, stack)
    return rows * _row_seconds(structure) + readings + _times(options.evaluate_every, epochs) * READING


def _share(measure: str, stack: Stack) -> float:
    """The share of a measure's cost, which is that of the norm ``full``, for the norms of a stack."""
    normalizes = stack.structure.normalizes
    if measure in ("activations", "shift", "rank"):  # a tap each
        affine = any(switches.gamma or switches.beta for switches in {run.switches for run in stack.runs})
        return (2 + normalizes + affine) / 4
    if measure == "identity":
        return 1.0 if normalizes else 0.2
    return 1.0 if normalizes else 0.7


def _times(every: int, epochs: int) -> int:
    """How often something is read; every 0 epochs: at the first and the last."""
    return 2 if every == 0 else 1 + epochs // every


def _row_seconds(structure: Structure) -> float:
    """Seconds of one row forward through one network."""
    weights = sum(a * b for a, b in zip(structure.widths, structure.widths[1:], strict=False))
    return 2 * weights / PRODUCTS + sum(structure.hidden) * ACTIVATION
