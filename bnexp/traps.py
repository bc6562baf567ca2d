"""What can be trained and is lost from the start: hidden units without variance, of which a norm makes constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bnexp.arrays import quiet
from bnexp.data import Dataset
from bnexp.errors import Problem
from bnexp.network import forward, initialize
from bnexp.plan import Run, Structure
from bnexp.spec import DataFields, Spec

FLAT = 1e-6  # a unit whose SD is a smaller share of its mean varies by rounding alone, in float32
MOST_SEEDS, MOST_NETWORKS = 10, 60  # looked at, assumption: each takes a millisecond or less
SCREENED = 256  # rows of a first look: a unit that varies there varies


class Flat(NamedTuple):
    """Networks that start alike but for their weights, some of which have units without variance.

    ``units`` are of ``layer`` of ``run``, the first of the ``affected`` among the networks ``looked_at``.
    """

    run: Run
    layer: int
    units: int
    affected: int
    looked_at: int
    rows: int

    def warning(self, spec: Spec) -> Problem:
        """What to tell."""
        others = f" (as {self.affected} of {self.looked_at} such networks)" if self.looked_at > 1 else ""
        message = (
            f"{self.run.id}{others}: {self.units} of {self.run.structure.hidden[self.layer - 1]} units of layer "
            f"{self.layer} without variance over all {self.rows} training rows at the start; the norm makes them the "
            "same for every row, so they tell the next layer nothing"
        )
        problem: Problem = spec.locate(self.run.setting, "model.norm", message)
        return replace(problem, kind="warning")


def flat_units(runs: Sequence[Run], datasets: Mapping[DataFields, Dataset]) -> list[Flat]:
    """Where σ of a norm's input is 0 before training, over all training rows.

    Earlier layers are normalised by the statistics of the same rows. Looked at are networks whose norm uses batch
    statistics, of those that start alike the first seeds, and the first 60 kinds.
    """
    found = []
    for networks in _samples(runs):
        structure = networks[0].structure
        features = datasets[structure.data].train.features
        every = -(-len(features) // SCREENED)
        suspects = [run for run, _, _ in _without_variance(structure, networks, features[::every])]
        flat = [one for run in suspects for one in _without_variance(structure, [run], features)]  # memory for one
        if flat:
            found.append(Flat(*flat[0], len(flat), len(networks), len(features)))
    return found


def _samples(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of networks that start alike but for their weights; of each the first seeds."""
    groups: dict[object, dict[int, Run]] = {}
    for run in runs:
        structure, model = run.structure, run.setting.model
        if structure.normalizes:
            start = (
                *(structure.data, structure.hidden, structure.activation, structure.placement),
                *(structure.center, structure.scale, structure.eps),
                *(model.weight_init, model.weight_sd, model.gamma_init, model.beta_init),
            )
            groups.setdefault(start, {}).setdefault(run.seed, run)
    most = max(1, min(MOST_SEEDS, MOST_NETWORKS // max(1, len(groups))))
    return [list(of_seed.values())[:most] for of_seed in list(groups.values())[:MOST_NETWORKS]]


def _without_variance(
    structure: Structure, runs: Sequence[Run], features: np.ndarray[Any, Any]
) -> Iterator[tuple[Run, int, int]]:
    """Runs with units without variance over these rows, the first layer that has some, and how many."""
    if not runs:
        return
    with quiet():
        found = forward(initialize(structure, runs), features.T[None], structure).statistics
    flat = [(s.variance <= (FLAT * s.mean) ** 2).sum(1) for s in found]
    for index, run in enumerate(runs):
        layer = next((layer for layer, units in enumerate(flat, start=1) if units[index]), None)
        if layer is not None:
            yield run, layer, int(flat[layer - 1][index])
