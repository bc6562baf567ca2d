"""The page's table of single runs as plain rows of text: settings that vary, outcome, final metrics. No HTML here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnexp.layout import METRIC, RUNS
from bnexp.page_tables import MOST_OPEN_ROWS, Cell
from bnexp.results import Results, planned_runs
from bnexp.spec import Setting
from bnexp.wording import is_percent, quantity

MOST_ROWS = 240  # about 100 KB of HTML, a tenth of what the charts' script takes; beyond it a table is no reading
MOST_COLUMNS = 16  # that paper has room for in the size of the other tables
MISSING = "–"
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
SPLITS = ("fit", "val", "test", "train")  # metrics in this order


@dataclass(frozen=True)
class RunsTable:
    """One row per run. ``lead`` says how they ended, ``left_out`` which runs are not shown and where they are.

    ``wide``: it needs smaller letters on paper.
    """

    total: int
    lead: str
    left_out: str
    head: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Cell]]
    folded: bool
    wide: bool


def runs_table(results: Results) -> RunsTable | None:
    """The runs of a study by setting, of its first seeds only where there are too many; None if none has ended."""
    planned = planned_runs(results.spec)
    records = {str(record["run"]): record for record in results.runs.to_dict("records")}
    if all(record["status"] == "pending" for record in records.values()):
        return None
    metrics, diverged = _metrics(results), any(record["status"] == "diverged" for record in records.values())
    seeds = shown_seeds(results.spec.seeds, len(results.spec.settings))
    order = {setting: place for place, setting in enumerate(results.spec.settings)}
    runs = sorted((run for run in planned if planned[run][1] in seeds), key=lambda run: order[planned[run][0]])
    kinds = {axis: _kind({_shown(setting, axis) for setting in order}) for axis in results.spec.axes}
    rows = [_cells(*planned[run], records[run], kinds, metrics, diverged) for run in runs[:MOST_ROWS]]
    head = _head(kinds, metrics, diverged)
    return RunsTable(
        total=len(planned),
        lead=_lead(list(records.values())),
        left_out=_left_out(len(rows), len(planned), seeds),
        head=head,
        rows=rows,
        folded=len(rows) > MOST_OPEN_ROWS,
        wide=len(head) > MOST_COLUMNS,
    )


def shown_seeds(seeds: Sequence[int], n_settings: int) -> Sequence[int]:
    """As many seeds as fit with all their runs; at least one."""
    return seeds[: max(1, MOST_ROWS // n_settings)]


def _metrics(results: Results) -> list[str]:
    """The loss and score columns that hold something, read with the study's first kind of statistics."""
    first = results.spec.study.evaluate[0]
    suffixes = {"", "" if first == "running" else f"_{first}"}
    found = [(match, str(name)) for name in results.runs.columns if (match := METRIC.fullmatch(str(name)))]
    kept = [(match[1], name) for match, name in found if match[3] in suffixes and results.runs[name].notna().any()]
    return [name for _, name in sorted(kept, key=lambda one: SPLITS.index(one[0]))]


def _kind(values: Iterable[str]) -> str:
    """number where all values of a field are, else setting."""
    return "number" if all(NUMBER.fullmatch(value) for value in values if value != MISSING) else "setting"


def _head(kinds: Mapping[str, str], metrics: Sequence[str], diverged: bool) -> list[tuple[str, str]]:
    outcome = [("status", "setting"), ("learned", "setting"), *([("diverged in epoch", "number")] if diverged else [])]
    titles = [f"{name.replace('_', ' ')}, %" if is_percent(name) else name.replace("_", " ") for name in metrics]
    return [
        *kinds.items(),
        ("seed", "number"),
        *outcome,
        *((title, "number") for title in titles),
    ]


def _cells(
    setting: Setting,
    seed: int,
    record: Mapping[Any, Any],
    kinds: Mapping[str, str],
    metrics: Sequence[str],
    diverged: bool,
) -> list[Cell]:
    at = record["diverged_epoch"]
    return [
        *(Cell(_shown(setting, axis), kind=kind) for axis, kind in kinds.items()),
        Cell(str(seed)),
        Cell(str(record["status"]), kind="setting"),
        Cell({True: "yes", False: "no"}.get(record["learned"], MISSING), kind="setting"),
        *([Cell(f"{at:.0f}" if record["status"] == "diverged" else MISSING)] if diverged else []),
        *(Cell(quantity(record[name], name)) for name in metrics),
    ]


def _shown(setting: Setting, axis: str) -> str:
    """A field's value; norm none has no placement."""
    if axis == "placement" and setting.model.norm == "none":
        return MISSING
    return setting.shown(axis) or MISSING


def _lead(records: Sequence[Mapping[Any, Any]]) -> str:
    """How the runs ended: ``120 done, of which 100 learned; 3 diverged``."""
    counts = Counter(str(record["status"]) for record in records)
    learned = sum(record["learned"] is True for record in records)
    parts = [f"{n} {status}" + (f", of which {learned} learned" * (status == "done")) for status, n in counts.items()]
    return f"{'; '.join(parts)}. Metrics are those of the last epoch."


def _left_out(n_rows: int, total: int, seeds: Sequence[int]) -> str:
    if n_rows == total:
        return ""
    which = f"seed {seeds[0]}" if len(seeds) == 1 else f"the first {len(seeds)} seeds"
    return f"The table has {n_rows} of {total} runs, those of {which}; {RUNS} has all of them."
