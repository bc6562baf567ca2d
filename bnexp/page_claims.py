"""The claims of the page as plain text: each with its facts, and a table of its questions with their verdicts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bnexp import claim_wording, wording
from bnexp.comparison import ClaimRow, Row
from bnexp.page_tables import Block, Cell, Table

MARKS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}  # beside the word: no colour is needed to tell them


@dataclass(frozen=True)
class ClaimPart:
    """One claim. ``facts`` are (what, text); ``answers`` are the verdicts of its questions, without repetition."""

    number: int
    text: str
    answers: Sequence[str]
    facts: Sequence[tuple[str, str]]
    table: Table


def claim_parts(rows: Sequence[ClaimRow]) -> list[ClaimPart]:
    """The claims in their order."""
    return [_part(list(found)) for _, found in itertools.groupby(rows, key=lambda row: row.question.number)]


def _part(rows: Sequence[ClaimRow]) -> ClaimPart:
    question = rows[0].question
    answers = list(dict.fromkeys(row.verdict.answer for row in rows))
    facts = [(what, text) for what, text in claim_wording.asked_lines(question)]
    if question.where:
        facts.append(("where", ", ".join(f"{leaf} {value}" for leaf, value in question.where.items())))
    if rows[0].tuned_by:
        facts.append(
            (str(question.knob), f"each side at its best, chosen for each seed by {rows[0].tuned_by} of the others")
        )
    return ClaimPart(question.number, question.claim.claim, answers, facts, _table(rows))


def _table(rows: Sequence[ClaimRow]) -> Table:
    each, (a, b) = list(rows[0].question.each), claim_wording.sides_label(rows[0])
    difference = "a / b" if rows[0].metric.scale == "log" else "a − b"
    # The verdict comes first, so that a narrow window does not hide it.
    heads = [
        *((leaf, "setting") for leaf in each),
        ("verdict", "verdict"),
        (f"a: {a}", "number"),
        (f"b: {b}", "number"),
    ]
    heads += [(f"{difference} [95\u00a0%]", "number"), ("p", "number"), ("notes", "note")]
    notes: dict[str, int] = {}
    for row in rows:
        for note in claim_wording.notes_of(row):
            notes.setdefault(note, len(notes) + 1)
    block = Block("", [_cells(row, each, notes) for row in rows], frozenset())
    return Table(f"Claim {rows[0].question.number}", "", heads, [block], [], list(notes), folded=False)


def _cells(row: ClaimRow, each: Sequence[str], notes: dict[str, int]) -> list[Cell]:
    marks = ", ".join(str(notes[note]) for note in claim_wording.notes_of(row))
    return [
        *(Cell(row.question.each[leaf], kind="setting") for leaf in each),
        _verdict(row),
        *(Cell(claim_wording.side_text(row, side), _below(row, side)) for side in (row.a, row.b)),
        Cell(claim_wording.difference_text(row), "\n".join(claim_wording.more_texts(row)).replace("; ", "\n")),
        Cell(*_p(row)),
        Cell(marks, kind="note"),
    ]


def _below(row: ClaimRow, side: Row) -> str:
    return f"of {side.n}, {claim_wording.count_text(row, side)}"


def _verdict(row: ClaimRow) -> Cell:
    why = "; ".join([row.verdict.why, *claim_wording.warnings(row)])
    text = f"{MARKS[row.verdict.answer]} {claim_wording.verdict_word(row)}"
    return Cell(text, why, f"verdict {row.verdict.answer}")


def _p(row: ClaimRow) -> tuple[str, str]:
    """p, and below it its test, the corrected and the sign-flip one."""
    verdict = row.verdict
    if verdict.p is None or verdict.p_holm is None:
        return "–", ""
    below = [f"({verdict.test})", f"Holm {wording.number_text(verdict.p_holm)}" if verdict.n_claims > 1 else ""]
    if verdict.test == "t" and verdict.p_flip is not None:
        below.append(f"sign-flip {wording.number_text(verdict.p_flip)}")
    return wording.number_text(verdict.p), "\n".join(filter(None, below))
