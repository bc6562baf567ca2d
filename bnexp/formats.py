"""Comparisons and claims as JSON, CSV, Markdown and LaTeX: whole documents as text.

Names and claims are free text: in CSV none can become a formula, in LaTeX none a command.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnexp import claim_wording, wording
from bnexp.comparison import (
    NOT_COVERED,
    ClaimRow,
    Comparison,
    claim_records,
    effect_records,
    speed_records,
    to_records,
)
from bnexp.sheets import Sheet, sheets_of
from bnexp.untrusted import harmless

Comparisons = Sequence[Comparison]
Claims = Sequence[ClaimRow]


def document(comparisons: Comparisons, claims: Claims) -> dict[str, Any]:
    """Comparisons and claims as one JSON document."""
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
                "effects": effect_records(comparison),
                "speed": speed_records(comparison),
            }
            for comparison in comparisons
        ],
        "claims": [claim_wording.row_record(row, claim_records(row)) for row in claims],
        "not_covered": NOT_COVERED,
    }


def as_json(comparisons: Comparisons, claims: Claims) -> str:
    """The document as text."""
    return to_json(document(comparisons, claims))


def to_json(value: Any) -> str:
    """JSON, in which an infinite number is the text "Infinity" or "-Infinity" and what is not a number is null."""
    return json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# --- CSV --------------------------------------------------------------------------------------------------------------


def as_csv(comparisons: Comparisons, claims: Claims) -> str:
    """All records under the union of their columns; the column ``table`` tells them apart."""
    records = [record for comparison in comparisons for record in to_records(comparison)]
    records += [record for row in claims for record in claim_records(row)]
    for make in (effect_records, speed_records):
        records += [record for comparison in comparisons for record in make(comparison)]
    columns = list(dict.fromkeys(key for record in records for key in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in record.items()} for record in records)
    return buffer.getvalue()


# --- Markdown ---------------------------------------------------------------------------------------------------------


def as_markdown(comparisons: Comparisons, claims: Claims) -> str:
    """Tables and claims, each under a bold line."""
    parts = [*map(_markdown_comparison, comparisons), *map(_markdown_claim, claims)]
    return "\n\n".join([*parts, *([NOT_COVERED] if comparisons else [])]) + "\n"


def _markdown_comparison(comparison: Comparison) -> str:
    lines = [f"**{_markdown(wording.group_title(comparison))}**"]
    for sheet in sheets_of(comparison):
        header = [*(head.name for head in sheet.heads), "note"]
        lines += ["", _markdown(sheet.title), "", _markdown_row(header), _markdown_row(["---"] * len(header))]
        lines += [_markdown_row([*row, note]) for row, note in zip(sheet.rows, sheet.notes, strict=True)]
    return "\n".join([*lines, *(f"\n{_markdown(note)}" for note in comparison.notes)])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell if set(cell) == {"-"} else _markdown(cell) for cell in cells) + " |"


_MARKS = re.compile(r"[\\`*|]|(?<!\w)_|_(?!\w)|(?<=\])\(")  # a _ inside a word is none


def _markdown(text: str) -> str:
    """Free text that stays text: no emphasis, no cell, no link, no HTML."""
    return html.escape(_MARKS.sub(r"\\\g<0>", text), quote=False).replace("\n", " ")


def _markdown_claim(row: ClaimRow) -> str:
    lines = [
        f"- {what}: {_markdown(text)}" if what else f"  {_markdown(text)}"
        for what, text in claim_wording.row_lines(row)
    ]
    return "\n".join([f"**{_markdown(claim_wording.heading(row.question))}**", "", *lines])


# --- LaTeX ------------------------------------------------------------------------------------------------------------

_LATEX: Mapping[int, str] = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",  # after \\ a bracket would be taken for a length
        "]": "{]}",
        "×": r"$\times$",
        "−": "$-$",
        "±": r"$\pm$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "·": r"$\cdot$",
        "–": "--",
        "∞": r"$\infty$",
        "γ": r"$\gamma$",
        "β": r"$\beta$",
        "\n": " ",
    }
)


def latex(text: str) -> str:
    """Free text that stays text."""
    return text.translate(_LATEX)


def as_latex(comparisons: Comparisons, claims: Claims) -> str:
    """Tables for booktabs; a note stands below its table."""
    parts = [part for comparison in comparisons for part in _latex_comparison(comparison)]
    parts += [_latex_claim(row) for row in claims]
    return "\n".join([*parts, *([f"{latex(NOT_COVERED)}\n"] if comparisons else [])])


def _latex_comparison(comparison: Comparison) -> list[str]:
    title = latex(f"{wording.group_title(comparison)}: {wording.metric_title(comparison)}")
    notes = [f"{latex(note)}\n" for note in comparison.notes]
    return [rf"\noindent\textbf{{{title}}}\par" + "\n", *map(_latex_sheet, sheets_of(comparison)), *notes]


def _latex_sheet(sheet: Sheet) -> str:
    notes = list(dict.fromkeys(note for note in sheet.notes if note))
    marks = {note: str(number) for number, note in enumerate(notes, start=1)}
    lines = [f"% {' '.join(sheet.title.split())}", rf"\begin{{tabular}}{{{'l' * len(sheet.heads)}}}", r"\toprule"]
    lines += [_latex_row([head.name for head in sheet.heads]), r"\midrule"]
    for row, note in zip(sheet.rows, sheet.notes, strict=True):
        mark = rf"\textsuperscript{{{marks[note]}}}" if note else ""
        lines.append(_latex_row(row[:-1], latex(row[-1]) + mark))
    lines += [r"\bottomrule", r"\end{tabular}"]
    said = [rf"\par\footnotesize\textsuperscript{{{mark}}} {latex(note)}" for note, mark in marks.items()]
    return "\n".join([*lines, *([r"\begingroup", *said, r"\par\endgroup"] if said else []), ""])


def _latex_row(cells: Sequence[str], *made: str) -> str:
    return " & ".join([*map(latex, cells), *made]) + r" \\"


def _latex_claim(row: ClaimRow) -> str:
    """A description of two columns: what, and its text."""
    lines = [r"\begin{tabular}{lp{0.75\linewidth}}", r"\toprule"]
    title = row.question.title
    text = claim_wording.heading(row.question).removeprefix(f"{title}: ")
    lines += [_latex_row(pair) for pair in ((title, text), *claim_wording.row_lines(row))]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


WRITERS: Mapping[str, Callable[[Comparisons, Claims], str]] = {
    "json": as_json,
    "csv": as_csv,
    "markdown": as_markdown,
    "latex": as_latex,
}
