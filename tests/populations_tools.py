"""The stored population of runs (tests/populations) and studies drawn from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FIXTURE = Path(__file__).parent / "populations" / "digits.npz"


class Cell(NamedTuple):
    """One setting. The place of a run is its seed, so the runs of two cells at one place are a pair."""

    test_accuracy: NDArray[np.float64]  # [run]
    fit_loss: NDArray[np.float64]  # [run]
    learned: NDArray[np.bool_]  # [run]
    correct: NDArray[np.bool_]  # [run, test row]


@cache
def load_population() -> dict[str, Cell]:
    """Cell name (``full-0.3``: norm and learning rate) → its runs."""
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        rows = int(arrays["n_rows"])
        names = dict.fromkeys(name.split("/")[0] for name in arrays if "/" in name)
        return {
            name: Cell(
                arrays[f"{name}/test_accuracy"].astype(float),
                arrays[f"{name}/fit_loss"].astype(float),
                arrays[f"{name}/learned"],
                np.unpackbits(arrays[f"{name}/correct"], axis=1, count=rows).astype(bool),
            )
            for name in names
        }


def learned_cells() -> list[str]:
    """The cells in which every run learned."""
    return [name for name, cell in load_population().items() if cell.learned.all()]


def studies(rng: np.random.Generator, n: int, count: int) -> NDArray[np.intp]:
    """The seeds of ``count`` studies, [study, n], each drawn without replacement."""
    seeds = len(next(iter(load_population().values())).learned)
    return rng.random((count, seeds)).argpartition(n, axis=1)[:, :n]
