"""The function that a network is, for data of one or two features: its output on a grid over the training rows' range.

One feature: 201 points, x2 empty; two: 21 × 21. Evenly spaced from the smallest to the largest value of each feature,
ends included. Classification: the logits, one row per class; regression: the prediction, in SDs of the training target
from its mean.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bnexp.arrays import as_tensors
from bnexp.evaluation import outputs, population_statistics
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import Measure, Reading, Record

if TYPE_CHECKING:
    from torch import Tensor

POINTS = {1: 201, 2: 21}  # number of features: points along each

TABLE = Table(
    "predictions",
    (
        Column("x1", "feature", "the first feature"),
        Column("x2", "feature", "the second feature; empty if there is one"),
        Column("output", "", "class, from 0 in the order of the data; 0 for a regression"),
    ),
    (
        Column("value", "logit or SDs of the target", "output by running statistics"),
        Column("value_population", "logit or SDs of the target", "output by population statistics (Alg. 2)"),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per grid point and output; none where there are more than two features.

    With ``every`` 0 only the final network: before it learns there is no fit to draw.
    """
    parameters, rows, structure = dict(reading.parameters), as_tensors(reading.rows.train_x), reading.structure
    unfinished = reading.epoch < structure.epochs and not reading.options["every"]
    if structure.shape.n_inputs not in POINTS or unfinished:
        return
    grid = input_grid(rows)
    kinds = (reading.running, population_statistics(parameters, rows, structure))
    values = torch.stack([outputs(parameters, given, grid, structure) for given in kinds], -1)
    for place, point in enumerate(grid.tolist()):
        x1, x2 = (*(f"{x:.9g}" for x in point), "")[:2]
        for output in range(structure.shape.n_outputs):
            yield Record("predictions", (x1, x2, str(output)), TABLE.names, values[:, output, place])


def input_grid(rows: Tensor) -> Tensor:
    """The grid [point, feature] over the range of rows [sample, feature]; the last feature moves fastest."""
    count = POINTS[rows.shape[1]]
    ranges = zip(rows.amin(0).tolist(), rows.amax(0).tolist(), strict=True)
    # A feature that is constant gives one point.
    axes = [np.unique(np.linspace(low, high, count)) for low, high in ranges]
    return torch.tensor(list(itertools.product(*axes)), dtype=rows.dtype, device=rows.device) + 0.0


PREDICTIONS = Measure("predictions", (TABLE,), read)
