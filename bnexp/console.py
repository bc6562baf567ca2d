"""What people see in a terminal: tables, plans, one-line errors. Results go to stdout, all else to stderr."""

from __future__ import annotations

import io
import itertools
import re
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bnexp.untrusted import visible

if TYPE_CHECKING:
    from bnexp.claims import Question
    from bnexp.comparison import ClaimRow, Comparison
    from bnexp.errors import Problem
    from bnexp.experiment import Summary
    from bnexp.glossary import Word
    from bnexp.merging import Merged
    from bnexp.results import Results
    from bnexp.sheets import Sheet

FORMATS = ("table", "json", "csv", "markdown", "latex")
MOST_QUESTIONS = 100  # that check prints
MOST_LETTERS = 1000  # of a line of a message: what it quotes may be of any length
PLAIN_WIDTH = 120  # columns of a table that is not printed on a terminal


class _Terminal(Console):
    """A console that leaves it to the command to end quietly when the reader of its output has left (| head)."""

    def on_broken_pipe(self) -> None:
        """Rich would exit with 1."""
        raise BrokenPipeError


def open_console(stderr: bool = False) -> Console:
    """What prints to stdout or stderr: as wide as a terminal, or as a line of text where there is none."""
    stream = sys.stderr if stderr else sys.stdout
    if stream is None:  # closed by whoever started us
        return _Terminal(file=io.StringIO())
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" instead of failing
    width = None if stream.isatty() else PLAIN_WIDTH
    return _Terminal(file=stream, highlight=False, soft_wrap=False, width=width)


def printable(text: str, style: str = "") -> Text:
    """What is printed: no markup, and nothing that a terminal would obey."""
    return Text(visible(text), style)


def _write(document: str) -> None:
    """A document on stdout."""
    if sys.stdout is not None:
        sys.stdout.write(visible(document))


def print_error(message: str) -> None:
    """An error on stderr: what, where, what to do."""
    text = message if ": error: " in message else f"error: {message}"
    text = "\n".join(line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]} …" for line in text.split("\n"))
    open_console(stderr=True).print(printable(text), soft_wrap=True)


def print_problem(console: Console, problem: Problem) -> None:
    """A problem with its place and a caret."""
    console.print(printable(str(problem)), soft_wrap=True)


# --- comparisons ------------------------------------------------------------------------------------------------------


def print_comparisons(
    comparisons: Sequence[Comparison], format: str = "table", claims: Sequence[ClaimRow] = ()
) -> None:
    """Print comparisons, and the claims after them, on stdout in one of FORMATS."""
    if format != "table":
        from bnexp.formats import WRITERS

        _write(WRITERS[format](comparisons, claims))
        return
    console = open_console()
    for comparison in comparisons:
        _print_comparison(console, comparison)
    for study, rows in itertools.groupby(claims, key=lambda row: row.study):
        _print_claims(console, study, list(rows))
    if comparisons:
        from bnexp.comparison import NOT_COVERED

        console.print()
        console.print(printable(NOT_COVERED, style="dim"))


def _print_comparison(console: Console, comparison: Comparison) -> None:
    from bnexp import wording
    from bnexp.sheets import sheets_of

    title = f"{wording.group_title(comparison)} · {wording.metric_title(comparison)}, 95 % intervals over seeds"
    console.print(printable(title, style="bold"))
    cut = False
    for sheet in sheets_of(comparison):
        table, notes, left_out = _fitted(console, sheet)
        cut = cut or left_out
        console.print(printable(sheet.title))
        console.print(table)
        for note, mark in notes.items():
            console.print(printable(f"({mark}) {note}", style="dim"))
        console.print()
    for note in comparison.notes:
        console.print(printable(note, style="dim"))
    if cut:
        console.print(printable("a wider terminal, or --format csv, has more columns: p, effect sizes, …", style="dim"))


def _fitted(console: Console, sheet: Sheet) -> tuple[Table, dict[str, int], bool]:
    """The sheet as it fits the width best, its numbered notes, and whether columns were left out.

    Columns of the highest rank go first; where those that must stay are still too wide, intervals go below centres.
    """
    marks = {note: number for number, note in enumerate(dict.fromkeys(filter(None, sheet.notes)), start=1)}
    ranks = sorted({head.rank for head in sheet.heads}, reverse=True)
    for folded, rank in (*((False, rank) for rank in ranks), (True, 0)):
        table = _table(sheet, marks, rank, folded)
        if table.columns and console.measure(table, options=_endless(console)).maximum <= console.width:
            break
    return table, marks, rank < ranks[0]


def _endless(console: Console) -> ConsoleOptions:
    return console.options.update(width=10_000)


def _table(sheet: Sheet, marks: Mapping[str, int], rank: int, folded: bool) -> Table:
    """The columns up to a rank; ``folded``: intervals go below their centres."""
    shown = [index for index, head in enumerate(sheet.heads) if head.rank <= rank]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for index in shown:
        at = r" (?!%)" if sheet.heads[index].rank else r" (?=\[|to )"
        table.add_column(printable(re.sub(at, "\n", sheet.heads[index].name)), overflow="fold")
    for row, note in zip(sheet.rows, sheet.notes, strict=True):
        cells = [row[index].replace(" [", "\n[") if folded else row[index] for index in shown]
        cells[-1] += f" ({marks[note]})" if note else ""
        table.add_row(*map(printable, cells))
    return table


def _print_claims(console: Console, study: str, rows: Sequence[ClaimRow]) -> None:
    from bnexp import claim_wording

    console.print()
    console.print(
        printable(f"{study} · {len(rows)} questions of its claims: {claim_wording.counts_text(rows)}", style="bold")
    )
    for row in rows:
        _print_block(console, claim_wording.heading(row.question), claim_wording.row_lines(row))


def _print_block(console: Console, heading: str, lines: Sequence[tuple[str, str]]) -> None:
    """A heading and lines that wrap under themselves."""
    console.print()
    console.print(printable(heading))
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(width=max(len(what) for what, _ in lines) + 2)
    grid.add_column(overflow="fold")
    for what, text in lines:
        strong = "bold" if what == "verdict" else ""
        grid.add_row(printable(f"  {what}", style="dim"), printable(text, style=strong))
    console.print(grid)


def print_rules() -> None:
    """The rules by which bnexp concludes anything."""
    from bnexp.comparison import RULES

    console = open_console()
    for rule in RULES:
        console.print(printable(f"{rule.number}. {rule.title}", style="bold"))
        console.print(Padding(printable(rule.text), (0, 0, 1, 3)))


def print_word(word: Word) -> None:
    """An entry of the glossary."""
    console = open_console()
    console.print(printable(word.shown, "bold"))
    console.print(Padding(printable(word.meaning), (0, 0, 0, 3)))


# --- training ---------------------------------------------------------------------------------------------------------


def summary_record(summary: Summary) -> dict[str, Any]:
    """What was trained, for ``--json``."""
    outline = summary.outline
    return {
        "name": outline.spec.name,
        "folder": str(outline.folder),
        "runs": len(outline.runs),
        "finished_before": outline.done,
        "trained": summary.trained,
        "failed_shards": sorted(summary.failures),
        "seconds": round(summary.seconds, 3),
        "device": outline.device,
        "workers": outline.workers,
        "warnings": [str(problem) for problem in summary.warnings],
    }


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    from bnexp.formats import to_json

    _write(to_json({"schema": 1, **document}))


def warn_of_edits(studies: Sequence[Results]) -> None:
    """Say which CSVs are not what training wrote."""
    from bnexp.page_origins import edited_text

    for one in studies:
        if text := edited_text(one):
            open_console(stderr=True).print(printable(f"warning: {one.folder}: {text}"), soft_wrap=True)


def print_summary(summary: Summary, quiet: bool) -> None:
    """The last lines of ``train``: what was done and what to type next."""
    outline = summary.outline
    if quiet:
        return
    if summary.trained or summary.failures:
        done = f"{summary.trained} runs in {summary.seconds:.1f} s"
    elif outline.done < len(outline.runs):
        done = (
            f"nothing of this part was left to train; {outline.done} of the study's {len(outline.runs)} runs are here"
        )
    else:
        done = f"all {len(outline.runs)} runs were finished already; nothing was trained"
    if summary.stack_difference and outline.device == "cpu":
        warning = (
            "warning: on this machine a stacked run differs from the same run alone in its last bits (exact_stack)"
        )
        open_console(stderr=True).print(printable(warning), soft_wrap=True)
    open_console(stderr=True).print(printable(f"{outline.spec.name}: {done} → {outline.folder}"), soft_wrap=True)
    print_next("bnexp", "report", outline.folder)


def plan_record(summary: Summary) -> dict[str, Any]:
    """What would run, as plain data."""
    outline = summary.outline
    sizes = [run.structure.n_parameters(run.switches, run.setting.train.only) for run in outline.runs]
    return {
        "name": outline.spec.name,
        "folder": str(outline.folder),
        "settings": len(outline.spec.settings),
        "seeds": len(outline.spec.seeds),
        "runs": len(outline.runs),
        "finished": outline.done,
        "to_train": sum(len(stack.runs) for stack in outline.stacks),
        "stacks": [len(stack.runs) for stack in outline.stacks],
        "parameters": {"least": min(sizes), "most": max(sizes)},
        "device": outline.device,
        "workers": outline.workers,
        "estimated_seconds": None if outline.seconds is None else round(outline.seconds, 1),
        "warnings": [str(problem) for problem in summary.warnings],
    }


def print_plan(summary: Summary, questions: Sequence[Question], as_json: bool) -> None:
    """What would run, and what each claim asks of it."""
    from bnexp import claim_wording

    record, n = plan_record(summary), len(summary.outline.spec.seeds)
    if as_json:
        claims = [claim_wording.planned_record(question, n) for question in questions]
        print_json({**record, "claims": claims})
        return
    console = open_console()
    for what, text in _plan_lines(record):
        console.print(printable(f"{what:>14}  {text}"), soft_wrap=True)
    for question in questions[:MOST_QUESTIONS]:
        _print_block(console, claim_wording.heading(question), claim_wording.planned_lines(question, n))
    if len(questions) > MOST_QUESTIONS:
        console.print(printable(f"\nand {len(questions) - MOST_QUESTIONS} more questions; --json has them all"))


def _plan_lines(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes, seconds = record["parameters"], record["estimated_seconds"]
    finished = f", of which {record['finished']} are finished" if record["finished"] else ""
    stacks = f" in {_stack_sizes(record['stacks'])}" if record["stacks"] else ""
    counts = f"{sizes['least']} to {sizes['most']}" if sizes["least"] < sizes["most"] else str(sizes["most"])
    return [
        ("name", record["name"]),
        ("folder", record["folder"]),
        ("runs", f"{record['runs']} = {record['settings']} settings × {record['seeds']} seeds{finished}"),
        ("to train", f"{record['to_train']}{stacks}"),
        ("parameters", f"{counts} a run"),
        ("device", f"{record['device']}, {record['workers']} worker{'s' if record['workers'] > 1 else ''}"),
        (
            "estimated time",
            "unknown on a GPU" if seconds is None else f"{duration(seconds)}, roughly" if seconds else "0 s",
        ),
    ]


def _stack_sizes(sizes: Sequence[int]) -> str:
    """41 stacks: 40 × 32 runs, 1 × 16 runs."""
    counts = sorted(Counter(sizes).items(), reverse=True)
    listed = ", ".join(f"{count} × {size}" for size, count in counts[:4])
    more = ", …" if counts[4:] else ""
    return f"{len(sizes)} stack{'s' if len(sizes) > 1 else ''} ({listed}{more} runs)"


def duration(seconds: float) -> str:
    """``2.3 s``, ``12 s``, ``3:07 min`` or ``2:05 h``."""
    if 0.05 <= seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def print_next(*words: object) -> None:
    """What to type next, on stderr."""
    said = [f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words]
    open_console(stderr=True).print(printable(f"next: {shlex.join(said)}"), soft_wrap=True)


def print_hints(hints: Sequence[str]) -> None:
    """What could be done next, on stderr."""
    for hint in filter(None, hints):
        open_console(stderr=True).print(printable(hint), soft_wrap=True)


def print_merged(merged: Merged) -> None:
    """What was joined, and what is still to be trained."""
    from bnexp.layout import SPEC

    outline = merged.summary.outline
    for folder, runs in merged.unfinished.items():
        text = f"warning: {folder}: {runs} runs are of unfinished shards and were left there"
        open_console(stderr=True).print(printable(text), soft_wrap=True)
    text = f"{outline.folder}: {merged.taken} runs were taken; {outline.done} of {len(outline.runs)} are finished"
    open_console().print(printable(text), soft_wrap=True)
    if outline.done < len(outline.runs):
        print_next("bnexp", "train", outline.folder / SPEC, "--out", outline.folder)
    else:
        print_next("bnexp", "report", outline.folder)


def print_exported(folder: Path, count: int, what: str) -> None:
    """How much was exported."""
    open_console().print(printable(f"{folder}: {count} {what}"), soft_wrap=True)


def print_written(paths: Sequence[Path]) -> None:
    """Which files were written."""
    open_console().print(printable("\n".join(str(path) for path in paths)), soft_wrap=True)
