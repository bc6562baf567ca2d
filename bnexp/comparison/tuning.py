"""Each side at its own best value of a knob: what may choose it, and what each seed is then reported at (rule 7)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bnexp.comparison.choice import Choice, choose, in_order
from bnexp.comparison.entries import Entry, target_of
from bnexp.comparison.items import Shares, mixed
from bnexp.comparison.metrics import Metric
from bnexp.comparison.rows import Extra, is_recorded, joined
from bnexp.comparison.selection import Runs


def tuned_entries(
    entries: Sequence[Entry], knob: str, tuner: Metric, baseline: Mapping[str, str]
) -> tuple[list[Entry], list[str]]:
    """One entry per setting of the other fields, every seed at the value that is best on the other seeds; why not."""
    grids: dict[tuple[str, ...], dict[str, Entry]] = {}
    for entry in entries:
        others = tuple(value for leaf, value in entry.setting.items() if leaf != knob)
        grids.setdefault(others, {})[entry.setting[knob]] = entry
    leaves = [leaf for leaf in entries[0].setting if leaf != knob]
    found: list[Entry] = []
    notes: list[str] = []
    for others, grid in grids.items():
        setting = dict(zip(leaves, others, strict=True))
        if not any(entry.runs for entry in grid.values()):
            found.append(Entry(setting, {}))
            continue
        if not is_recorded((run for entry in grid.values() for run in entry.runs.values()), tuner):
            fields = ",".join(f"{leaf}={value}" for leaf, value in setting.items())
            notes.append(f"no choice of {knob} for {fields}: no {tuner.name} was recorded")
            continue
        target = target_of(setting, {leaf: value for leaf, value in baseline.items() if leaf != knob})
        same = target not in grids or in_order(list(grids[target])) == in_order(list(grid))
        runs = {value: entry.runs for value, entry in grid.items()}
        shares = {value: entry.shares for value, entry in grid.items()}
        found.append(at_best(setting, runs, shares, tuner, knob, "" if same else "its baseline"))
    if not any(entry.extra.chosen for entry in found):
        return [], [f"no choice of {knob}: the other seeds choose for each seed, so it takes two that finished"]
    return found, notes


def at_best(
    setting: dict[str, str],
    runs_at: Mapping[str, Runs],
    shares_at: Mapping[str, Shares | None],
    tuner: Metric,
    knob: str,
    other_grid: str,
) -> Entry:
    """The runs at the chosen values; ``other_grid`` names who has another grid, if anyone has."""
    costs = ({value: costs_of(runs, tuner, learned) for value, runs in runs_at.items()} for learned in (True, False))
    choice = choose(*costs)
    runs = {seed: runs_at[value][seed] for seed, value in choice.by_seed.items() if seed in runs_at[value]}
    nobody = not any(run.learned for runs in runs_at.values() for run in runs.values())
    extra = _extra(choice, knob, f"{other_grid} has another grid of {knob}" if other_grid else "", nobody)
    return Entry(setting, runs, extra, mixed(shares_at, choice.counts))


def costs_of(runs: Runs, tuner: Metric, learned: bool = True) -> dict[int, float]:
    """The choosing metric by seed, turned so that less is better; +inf where the run failed.

    ``learned``: one that merely did not learn failed; else only what has no number did.
    """
    return {
        seed: tuner.cost(tuner.on_scale(run.values.get(tuner.name, math.nan), learned and not run.learned))
        for seed, run in runs.items()
    }


def _extra(choice: Choice, knob: str, grid_note: str, nobody: bool) -> Extra:
    """What a tuned row says of the choice: split votes, values at the grid's edge."""
    n = sum(choice.counts.values())
    split_votes = ", ".join(f"{value} in {count} of {n}" for value, count in choice.counts.items())
    note = joined(
        f"at no {knob} did a run learn: the best as measured" if nobody else "",
        f"{knob} {split_votes}" if len(choice.counts) > 1 else "",
        f"{knob} {', '.join(choice.edges)} at the grid's edge: the best may lie beyond" if choice.edges else "",
        grid_note,
    )
    return Extra(choice.counts, choice.within_one_se, choice.edges, note)
