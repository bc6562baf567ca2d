"""Claims as people read them: each question as a heading and short lines, the same for every renderer.

A line is (what, text): what is asked, what was measured, and the verdict with what decided it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bnexp import wording
from bnexp.claim_grammar import KnobMetric
from bnexp.claims import Question, Side, metric_text
from bnexp.comparison import ClaimRow, Estimate, Row, resolvable
from bnexp.comparison.claimed import all_notes

Line = tuple[str, str]
ORDER = ("supported", "contradicted", "undecided")


def heading(question: Question) -> str:
    """``claim 1, activation=relu: the text of the claim``."""
    return f"{question.title}: {plain(question.claim.claim)}"


def plain(text: str) -> str:
    """Free text in one line, without what moves a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def asked_lines(question: Question) -> list[Line]:
    """What is expected of which metric: the lines that do not depend on results."""
    claim = question.claim
    expected = f"a equal to b within {claim.within}" if claim.expect == "equal" else f"a {claim.expect} than b"
    lines = [("source", plain(claim.source or "")), ("expect", expected), ("why", plain(claim.why or ""))]
    lines.append(("metric", metric_text(claim.metric)))
    return [line for line in lines if line[1]]


def planned_lines(question: Question, n_seeds: int) -> list[Line]:
    """What ``check`` says of a question: expectation, metric, both sides, what is tuned, and what n resolves."""
    lines = [*asked_lines(question), *((name, _setting(question, side)) for name, side in _sides(question))]
    if question.knob is not None:
        verb = "of" if isinstance(question.claim.metric, KnobMetric) else "tuned, each side at its best of"
        grids = [list(side.settings) for _, side in _sides(question)]
        shown = [", ".join(grid) for grid in grids]
        values = shown[0] if shown[0] == shown[1] else f"a {shown[0]}; b {shown[1]}"
        lines.append((question.knob, f"{verb} {values}"))
    resolved = resolvable(n_seeds)
    if resolved is None:
        return [*lines, ("n", "1 seed on each side: no interval")]
    limit = f"resolves {resolved:.2g} SD of the paired difference in 80 % of studies"
    return [*lines, ("n", f"{n_seeds} seeds on each side; {limit}")]


def planned_record(question: Question, n_seeds: int) -> dict[str, Any]:
    """The same for ``check --json``."""
    claim, resolved = question.claim, resolvable(n_seeds)
    return {
        **_identity(question),
        **{name: {"setting": _fields(question, side), "runs": _runs(side, n_seeds)} for name, side in _sides(question)},
        "tune": claim.tune,
        "grid": {name: list(side.settings) for name, side in _sides(question)} if question.knob else None,
        "n": n_seeds,
        "resolves_sd": None if resolved is None else round(resolved, 3),
    }


def row_lines(row: ClaimRow) -> list[Line]:
    """What ``compare`` says of a question: what was asked, both sides, their difference, notes."""
    lines = asked_lines(row.question)
    if row.tuned_by:
        best = f"each side at its best, chosen for each seed by {row.tuned_by} of the other seeds"
        lines.append((str(row.question.knob), best))
    for (name, side), measured in zip(_sides(row.question), (row.a, row.b), strict=True):
        lines.append((name, _setting(row.question, side)))
        lines.append(("", measured_text(row, measured)))
    ratio = row.metric.scale == "log"
    lines.append(("a / b" if ratio else "a − b", difference_text(row)))
    lines += [("", text) for text in more_texts(row)]
    lines.append(("verdict", verdict_text(row)))
    return [*lines, *(("note", note) for note in notes_of(row))]


def more_texts(row: ClaimRow) -> list[str]:
    """The margin that would have been met, the size of the effect, and the second interval."""
    difference, name = row.a.difference, row.metric.name
    if difference is None or row.a.both_failed or math.isinf(difference.equal_within or math.inf):
        return []
    unit = " points" if wording.is_percent(name) else ""
    effect = f"; d_z {wording.effect_text(row.a.effect)}" if row.a.effect else ""
    effect += f"; r {row.a.correlation:.2f}" if row.a.correlation is not None else ""
    texts = [f"equal within {wording.within_text(row.a, name)}{unit}{effect}"]
    if difference.items is not None:
        texts.append(f"other rows: {wording.items_text(difference, name, signed=True)}{unit}")
    return texts


def verdict_text(row: ClaimRow) -> str:
    """``supported: the interval lies wholly where the claim says; p 0.002 (t), 0.006 after Holm for 3 questions``."""
    return f"{verdict_word(row)}: {'; '.join([row.verdict.why, *p_texts(row), *warnings(row)])}"


def warnings(row: ClaimRow) -> list[str]:
    """What else must be said of a verdict: of other test rows, of sign flips, of runs that are missing."""
    only = "on these test rows only" if row.verdict.items_agree is False else ""
    missing = f"provisional: {row.n_unfinished} of {row.n_runs} runs are not finished" if row.n_unfinished else ""
    return [text for text in (only, *row.verdict.notes, missing) if text]


def verdict_word(row: ClaimRow) -> str:
    """The answer with what takes away from it: ``supported, not after correction for 3 questions, fragile``."""
    verdict = row.verdict
    uncorrected = "" if verdict.corrected else f"not after correction for {verdict.n_claims} questions"
    return ", ".join(part for part in (verdict.answer, uncorrected, "fragile" if verdict.fragile else "") if part)


def p_texts(row: ClaimRow) -> list[str]:
    """``p 0.002 (t), 0.006 after Holm for 3 questions`` and ``sign-flip p 0.004``; none where there is no test."""
    verdict = row.verdict
    if verdict.p is None or verdict.p_holm is None:
        return []
    holm = f", {wording.number_text(verdict.p_holm)} after Holm for {verdict.n_claims} questions"
    texts = [f"p {wording.number_text(verdict.p)} ({verdict.test}){holm if verdict.n_claims > 1 else ''}"]
    if verdict.test == "t" and verdict.p_flip is not None:
        texts.append(f"sign-flip p {wording.number_text(verdict.p_flip)}")
    return texts


def counts_text(rows: Sequence[ClaimRow]) -> str:
    """``2 supported, 1 undecided``."""
    answers = [row.verdict.answer for row in rows]
    return ", ".join(f"{answers.count(answer)} {answer}" for answer in ORDER if answer in answers)


def sides_label(row: ClaimRow) -> tuple[str, str]:
    """What the two sides differ in: ``full``, ``none``; with the field's name where that is not the norm."""
    sides = []
    for fields in (row.question.a.fields, row.question.b.fields):
        sides.append(", ".join(value if leaf == "norm" else f"{leaf} {value}" for leaf, value in fields.items()))
    return sides[0], sides[1]


def side_text(row: ClaimRow, side: Row) -> str:
    """A side's centre with its interval and unit: ``96.9 [96.2, 97.5] %``."""
    if side.estimate is None:
        return "–"
    if isinstance(row.question.claim.metric, KnobMetric):
        return _knob_text(side.estimate).rpartition(",")[0]
    text = wording.estimate_text(side.estimate, row.metric.name)
    return f"{text} %" if wording.is_percent(row.metric.name) and text != "failed" else text


def row_record(row: ClaimRow, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One question for ``compare --format json``; ``records`` are its flat ones, in the order a, b, difference."""
    sides = dict(zip(("a", "b", "difference"), records, strict=True))
    common = {"study", "metric", "table", "claim", "expect", "within", "side", "tuned_by", "versions"}
    return {
        "study": row.study,
        **_identity(row.question),
        "tune": row.question.claim.tune,
        "tuned_by": row.tuned_by,
        **{name: {k: v for k, v in record.items() if k not in common} for name, record in sides.items()},
        "verdict": verdict_word(row),
        "runs": row.n_runs,
        "unfinished": row.n_unfinished,
        "versions": row.versions,
    }


def measured_text(row: ClaimRow, side: Row) -> str:
    """``96.9 [96.2, 97.5] %, mean; 10 seeds, 10 learned``."""
    if not side.n:
        return "no finished runs" if side.n_missing else "nothing was chosen"
    count = f"{side.n} seed{'s' if side.n != 1 else ''}, {count_text(row, side)}"
    if side.estimate is None or isinstance(row.question.claim.metric, KnobMetric):
        return f"{'–' if side.estimate is None else _knob_text(side.estimate)}; {count}"
    kind = "" if side.estimate.kind == "median" else f", {side.estimate.kind}"
    return f"{side_text(row, side)}{kind}; {count}"


def count_text(row: ClaimRow, side: Row) -> str:
    """``10 learned``, ``7 learned [35, 93] %``; of a largest or smallest value ``7 with one``."""
    if isinstance(row.question.claim.metric, KnobMetric):
        return f"{side.n_learned} with one"
    exact = f" {wording.share_text(side.learned_share)}" if side.n_learned < side.n else ""
    return f"{side.n_learned} learned{exact}"


def _knob_text(estimate: Estimate) -> str:
    """A value of the knob with its interval; a failed seed has none."""
    failed = (math.inf, -math.inf, 0.0) if estimate.scale == "log" else (math.inf, -math.inf)
    ends = (estimate.center, estimate.low, estimate.high)
    center, low, high = ("" if end is None else "none" if end in failed else wording.digits(end) for end in ends)
    return f"{center}{f' [{low}, {high}]' if low else ''}, {estimate.kind}"


def difference_text(row: ClaimRow, names: tuple[str, str] = ("a", "b")) -> str:
    """a − b with its interval, or the ratio a / b; how many pairs, or why they are none."""
    if row.a.difference is None:
        return "–"
    pairs = wording.pairs(row.a.difference.n) if row.a.paired else "not paired"
    return f"{wording.contrast_text(row.a, row.metric, names)}, {pairs}"


def notes_of(row: ClaimRow) -> list[str]:
    """What holds for both sides, for each, and for the difference."""
    found = list(all_notes(row))
    for name, side in (("a", row.a), ("b", row.b)):
        text = wording.notes_of(replace(side, difference=None), row.metric.name)
        near = ", ".join(value for value in side.within_one_se if value not in (side.chosen or {}))
        text = "; ".join(part for part in (text, f"within one SE of the best: {near}" if near else "") if part)
        found += [f"{name}: {text}"] if text else []
    difference = row.a.difference
    if difference is not None:
        ranked = "by rank, failed runs worst" if difference.kind.startswith("median") else ""
        if row.a.p_mcnemar is not None:
            ranked += f", McNemar's p of the shares {wording.number_text(row.a.p_mcnemar)}"
        text = "; ".join(part for part in (ranked, difference.note) if part)
        found += [f"difference: {text}"] if text else []
    return found


def _identity(question: Question) -> dict[str, Any]:
    claim = question.claim
    return {
        "claim": question.number,
        "text": claim.claim,
        "source": claim.source,
        "where": dict(question.where),
        "each": dict(question.each),
        "metric": metric_text(claim.metric),
        "expect": claim.expect,
        "within": claim.within,
        "why": claim.why,
    }


def _sides(question: Question) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("a", question.a), ("b", question.b)


def _fields(question: Question, side: Side) -> dict[str, str]:
    return {**side.fields, **question.each, **question.where}


def _setting(question: Question, side: Side) -> str:
    return ", ".join(f"{leaf}={value}" for leaf, value in _fields(question, side).items())


def _runs(side: Side, n_seeds: int) -> int:
    return len(side.settings) * n_seeds
