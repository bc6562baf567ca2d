"""What to type where a study has too few seeds for what it asks."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bnexp.comparison import ClaimRow
from bnexp.layout import SHARDS, SPEC
from bnexp.results import Results

FEW_SEEDS = 6  # below, a median has no interval


def growth(results: Results, claims: Sequence[ClaimRow]) -> str:
    """Why more seeds may help, and the command that adds as many again; empty if nothing asks for it.

    A folder without shards/ cannot be extended, and an unfinished study is to be finished first.
    """
    n = len(results.spec.seeds)
    undecided = sum(row.verdict.answer == "undecided" for row in claims)
    unfinished = ~results.runs["status"].isin(["done", "diverged"])
    if not (undecided or n < FEW_SEEDS) or unfinished.any() or not (results.folder / SHARDS).is_dir():
        return ""
    few = f"{n} seeds are few" if n < FEW_SEEDS else f"{undecided} of {len(claims)} questions undecided with {n} seeds"
    folder = shlex.quote(str(results.folder))
    spec = shlex.quote(str(results.folder / SPEC))
    return f"{few}; as many again: bnexp train {spec} {_twice(results.spec.seeds)} --extend --out {folder}"


def _twice(seeds: Sequence[int]) -> str:
    """The seeds and as many that follow the largest, as an override."""
    n, last = len(seeds), max(seeds)
    if list(seeds) == list(range(n)):
        return f"seeds={2 * n}"
    if list(seeds) == list(range(seeds[0], seeds[0] + n)):
        return f"seeds={seeds[0]}..{last + n}"
    return f"'seeds=[{','.join(map(str, [*seeds, *range(last + 1, last + 1 + n)]))}]'"
