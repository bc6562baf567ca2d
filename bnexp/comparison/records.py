"""Comparisons and claims as flat records, for JSON and CSV. ±inf (for ratios inf and 0) is a failed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnexp.claims import metric_text
from bnexp.comparison.claimed import ClaimRow, all_notes
from bnexp.comparison.compared import Comparison
from bnexp.comparison.factorial import Effects
from bnexp.comparison.intervals import Estimate
from bnexp.comparison.rows import Row
from bnexp.comparison.speed import Speed

Record = dict[str, Any]
EQUAL = "equal values"


def to_records(comparison: Comparison) -> list[Record]:
    """One record per row of the comparison: every setting, then each at its best value of the knob."""
    tables = ((EQUAL, comparison.rows), (f"best {comparison.tune}", comparison.best_rows))
    return [_row(comparison, table, row) for table, rows in tables for row in rows]


def effect_records(comparison: Comparison) -> list[Record]:
    """Three records per 2×2 design and setting: both main effects and their interaction."""
    tables = ((EQUAL, comparison.effects), (f"best {comparison.tune}", comparison.best_effects))
    return [record for table, found in tables for one in found for record in _effects(comparison, table, one)]


def speed_records(comparison: Comparison) -> list[Record]:
    """One record per row of the speed tables."""
    tables = ((EQUAL, comparison.speed), (f"best {comparison.tune}", comparison.best_speed))
    return [_speed(comparison, table, found, row) for table, found in tables if found for row in found.rows]


def _head(comparison: Comparison, table: str, setting: Mapping[str, str]) -> Record:
    record: Record = {"study": comparison.name, **comparison.group, "metric": comparison.metric_text, "table": table}
    return record | {leaf: setting.get(leaf, "") for leaf in comparison.axes}


def _row(comparison: Comparison, table: str, row: Row) -> Record:
    record = _head(comparison, table, row.setting) | {"is_baseline": row.is_baseline} | _counts(row)
    record |= _with_items("", row.estimate) | flat("learned_share", row.learned_share)
    record |= flat("of_learned", row.of_learned) | _difference("difference", row) | {"baseline": comparison.baseline}
    record["chosen"] = counts_text(row)
    record["within_one_se"] = "; ".join(row.within_one_se)
    return record | {"note": row.note, "versions": comparison.versions}


def _counts(row: Row) -> Record:
    counts = {"n": row.n, "n_learned": row.n_learned, "n_diverged": row.n_diverged}
    return counts | {"n_failed": row.n_failed, "n_missing": row.n_missing}


def _difference(name: str, row: Row) -> Record:
    """The difference with all that goes with it."""
    within = row.difference.equal_within if row.difference and not row.both_failed else None
    numbers = {"equal_within": within, "paired": row.paired, "correlation": row.correlation}
    numbers["n_baseline_failed"] = row.n_baseline_failed
    ps = {"p_sign_flip": row.p_sign_flip, "p_sign": row.p_sign, "p_mcnemar": row.p_mcnemar}
    effect = {f"effect_{end}": getattr(row.effect, end, None) for end in ("center", "low", "high")}
    return _with_items(name, row.difference) | numbers | ps | effect


def _effects(comparison: Comparison, table: str, effects: Effects) -> list[Record]:
    head = _head(comparison, f"effects, {table}", effects.setting)
    return [
        head
        | {"effect_of": name, "n": effects.n, **flat("", found)}
        | {"equal_within": found.equal_within if found else None, "note": effects.note}
        for name, found in effects.named.items()
    ]


def _speed(comparison: Comparison, table: str, speed: Speed, row: Row) -> Record:
    record = _head(comparison, f"speed, {table}", row.setting)
    record |= {"until": speed.target, "unit": speed.unit, "budget": speed.budget, "is_baseline": row.is_baseline}
    record |= {"n": row.n, "n_reached": row.n_learned, "n_missing": row.n_missing, **flat("", row.estimate)}
    record |= flat("difference" if speed.budget is not None else "speed_up", row.difference)
    record["equal_within"] = row.difference.equal_within if row.difference and not row.both_failed else None
    record |= {"baseline": comparison.baseline, "p_sign_flip": row.p_sign_flip, "p_sign": row.p_sign}
    return record | {"chosen": counts_text(row), "note": row.note, "versions": comparison.versions}


# --- claims -----------------------------------------------------------------------------------------------------------


def claim_records(row: ClaimRow) -> list[Record]:
    """Three records per question: side a, side b, and their difference with the verdict."""
    question, claim, verdict = row.question, row.question.claim, row.verdict
    shared: Record = {"study": row.study, "metric": metric_text(claim.metric), "table": f"claim {question.number}"}
    shared |= {"claim": claim.claim, "expect": claim.expect, "within": claim.within}
    records = []
    for name, side in (("a", row.a), ("b", row.b)):
        record = {**shared, "side": name, **side.setting, **_counts(side), **_with_items("", side.estimate)}
        record |= flat("learned_share", side.learned_share) | flat("of_learned", side.of_learned)
        record |= {"tuned_by": row.tuned_by, "chosen": counts_text(side), "note": side.note, "versions": row.versions}
        records.append(record)
    both = {**question.where, **question.each}
    difference = {**shared, "side": "difference", **both, "n": row.a.difference.n if row.a.difference else 0}
    difference |= _difference("", row.a)
    difference |= {"verdict": verdict.answer, "why": verdict.why, "p_by": verdict.test, "p": verdict.p}
    difference |= {"p_flip": verdict.p_flip, "p_holm": verdict.p_holm, "n_claims": verdict.n_claims}
    difference |= {"after_correction": verdict.corrected, "fragile": verdict.fragile}
    difference |= {"items_agree": verdict.items_agree, "verdict_notes": "; ".join(verdict.notes)}
    difference |= {"tuned_by": row.tuned_by, "note": "; ".join(all_notes(row)), "versions": row.versions}
    return [*records, difference]


# --- parts ------------------------------------------------------------------------------------------------------------


def counts_text(row: Row) -> str:
    """How often each value of a tuned knob was chosen: ``0.1 in 7; 1 in 3``."""
    return "; ".join(f"{value} in {count}" for value, count in (row.chosen or {}).items())


def flat(name: str, estimate: Estimate | None) -> Record:
    """An estimate's numbers, its kind and why it has no interval, each under the name."""
    prefix = f"{name}_" if name else ""
    numbers = {key: getattr(estimate, key, None) for key in ("center", "low", "high", "sd")}
    words = {"kind": estimate.kind if estimate else "", "why_no_interval": estimate.note if estimate else ""}
    return {f"{prefix}{key}": value for key, value in {**numbers, **words}.items()}


def _with_items(name: str, estimate: Estimate | None) -> Record:
    """The same with the second interval, of other seeds and other test rows."""
    prefix = f"{name}_" if name else ""
    low, high = estimate.items if estimate and estimate.items else (None, None)
    return flat(name, estimate) | {f"{prefix}items_low": low, f"{prefix}items_high": high}
