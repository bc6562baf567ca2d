"""A comparison in plain words: what was compared, and what came out with n and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bnexp.comparison import Comparison, Row
from bnexp.results import Results
from bnexp.wording import (
    NEITHER,
    difference_text,
    estimate_text,
    in_general,
    is_number,
    is_percent,
    metric_title,
)

Side = Literal["better", "worse", "open", "neither", "no interval"]
FAULT = "One learning rate for all norms is the commonest fault of such studies"
MOST_SENTENCES = 6  # settings with a line of their own; of more only counts are given
_VERDICTS: dict[Side, str] = {
    "better": "the interval holds better values only",
    "worse": "the interval holds worse values only",
    "open": "the interval includes no difference",
    "neither": NEITHER,
    "no interval": "no interval",
}


@dataclass(frozen=True)
class Said:
    """A paragraph, and a list below it."""

    text: str
    items: Sequence[str] = ()


def summary_of(results: Results, comparison: Comparison) -> list[Said]:
    """What stands at the head of a comparison."""
    if not any(row.n for row in comparison.rows):
        return [Said(f"None of the {sum(row.n_missing for row in comparison.rows)} runs has finished.")]
    tuned = [*_best(comparison), _equal(comparison)] if comparison.tune else [_one_rate(results, comparison)]
    return [_what(comparison), *tuned, _failures(comparison)]


def side_of(row: Row, higher_is_better: bool) -> Side:
    """Where the interval of the difference lies: wholly on one side of no difference, or not."""
    difference = row.difference
    if difference is None:
        return "no interval"
    none = 0.0 if difference.scale == "raw" else 1.0
    if row.nobody:
        return "neither"
    if difference.low is None or difference.high is None:
        return "no interval"
    if difference.low <= none <= difference.high:
        return "open"
    return "better" if (difference.low > none) == higher_is_better else "worse"


def spoken(metric: str) -> str:
    """A column's name in words: val_accuracy is validation accuracy."""
    for short, long in (("val_", "validation "), ("fit_", "final training "), ("train_", "training ")):
        metric = metric.replace(short, long)
    return metric.replace("_", " ")


def label_of(setting: Mapping[str, str], without: Sequence[str] = ()) -> str:
    """A setting in words: the norm, then what else varies."""
    rest = [f"{leaf} {value}" for leaf, value in setting.items() if leaf not in ("norm", *without) and value != "–"]
    return ", ".join([part for part in (setting.get("norm", ""),) if part] + rest)


def verdict_of(row: Row, comparison: Comparison) -> str:
    """Where the interval of a difference lies, in words."""
    side = side_of(row, comparison.higher_is_better)
    if not comparison.directed and side in ("better", "worse"):  # better is lower there, by convention alone
        return f"the interval holds {'smaller' if side == 'better' else 'larger'} values only"
    return _VERDICTS[side]


def _what(comparison: Comparison) -> Said:
    rows = comparison.rows
    n, missing = sum(row.n for row in rows), sum(row.n_missing for row in rows)
    counts = sorted({row.n + row.n_missing for row in rows})
    plural = "s" if counts[-1] > 1 else ""
    seeds = f"{counts[0]} seed{plural} each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds each"
    runs = f"{n} finished runs" + (f" ({missing} more are not finished)" if missing else "")
    better = f"; {'higher' if comparison.higher_is_better else 'lower'} is better" if comparison.directed else ""
    metric = metric_title(comparison).removesuffix(", %")
    when = " after the last epoch" if comparison.metric == comparison.metric_text else ""
    compared = any(row.difference is not None for row in rows)
    against = f" Settings are compared with {comparison.baseline}." if compared else ""
    once = (
        " Norm none has no placement and counts once."
        if any(row.setting.get("placement") == "–" for row in rows)
        else ""
    )
    settings = f"{len(rows)} setting{'s' if len(rows) > 1 else ''}"
    return Said(f"{settings}, {seeds}: {runs}. The metric is {metric}{when}{better}.{against}{once}")


# --- at the best value ------------------------------------------------------------------------------------------------


def _best(comparison: Comparison) -> list[Said]:
    rows, knob = comparison.best_rows, comparison.tune
    if not rows:
        return []
    head = (
        f"Each norm at its own best {knob}: every seed is reported at the {knob} with the best "
        f"{spoken(comparison.tuned_by)} on the other seeds, so no test row and no seed chooses for itself."
    )
    return [_compared(comparison, rows, head), *_edges(rows, str(knob))]


def _edges(rows: Sequence[Row], knob: str) -> list[Said]:
    edges = [f"{label_of(row.setting)} ({', '.join(row.edges)})".strip() for row in rows if row.edges]
    if not edges:
        return []
    listed = "; ".join(edges) if len(edges) <= MOST_SENTENCES else f"{len(edges)} of {len(rows)} settings"
    return [
        Said(f"The best {knob} lies at an edge of the grid for {listed}: a wider grid could change the comparison.")
    ]


def _compared(comparison: Comparison, rows: Sequence[Row], head: str) -> Said:
    """A line per setting where they are few, else counts."""
    compared = [row for row in rows if not row.is_baseline and row.difference is not None]
    if not compared:
        return Said(head)
    if len(compared) > MOST_SENTENCES:
        return Said(f"{head} {_counts(comparison, compared)}")
    base = [in_general(row) for row in rows if row.is_baseline]
    compared = [in_general(row) for row in compared]
    if any(row.difference and row.difference.items for row in compared):
        head += " Intervals are for other seeds and other test rows."
    lines = [f"{label_of(row.setting)}: {_estimate(row, comparison.metric)}" for row in base]
    return Said(head, [*lines, *(_line(comparison, row) for row in compared)])


def _estimate(row: Row, metric: str) -> str:
    text = estimate_text(row.estimate, metric)
    unit = " %" if is_percent(metric) and text[-1:] in "0123456789]" else ""
    return f"{text}{unit} (n = {row.n})"


def _line(comparison: Comparison, row: Row) -> str:
    metric, side = comparison.metric, side_of(row, comparison.higher_is_better)
    own = f"{label_of(row.setting)}: {_estimate(row, metric)}"
    if side == "neither" or row.difference is None:
        return f"{own}; {_VERDICTS[side]}"
    text = difference_text(row, metric)
    points = " percentage points" if is_percent(metric) and is_number(text) else ""
    return f"{own}; {text}{points} against {comparison.baseline}: {verdict_of(row, comparison)}"


def _counts(comparison: Comparison, rows: Sequence[Row]) -> str:
    sides = [side_of(row, comparison.higher_is_better) for row in rows]
    good, bad = ("better", "worse") if comparison.directed else ("smaller", "larger")
    counted = (
        f"in {sides.count('better')} the interval of the difference holds {good} values only",
        f"in {sides.count('worse')} {bad} values only",
        f"in {sides.count('open')} it includes no difference",
        f"in {sides.count('neither')} neither learned" if "neither" in sides else "",
        f"{sides.count('no interval')} have no interval" if "no interval" in sides else "",
    )
    listed = ", ".join(text for text in counted if text)
    return (
        f"Of {len(rows)} settings compared with {comparison.baseline}, {listed}. Were there no difference anywhere, "
        "about 1 interval in 20 would still exclude it. The table names them."
    )


# --- at equal values --------------------------------------------------------------------------------------------------


def _equal(comparison: Comparison) -> Said:
    knob = comparison.tune
    first = f"Read the table at the best {knob} first; that" if comparison.best_rows else "The table"
    head = (
        f"At equal {knob} the answer can depend on which one was taken. {FAULT}: what suits one norm may be wrong for "
        f"another. {first} at equal {knob} shows how much the choice matters."
    )
    return Said(head, _ranges(comparison))


def _ranges(comparison: Comparison) -> list[str]:
    """Per setting of the other fields: the smallest and the largest difference over the knob."""
    knob = str(comparison.tune)
    spans: dict[str, list[tuple[float, Row]]] = {}
    for row in comparison.rows:
        if row.difference is not None and side_of(row, True) != "neither":
            spans.setdefault(label_of(row.setting, (knob,)), []).append((row.difference.center, row))
    if len(spans) > MOST_SENTENCES:
        return []
    return [_range(label, rows, comparison) for label, rows in spans.items() if len(rows) > 1]


def _range(label: str, rows: Sequence[tuple[float, Row]], comparison: Comparison) -> str:
    unit = " percentage points" if is_percent(comparison.metric) else ""
    ordered = sorted((pair for pair in rows if math.isfinite(pair[0])), key=lambda pair: pair[0])
    ends = [
        f"{difference_text(row, comparison.metric).split(' [')[0]}{unit} at {row.setting[str(comparison.tune)]}"
        for _, row in (ordered[:1] + ordered[-1:] if len(ordered) > 1 else ordered)
    ]
    text = f"{label} against {comparison.baseline}: {' to '.join(ends)}" if ends else label
    failed = [(center, row) for center, row in rows if not math.isfinite(center)]
    told = [f"; {difference_text(row, comparison.metric)} at {row.setting[str(comparison.tune)]}" for _, row in failed]
    return text + "".join(told)


def _one_rate(results: Results, comparison: Comparison) -> Said:
    inside = {
        setting.shown("lr")
        for setting in results.spec.settings
        if all(setting.shown(leaf) == value for leaf, value in comparison.group.items())
    }
    head = "The learning rates were set in the spec, not chosen by the data; the settings say which norm had which."
    if len(inside) == 1:
        head = f"All norms were trained at lr {inside.pop()}. {FAULT}: a difference here may be one of learning rates."
    return _compared(comparison, comparison.rows, head)


def _failures(comparison: Comparison) -> Said:
    rows = comparison.rows
    diverged, total = sum(row.n_diverged for row in rows), sum(row.n for row in rows)
    idle = sum(row.n - row.n_learned for row in rows) - diverged
    if not diverged + idle:
        return Said(f"All {total} finished runs learned; none diverged.")
    return Said(
        f"Of {total} finished runs, {diverged} diverged and {idle} ended without having learned. None is left out: in "
        "a difference such a run has the worst rank, and the difference is a median."
    )
