"""What people see in a terminal: progress, tables, one-line errors. Results go to stdout, all else to stderr."""

from __future__ import annotations

import csv
import io
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bnexp.claims import Question
    from bnexp.comparison import ClaimRow, Comparison, Row
    from bnexp.executors import Message
    from bnexp.experiment import Outline, Summary
    from bnexp.plan import Stack

FORMATS = ("table", "json", "csv", "markdown", "latex")
LINE_SECONDS = 30.0  # off a terminal: a line at least this often
NARROW = 80  # columns below which an interval goes under its centre
PLAIN_WIDTH = 120  # columns of a table that is not printed on a terminal


class _Terminal(Console):
    """A console that leaves it to the command to end quietly when the reader of its output has left (| head)."""

    def on_broken_pipe(self) -> None:
        """Rich would exit with 1."""
        raise BrokenPipeError


def _console(stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" instead of failing
    width = None if stream.isatty() else PLAIN_WIDTH
    return _Terminal(file=stream, highlight=False, soft_wrap=False, width=width)


def print_error(message: str) -> None:
    """An error on stderr: what, where, what to do."""
    text = message if ": error: " in message else f"error: {message}"
    _console(stderr=True).print(Text(text), soft_wrap=True)


class Progress:
    """One line for the study while it trains; off a terminal, a plain line every tenth."""

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent
        self.console = _console(stderr=True)
        self.bar: Bar | None = None

    def begin(self, outline: Outline) -> None:
        """Say what starts."""
        self.epochs = [0] * len(outline.stacks)
        self.alive = [len(stack.runs) for stack in outline.stacks]
        self.place = {stack: index for index, stack in enumerate(outline.stacks)}
        self.total = sum(len(s.runs) * max(1, s.structure.epochs) for s in outline.stacks)
        self.runs, self.done = sum(len(s.runs) for s in outline.stacks), 0
        self.name, self.began, self.last, self.shown = outline.spec.name, time.monotonic(), time.monotonic(), 0
        if self.silent or not self.total:
            return
        if self.console.is_terminal:
            columns = ("{task.description}", "{task.fields[runs]} runs", "{task.fields[loss]}", "{task.fields[lost]}")
            name, *others = (TextColumn(column) for column in columns)
            self.bar = Bar(
                name, BarColumn(bar_width=None), *others, TimeRemainingColumn(), console=self.console, expand=True
            )
            self.task = self.bar.add_task(self.name[:20], total=self.total, runs=f"0/{self.runs}", loss="", lost="")
            self.bar.start()
        else:
            done = f", {outline.done} finished before" if outline.done else ""
            self._line(f"{self.name}: {self.runs} runs on {outline.device}, {outline.workers} workers{done}")

    def epoch(self, stack: Stack, message: Message) -> None:
        """Move the line."""
        if self.silent or message.error:
            return
        at = self.place[stack]
        self.epochs[at], self.alive[at] = message.epoch, message.alive
        if message.outcomes is not None:
            self.done += len(stack.runs)
            self.epochs[at] = max(1, stack.structure.epochs)
        fraction = sum(n * len(s.runs) for s, n in zip(self.place, self.epochs, strict=True)) / self.total
        lost = sum(len(s.runs) for s in self.place) - sum(self.alive)
        if self.bar is not None:
            self.bar.update(
                self.task,
                completed=fraction * self.total,
                runs=f"{self.done}/{self.runs}",
                loss=_loss(message),
                lost=f"{lost} diverged" if lost else "",
            )
        elif int(10 * fraction) > self.shown or time.monotonic() - self.last > LINE_SECONDS:
            self.shown, self.last = int(10 * fraction), time.monotonic()
            left = (self.last - self.began) * (1 - fraction) / max(fraction, 1e-9)
            self._line(
                f"{self.name}: {100 * fraction:3.0f} %, {self.done}/{self.runs} runs, {_loss(message)}, "
                f"{lost} diverged, {left:.0f} s left"
            )

    def end(self) -> None:
        """Take the line away."""
        if self.bar is not None:
            self.bar.stop()

    def _line(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def _loss(message: Message) -> str:
    return (
        "loss –" if message.loss != message.loss else f"loss {message.loss:.2g}"
    )  # before the first step there is none


# --- comparisons ------------------------------------------------------------------------------------------------------


def print_comparisons(
    comparisons: Sequence[Comparison], format: str = "table", claims: Sequence[ClaimRow] = ()
) -> None:
    """Print comparisons, and the claims after them, on stdout in one of FORMATS."""
    writers: dict[str, Callable[[], str]] = {
        "json": lambda: json.dumps(comparison_document(comparisons, claims), indent=1, ensure_ascii=False) + "\n",
        "csv": lambda: _as_csv(comparisons, claims),
        "markdown": lambda: "\n\n".join([*map(_as_markdown, comparisons), *map(_claim_as_markdown, claims)]) + "\n",
        "latex": lambda: "\n".join([*map(_as_latex, comparisons), *map(_claim_as_latex, claims)]),
    }
    if format in writers:
        sys.stdout.write(writers[format]())
        return
    console = _console()
    for comparison in comparisons:
        _print_table(console, comparison)
    for study, rows in itertools.groupby(claims, key=lambda row: row.study):
        _print_claims(console, study, list(rows))
    if comparisons:
        from bnexp.comparison import NOT_COVERED

        console.print(Text(NOT_COVERED, style="dim"))


def _print_table(console: Console, comparison: Comparison) -> None:
    from bnexp import wording

    title, narrow = wording.group_title(comparison), console.width < NARROW
    console.print(Text(f"{title} · {wording.metric_title(comparison)}, 95 % intervals over seeds", style="bold"))
    for subtitle, rows, axes in _parts(comparison):
        console.print(Text(subtitle))
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        notes = _numbered_notes(rows, comparison.metric)
        for name in _header(comparison, axes):
            table.add_column(Text(name), overflow="fold")
        for row in rows:
            cells = _cells(comparison, row, axes)
            mark = notes.get(wording.notes_of(row, comparison.metric))
            cells[-1] += f" ({mark})" if mark else ""
            table.add_row(*(Text(cell.replace(" [", "\n[") if narrow else cell) for cell in cells))
        console.print(table)
        for note, mark in notes.items():
            console.print(Text(f"({mark}) {note}", style="dim"))
        console.print()
    for note in comparison.notes:
        console.print(Text(note, style="dim"))


def _print_claims(console: Console, study: str, rows: Sequence[ClaimRow]) -> None:
    from bnexp import claim_wording

    console.print(Text(f"{study} · {claim_wording.LISTED}", style="bold"))
    for row in rows:
        _print_block(console, claim_wording.heading(row.question), claim_wording.row_lines(row))


def _print_block(console: Console, heading: str, lines: Sequence[tuple[str, str]]) -> None:
    """A heading and lines that wrap under themselves."""
    console.print()
    console.print(Text(heading))
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    grid.add_column(width=max(len(what) for what, _ in lines) + 2)
    grid.add_column(overflow="fold")
    for what, text in lines:
        grid.add_row(Text(f"  {what}", style="dim"), Text(text))
    console.print(grid)


def _numbered_notes(rows: Sequence[Row], metric: str) -> dict[str, int]:
    from bnexp import wording

    notes = dict.fromkeys(note for row in rows if (note := wording.notes_of(row, metric)))
    return {note: number for number, note in enumerate(notes, start=1)}


def _parts(comparison: Comparison) -> list[tuple[str, Sequence[Row], tuple[str, ...]]]:
    """The tables of a comparison: at equal values, and each at its best value of the knob."""
    knob = comparison.tune
    equal = f"at equal {knob}" if knob else "every setting"
    parts: list[tuple[str, Sequence[Row], tuple[str, ...]]] = [(equal, comparison.rows, comparison.axes)]
    if comparison.best_rows:
        others = tuple(axis for axis in comparison.axes if axis != knob)
        best = f"each at its best {knob}, chosen for each seed by {comparison.tuned_by} of the other seeds"
        parts.append((best, comparison.best_rows, others))
    return parts


def _header(comparison: Comparison, axes: Sequence[str]) -> list[str]:
    from bnexp import wording

    unit = "difference" if comparison.scale == "raw" else "ratio"
    return [*axes, "learned", wording.metric_title(comparison), f"{unit} to {comparison.baseline}"]


def _cells(comparison: Comparison, row: Row, axes: Sequence[str]) -> list[str]:
    from bnexp import wording

    settings = [row.setting.get(axis, "") for axis in axes]
    estimate = wording.estimate_text(row.estimate, comparison.metric)
    return [*settings, wording.learned_text(row), estimate, wording.difference_text(row, comparison.metric)]


def comparison_document(comparisons: Sequence[Comparison], claims: Sequence[ClaimRow]) -> dict[str, Any]:
    """Comparisons and claims as one JSON document."""
    from bnexp.claim_wording import row_record
    from bnexp.comparison import claim_records, to_records

    return {
        "schema": 1,
        "comparisons": [
            {
                "study": comparison.name,
                "group": comparison.group,
                "metric": comparison.metric_text,
                "baseline": comparison.baseline,
                "tune": comparison.tune,
                "notes": list(comparison.notes),
                "rows": to_records(comparison),
            }
            for comparison in comparisons
        ],
        "claims": [row_record(row, claim_records(row)) for row in claims],
    }


def _as_csv(comparisons: Sequence[Comparison], claims: Sequence[ClaimRow]) -> str:
    from bnexp.comparison import claim_records, to_records

    records = [record for comparison in comparisons for record in to_records(comparison)]
    records += [record for row in claims for record in claim_records(row)]
    columns = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _as_markdown(comparison: Comparison) -> str:
    from bnexp import wording

    def row_of(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [f"**{wording.group_title(comparison)}**"]
    for subtitle, rows, axes in _parts(comparison):
        header = [*_header(comparison, axes), "note"]
        lines += ["", subtitle, "", row_of(header), row_of(["---"] * len(header))]
        lines += [row_of([*_cells(comparison, r, axes), wording.notes_of(r, comparison.metric)]) for r in rows]
    return "\n".join([*lines, *(f"\n{note}" for note in comparison.notes)])


def _claim_as_markdown(row: ClaimRow) -> str:
    from bnexp import claim_wording

    lines = [f"- {what}: {text}" if what else f"  {text}" for what, text in claim_wording.row_lines(row)]
    return "\n".join([f"**{claim_wording.heading(row.question)}**", "", *lines])


_LATEX = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "×": r"$\times$",
        "−": "$-$",
        "–": "--",
        "∞": r"$\infty$",
    }
)


def _as_latex(comparison: Comparison) -> str:
    """Tables for booktabs; everything that comes from a name is escaped."""
    lines = []
    for subtitle, rows, axes in _parts(comparison):
        header = _header(comparison, axes)
        lines += [f"% {wording_line(subtitle)}", rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\toprule"]
        lines += [" & ".join(cell.translate(_LATEX) for cell in header) + r" \\", r"\midrule"]
        lines += [" & ".join(c.translate(_LATEX) for c in _cells(comparison, r, axes)) + r" \\" for r in rows]
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _claim_as_latex(row: ClaimRow) -> str:
    """A description of two columns: what, and its text."""
    from bnexp import claim_wording

    lines = [r"\begin{tabular}{lp{0.75\linewidth}}", r"\toprule"]
    title = row.question.title
    text = claim_wording.heading(row.question).removeprefix(f"{title}: ")
    for what, said in ((title, text), *claim_wording.row_lines(row)):
        lines.append(f"{what.translate(_LATEX)} & {said.translate(_LATEX)}" + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def wording_line(text: str) -> str:
    """Text that stays in one line, as a LaTeX comment must."""
    return " ".join(text.split())


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
    }


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps({"schema": 1, **document}, indent=1, ensure_ascii=False) + "\n")


def print_summary(summary: Summary, quiet: bool) -> None:
    """The last lines of ``train``: what was done and what to type next."""
    outline = summary.outline
    if quiet:
        return
    if summary.trained or summary.failures:
        done = f"{summary.trained} runs in {summary.seconds:.1f} s"
    else:
        done = f"all {len(outline.runs)} runs were finished already; nothing was trained"
    if summary.exact_stack is False:
        warning = (
            "warning: on this machine a stacked run differs from the same run alone in its last bits (exact_stack)"
        )
        _console(stderr=True).print(Text(warning), soft_wrap=True)
    text = f"{outline.spec.name}: {done} → {outline.folder}\nnext: bnexp report {outline.folder}"
    _console(stderr=True).print(Text(text), soft_wrap=True)


def outline_record(outline: Outline) -> dict[str, Any]:
    """What would run, as plain data."""
    return {
        "name": outline.spec.name,
        "folder": str(outline.folder),
        "settings": len(outline.spec.settings),
        "seeds": len(outline.spec.seeds),
        "runs": len(outline.runs),
        "finished": outline.done,
        "to_train": sum(len(stack.runs) for stack in outline.stacks),
        "stacks": [len(stack.runs) for stack in outline.stacks],
        "device": outline.device,
        "workers": outline.workers,
        "estimated_seconds": round(outline.seconds, 1),
    }


def print_outline(outline: Outline, as_json: bool) -> None:
    """What would run."""
    record = outline_record(outline)
    if as_json:
        print_json(record)
        return
    console = _console()
    for key, value in record.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        console.print(Text(f"{key.replace('_', ' '):>18}  {shown}"))


def print_check(outline: Outline, questions: Sequence[Question], as_json: bool) -> None:
    """What would run, and what each claim asks of it."""
    from bnexp import claim_wording

    n = len(outline.spec.seeds)
    if as_json:
        claims = [claim_wording.planned_record(question, n) for question in questions]
        print_json({**outline_record(outline), "claims": claims})
        return
    print_outline(outline, as_json=False)
    console = _console()
    for question in questions:
        _print_block(console, claim_wording.heading(question), claim_wording.planned_lines(question, n))


def print_written(paths: Sequence[Path]) -> None:
    """Which files a report wrote."""
    _console().print(Text("\n".join(str(path) for path in paths)), soft_wrap=True)
