"""What there is: experiments under results/, their runs, and one of either; for ``ls``, ``show`` and ``rm``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandas import DataFrame, isna

from bnexp import store
from bnexp.commits import run_ids
from bnexp.comparison.selection import keep, members_of
from bnexp.errors import BnexpError, ResultsError, UsageError, did_you_mean
from bnexp.layout import META, STATUSES
from bnexp.results import Results, folders_of, load_results, planned_runs

SEED = "seed"
MOST_HINTS = 5  # runs named where none, or several, are meant


@dataclass(frozen=True)
class Listed:
    """One results folder: how its runs ended, when it was last trained, or why it cannot be read."""

    folder: Path
    question: str = ""
    runs: int = 0
    counts: Mapping[str, int] | None = None
    trained: str = ""
    problem: str = ""

    def record(self) -> dict[str, Any]:
        """As plain data."""
        counts = {status: (self.counts or {}).get(status, 0) for status in STATUSES}
        said = {"folder": str(self.folder), "question": self.question, "runs": self.runs, **counts}
        return {**said, "trained": self.trained, "problem": self.problem}


def list_experiments(folders: Sequence[Path] = ()) -> list[Listed]:
    """Every folder, by default all under results/; one that cannot be read says why."""
    return [_listed(folder) for folder in folders or folders_of()]


def _listed(folder: Path) -> Listed:
    try:
        (results,) = load_results([folder])
    except BnexpError as error:
        return Listed(folder, problem=str(error).splitlines()[0])
    sessions = results.meta.get("sessions")
    last = sessions[-1] if isinstance(sessions, list) and sessions else {}
    trained = str(last.get("ended", "")) if isinstance(last, dict) else ""
    counts = Counter(map(str, results.runs["status"]))
    return Listed(folder, results.spec.question, len(results.runs), counts, trained)


def select_runs(results: Results, where: Mapping[str, list[str]], statuses: Sequence[str]) -> DataFrame:
    """The rows of runs.csv whose fields have one of the values, and whose status is one of those; all if none is named.

    Raises UsageError for a field, value or status that the study has not.
    """
    if unknown := [status for status in statuses if status not in STATUSES]:
        raise UsageError(f"--status {unknown[0]}{did_you_mean(unknown[0], STATUSES)}; one of {', '.join(STATUSES)}")
    seeds = where.get(SEED)
    settings = {member.setting for member in keep(members_of(results), {k: v for k, v in where.items() if k != SEED})}
    planned = planned_runs(results.spec)
    runs = results.runs
    chosen = [
        planned[run][0] in settings and (seeds is None or str(planned[run][1]) in seeds)
        for run in map(str, runs["run"])
    ]
    found = runs[chosen]
    return found[found["status"].isin(statuses)] if statuses else found


@dataclass(frozen=True)
class Removal:
    """What is to go: a whole folder (``shards`` is None), or shards with the runs in them, asked for or not."""

    folder: Path
    runs: int
    shards: tuple[str, ...] | None = None
    others: int = 0  # runs that were not asked for and go along

    def carry_out(self) -> list[str]:
        """Remove it; the names of what stays in a folder, as bnexp did not write it."""
        if self.shards is None:
            return store.remove_study(self.folder)
        store.forget(self.folder, self.shards)
        return []


def plan_removal(folder: Path, where: Mapping[str, list[str]], statuses: Sequence[str]) -> Removal:
    """What the filters pick of a folder; without any, all of it, even where it is damaged. Raises ResultsError."""
    if not (where or statuses):
        if not (folder / META).exists():
            raise ResultsError(f"{folder}: not a results folder; nothing was removed")
        (listed,) = list_experiments([folder])
        return Removal(folder, listed.runs)
    (results,) = load_results([folder])
    wanted = set(map(str, select_runs(results, where, statuses)["run"]))
    id_of = run_ids(folder / META, results.meta)
    shards, held = [], set[str]()
    for name, commit in store.committed_shards(folder, lambda commit: False).items():
        runs = {id_of[key] for key in commit.ids}
        if runs & wanted:
            shards.append(name)
            held |= runs
    if not shards:
        raise UsageError(f"{folder}: nothing to remove, as none of these runs was begun")
    return Removal(folder, len(held & wanted), tuple(shards), len(held - wanted))


def records(frame: DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data."""
    return [plain(row) for row in frame.to_dict("records")]


def plain(record: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as plain data: what is not there is None."""
    return {str(name): None if isna(value) else value for name, value in record.items()}


def find_run(results: Results, name: str) -> dict[str, Any]:
    """The row of one run: of its id, or of the only id in which these words stand; raise UsageError otherwise."""
    ids = [str(run) for run in results.runs["run"]]
    words = name.replace(",", " ").split()
    found = [name] if name in ids else [run for run in ids if all(word in run.split(",") for word in words)]
    if len(found) != 1:
        several = (
            f"{len(found)} runs: {', '.join(found[:MOST_HINTS])}, …" if found else f"no run{did_you_mean(name, ids)}"
        )
        raise UsageError(f"{results.folder}: {name!r} means {several}; bnexp ls {results.folder} lists them")
    row = results.runs[results.runs["run"] == found[0]]
    return {str(column): value for column, value in row.to_dict("records")[0].items()}
