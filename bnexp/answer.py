"""The head of a report: the answer in two or three sentences, and what is not shown. Nothing here is free text.

The sentences come from the verdicts on the claims, with n and interval; of a study without claims, from the
differences to the baseline. A sentence about test accuracy uses the interval of other seeds *and* other test rows where
there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnexp import claim_wording, wording
from bnexp.claim_grammar import KnobMetric
from bnexp.comparison import ClaimRow, Comparison, Row, not_covered
from bnexp.results import Results
from bnexp.summary import label_of, verdict_of

MOST_SENTENCES = 3
BOTH = "over other seeds and other test rows"


@dataclass(frozen=True)
class Answer:
    """What the head of a report says. ``undecided``: no sentence claims anything."""

    sentences: Sequence[str]
    not_shown: Sequence[str]


def answer_of(results: Results, comparisons: Sequence[Comparison], claims: Sequence[ClaimRow]) -> Answer:
    """The answer of one study."""
    finished = any(row.n for comparison in comparisons for row in comparison.rows)
    if not finished:
        total = len(results.runs)
        return Answer([f"There is no answer yet: none of the {total} runs has finished."], [])
    sentences, left = _from_claims(claims) if claims else _from_rows(comparisons)
    return Answer(sentences, [*left, *_not_judged(claims), *_not_covered(comparisons, claims)])


# --- claims -----------------------------------------------------------------------------------------------------------


def _from_claims(rows: Sequence[ClaimRow]) -> tuple[list[str], list[str]]:
    """The sentences, and what they leave out."""
    if len(rows) <= MOST_SENTENCES:
        return [claim_sentence(row) for row in rows], []
    counted = f"The claims ask {len(rows)} questions: {claim_wording.counts_text(rows)}."
    told = _telling(rows, MOST_SENTENCES - 1)
    left = f"The other {len(rows) - len(told)} questions are not spelled out here; they stand under Claims."
    return [counted, *map(claim_sentence, told)], [left]


def _telling(rows: Sequence[ClaimRow], most: int) -> list[ClaimRow]:
    """The first question, then those with another verdict (contradicted first) and of another claim."""
    first, order = rows[0], ("contradicted", "supported", "undecided")

    def rank(row: ClaimRow) -> tuple[bool, int, bool]:
        same_claim = row.question.number == first.question.number
        return row.verdict.answer == first.verdict.answer, order.index(row.verdict.answer), same_claim

    return [first, *sorted(rows[1:], key=rank)[: most - 1]]


def claim_sentence(row: ClaimRow) -> str:
    """One question with its verdict, both sides, the difference with its interval, and n."""
    each = ", ".join(f"{leaf} {value}" for leaf, value in row.question.each.items())
    only = ", on these test rows only" if row.verdict.items_agree is False else ""
    said = f"“{claim_wording.plain(row.question.claim.claim)}”{f' ({each})' if each else ''} is "
    said += f"{claim_wording.verdict_word(row)}{only}"
    if row.a.difference is None:
        return f"{said}; nothing was compared: {row.verdict.why}."
    a, b = claim_wording.sides_label(row)
    named = tuple(f"norm {label}" if "norm" in row.question.a.fields else label for label in (a, b))
    knob = isinstance(row.question.claim.metric, KnobMetric)  # of which "none" is a value, too
    numbers = [f"{claim_wording.side_text(row, wording.in_general(side))}{_failures(side)}" for side in (row.a, row.b)]
    sides = f"{named[0]} {numbers[0]}, {named[1]} {numbers[1]}" if knob else f"{a} {numbers[0]}, {b} {numbers[1]}"
    text = claim_wording.difference_text(replace(row, a=wording.in_general(row.a)), (named[0], named[1]))
    what = "ratio " if row.metric.scale == "log" else "difference "
    what = "" if text.startswith((*named, "both", "tie", "difference", "ratio")) else what  # in words: who failed
    return f"{said}: {sides}; {what}{text}{', ' + BOTH if row.a.difference.items else ''}."


def _failures(side: Row) -> str:
    return f" ({side.n_failed} of {side.n} {side.failed})" if side.n_failed else ""


# --- no claims --------------------------------------------------------------------------------------------------------


def _from_rows(comparisons: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """The sentences, one of each comparison before a second one of any, and what they leave out."""
    queues = []
    for comparison in comparisons:
        rows = [row for row in comparison.best_rows or comparison.rows if row.difference is not None]
        rows.sort(key=lambda row: row.setting.get("norm") != "full")  # with everything switched on it says most
        queues.append([row_sentence(comparison, row) for row in rows])
    found = [text for turn in itertools.zip_longest(*queues) for text in turn if text is not None]
    more = len(found) - MOST_SENTENCES
    left = [f"{more} more differences are not spelled out here; they stand in the tables."] if more > 0 else []
    return found[:MOST_SENTENCES] or ["Nothing was compared: no setting has a baseline that it differs from."], left


def row_sentence(comparison: Comparison, row: Row) -> str:
    """One setting against its baseline, with n and interval."""
    assert row.difference is not None
    general = wording.in_general(row)
    at = f" at its best {comparison.tune}" if comparison.best_rows else ""
    group = ", ".join(f"{leaf} {value}" for leaf, value in comparison.group.items())
    text = wording.difference_text(general, comparison.metric)
    unit = " percentage points" if wording.is_percent(comparison.metric) and wording.is_number(text) else ""
    n = f"n = {wording.pairs(row.difference.n)}" if row.paired else "not paired"
    n = f"median, {n}" if row.difference.kind.startswith("median") else n
    both = f", {BOTH}" if row.difference.items else ""
    lost = f" ({row.n_baseline_failed} of {row.n_baseline} {row.failed})" if row.n_baseline_failed else ""
    ours, theirs = f"{label_of(row.setting)}{at}{_failures(row)}", f"{comparison.baseline}{lost}"
    sides = f"{ours} against {theirs}, {wording.metric_name(comparison)}"
    verdict = verdict_of(general, comparison)
    found = f"{text}{unit} ({n}{both})" + (f"; {verdict}" if verdict != text else "")
    return f"{f'On {group}: ' if group else ''}{sides}: {found}."


# --- what is not shown ------------------------------------------------------------------------------------------------


def _not_judged(claims: Sequence[ClaimRow]) -> list[str]:
    if not claims:
        return ["The spec states no claims, so nothing was tested: tables and intervals are descriptive."]
    uncorrected = [row.question.title for row in claims if not row.verdict.corrected]
    texts = (
        _listed("undecided", [row.question.title for row in claims if row.verdict.answer == "undecided"]),
        _listed(f"not significant after correction for {len(claims)} questions", uncorrected),
        _listed(
            "fragile (sign flips disagree with the interval)", [r.question.title for r in claims if r.verdict.fragile]
        ),
        _listed("provisional (runs are missing)", [r.question.title for r in claims if r.n_unfinished]),
    )
    return [text for text in texts if text]


def _listed(what: str, titles: Sequence[str]) -> str:
    shown = "; ".join(titles[:MOST_SENTENCES]) + (
        f"; and {len(titles) - MOST_SENTENCES} more" if len(titles) > 3 else ""
    )
    return f"{wording.capital(what)}: {shown}." if titles else ""


def _not_covered(comparisons: Sequence[Comparison], claims: Sequence[ClaimRow]) -> list[str]:
    """Which intervals cover other test rows: each of the sentences says it of its own."""
    rows = [row.a for row in claims] or [row for one in comparisons for row in one.best_rows or one.rows]
    second = [row.difference.items is not None for row in rows if row.difference is not None]
    return [not_covered("all" if second and all(second) else "some" if any(second) else "none")]
