"""What ``ls``, ``show`` and ``rm`` print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bnexp.console import open_console, print_next, printable
from bnexp.layout import OUTCOMES, SPEC, STATUSES
from bnexp.page_origins import edited_text, provenance, settings_table

if TYPE_CHECKING:
    from pandas import DataFrame

    from bnexp.health import Finding
    from bnexp.listing import Listed, Removal
    from bnexp.results import Results

SHOWN_METRICS = ("train_loss", "test_loss", "test_accuracy", "test_r2")


def print_experiments(experiments: Sequence[Listed]) -> None:
    """One line for each results folder."""
    present = [status for status in STATUSES if any((one.counts or {}).get(status) for one in experiments)]
    table = _table(["results", "runs", *present, "trained", "question"])
    for one in experiments:
        counts = [str((one.counts or {}).get(status, "") or "") for status in present]
        table.add_row(
            *map(printable, (str(one.folder), str(one.runs or ""), *counts, one.trained[:10])),
            printable(f"cannot be read: {one.problem}" if one.problem else one.question),
        )
    open_console().print(table)
    if experiments:
        print_next("bnexp", "show", experiments[0].folder)


def print_runs(results: Results, runs: DataFrame) -> None:
    """One line for each run, and how many there are."""
    metrics = [name for name in SHOWN_METRICS if name in runs.columns and runs[name].notna().any()]
    table = _table(["run", "status", "learned", *metrics])
    for row in runs.to_dict("records"):
        values = [_text(row[name]) for name in ("run", "status", "learned", *metrics)]
        table.add_row(*map(printable, values))
    open_console().print(table)
    open_console().print(printable(f"{results.folder}: {len(runs)} of {len(results.runs)} runs"), soft_wrap=True)
    if len(runs):
        print_next("bnexp", "show", results.folder, runs["run"].iloc[0])


def print_experiment(results: Results) -> None:
    """A study: its question, what varied and what was fixed, how its runs ended, where its numbers come from."""
    counts = Counter(map(str, results.runs["status"]))
    ended = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    varied, fixed = settings_table(results)
    facts = [
        ("name", results.name),
        ("question", results.spec.question),
        ("runs", f"{len(results.runs)}: {ended}"),
        *((name, values) for name, values, _ in varied),
        *((name, values) for name, values, _ in fixed),
        ("claims", str(len(results.spec.claims))),
        ("tables", ", ".join(("runs", *results.tables))),
        *provenance(results),
        ("warning", edited_text(results)),
    ]
    _print_facts([(name, text) for name, text in facts if text])
    print_next("bnexp", "compare", results.folder)


def print_run(results: Results, record: Mapping[str, Any]) -> None:
    """One run: its setting and what came out of it."""
    head = [name for name in record if name in ("run", *OUTCOMES)]
    _print_facts([(name, _text(record[name])) for name in (*head, *(name for name in record if name not in head))])
    print_next("bnexp", "report", results.folder)


def print_removal(plans: Sequence[Removal]) -> None:
    """What is about to go."""
    for plan in plans:
        if plan.shards is None:
            text = f"{plan.folder}: all of it, {plan.runs} runs"
        else:
            along = f", and with them {plan.others} others of the same shards" if plan.others else ""
            text = f"{plan.folder}: {plan.runs} runs{along}"
        open_console(stderr=True).print(printable(text), soft_wrap=True)


def print_removed(plan: Removal, left: Sequence[str]) -> None:
    """What went, and what did not."""
    text = f"removed from {plan.folder}" if plan.shards is not None or left else f"removed {plan.folder}"
    if left:
        text += f"; left there, as bnexp did not write it: {', '.join(left)}"
    open_console().print(printable(text), soft_wrap=True)
    if plan.shards is not None:
        print_next("bnexp", "train", plan.folder / SPEC, "--out", plan.folder)
    else:
        print_next("bnexp", "ls")


def print_findings(findings: Iterable[Finding]) -> bool:
    """Each as it is found; whether nothing is wrong."""
    sound = True
    for finding in findings:
        open_console().print(printable(f"{finding.name:>18}  {finding.text}"), soft_wrap=True)
        if finding.fault:
            sound = False
            open_console().print(printable(f"{'':>18}  {finding.fault}", "bold"), soft_wrap=True)
    if sound:
        print_next("bnexp", "init")
    return sound


def _print_facts(facts: Sequence[tuple[str, str]]) -> None:
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, text in facts:
        grid.add_row(printable(name, "dim"), printable(text))
    open_console().print(grid)


def _table(heads: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(printable(head), overflow="fold")
    return table


def _text(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return "" if str(value) == "<NA>" else str(value)
