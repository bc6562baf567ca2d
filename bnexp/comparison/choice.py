"""Choosing the learning rate (or another knob) for each seed by the *other* seeds (STATISTICS rule 7).

Costs are metric values on their scale, turned so that less is better; +inf is a failed run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Costs = Mapping[str, Mapping[int, float]]  # value of the knob -> seed -> cost


@dataclass(frozen=True)
class Choice:
    """``by_seed``: the value each seed is reported at; the rest describes the grid as all seeds see it.

    ``within_one_se`` holds the best value first, then those whose mean cost is within one standard error (of the best's
    mean) of it. ``edges`` holds the chosen values that end the grid.
    """

    by_seed: dict[int, str]
    counts: dict[str, int]
    within_one_se: tuple[str, ...]
    edges: tuple[str, ...]


def choose(costs: Costs, measured: Costs | None = None) -> Choice:
    """Leave one seed out: seed s gets the value with the best rank on the other seeds; ties go to the smaller value.

    ``measured``: the same with failed runs as they were measured, which decides where at no value any run passed.
    """
    grid, behind = in_order(costs), measured or costs
    by_seed = {}
    for seed in sorted({seed for column in costs.values() for seed in column}):
        others = {
            value: [[c for s, c in table[value].items() if s != seed] for table in (costs, behind)] for value in grid
        }
        ranks = {value: (rank(ranked), rank(as_is)) for value, (ranked, as_is) in others.items()}
        candidates = {value: position for value, position in ranks.items() if position[0] is not None}
        if candidates:
            by_seed[seed] = min(candidates, key=candidates.__getitem__)
    chosen = list(by_seed.values())
    counts = {value: chosen.count(value) for value in grid if value in chosen}
    ends = {grid[0], grid[-1]} if len(grid) > 1 and None not in map(_number, grid) else set()
    return Choice(
        by_seed, counts, _within_one_se(costs, behind, grid), tuple(value for value in counts if value in ends)
    )


def in_order(values: Sequence[str] | Costs) -> list[str]:
    """The grid, ascending where all values are numbers, else as given."""
    if None in map(_number, values):
        return list(values)
    return sorted(values, key=float)


def rank(costs: Sequence[float]) -> tuple[float, float] | None:
    """(share of failed runs, mean cost of the others): less is better; None without a run.

    It orders means in which a failed run costs more than any number does.
    """
    if not costs:
        return None
    finite = [cost for cost in costs if cost < math.inf]
    return 1 - len(finite) / len(costs), math.fsum(finite) / len(finite) if finite else math.inf


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _within_one_se(costs: Costs, measured: Costs, grid: Sequence[str]) -> tuple[str, ...]:
    ranks = {value: position for value in grid if (position := rank(list(costs[value].values()))) is not None}
    if not ranks:
        return ()
    best = min(ranks, key=lambda value: (ranks[value], rank(list(measured[value].values()))))
    failed, mean = ranks[best]
    n = len(costs[best])
    if failed or n < 2 or not math.isfinite(mean):
        return (best,)
    variance = math.fsum((cost - mean) ** 2 for cost in costs[best].values()) / (n - 1)
    limit = mean + math.sqrt(variance / n)
    near = [value for value, (share, cost) in ranks.items() if value != best and not share and cost <= limit]
    return (best, *near)
