"""The claims of the page as plain text: each with its facts, and a table of its questions with their verdicts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from bnexp import claim_wording, wording
from bnexp.comparison import ClaimRow
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
        *(Cell(claim_wording.side_text(row, side), _counts(side.n_learned, side.n)) for side in (row.a, row.b)),
        Cell(claim_wording.difference_text(row), "\n".join(claim_wording.more_texts(row)).replace("; d_z", "\nd_z")),
        Cell(*_p(row)),
        Cell(marks, kind="note"),
    ]


def _verdict(row: ClaimRow) -> Cell:
    verdict = row.verdict
    return Cell(f"{MARKS[verdict.answer]} {claim_wording.verdict_word(row)}", verdict.why, f"verdict {verdict.answer}")


def _counts(learned: int, n: int) -> str:
    return f"{learned} of {n} learned"


def _p(row: ClaimRow) -> tuple[str, str]:
    """p with its test, and below it the corrected and the sign-flip one."""
    verdict = row.verdict
    if verdict.p is None:
        return "–", ""
    holm = f"Holm {wording.number_text(verdict.p_holm)}" if verdict.p_holm is not None and verdict.n_claims > 1 else ""
    flip = (
        f"sign-flip {wording.number_text(verdict.p_flip)}" if verdict.p_flip is not None and verdict.test == "t" else ""
    )
    test = "" if verdict.test == "t" else f"{verdict.test}"
    return wording.number_text(verdict.p), "\n".join(part for part in (test, holm, flip) if part)
