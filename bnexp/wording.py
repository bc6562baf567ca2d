"""Numbers as people read them: accuracies in percent, ratios with their interval, failures by name.

Used by every renderer (terminal, markdown, LaTeX), so that they say the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

from bnexp.comparison import Comparison, Estimate, Row
from bnexp.comparison.metrics import LEARNING, Metric, metric_of
from bnexp.layout import METRIC

FAILED, BASELINE_FAILED = LEARNING.failed, "baseline did not learn"  # by rank: in the middle pair
NEITHER = "neither learned"


def is_number(text: str) -> bool:
    """Whether a difference in words begins with a number, to which a unit belongs."""
    return text[:1] in "+-−0123456789"


def pairs(n: int) -> str:
    """``10 pairs``, ``1 pair``."""
    return f"{n} pair{'' if n == 1 else 's'}"


def capital(text: str) -> str:
    """The same with a capital first letter."""
    return text[:1].upper() + text[1:]


def is_percent(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    match = METRIC.fullmatch(metric)
    return match is not None and match[2] == "accuracy"


def quantity(value: float, metric: str, signed: bool = False) -> str:
    """One value of a metric: 96.9 (percent) or three significant digits."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "failed"
    if is_percent(metric):
        return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return ("+" if signed and value >= 0 else "") + digits(value)


def digits(value: float) -> str:
    """Three significant digits; thousands written out."""
    text = f"{value:.3g}"
    return f"{float(text):.0f}" if 1000 <= abs(value) < 1e6 else text


def estimate_text(estimate: Estimate | None, metric: str) -> str:
    """A centre with its interval: ``96.9 [96.2, 97.5]``; a median says so."""
    if estimate is None:
        return "–"
    text = quantity(estimate.center, metric)
    if estimate.low is not None and estimate.high is not None and text != "failed":
        text += f" [{quantity(estimate.low, metric)}, {quantity(estimate.high, metric)}]"
    return f"median {text}" if estimate.kind == "median" and text != "failed" else text


def difference_text(row: Row, metric: str) -> str:
    """The difference to the baseline with its interval (percentage points), or the ratio: ``× 0.42 [0.31, 0.57]``."""
    if row.is_baseline:
        return "baseline"
    estimate = row.difference
    if estimate is None:
        return "–"
    tie = 0 if estimate.scale == "raw" else 1
    if row.nobody:
        return NEITHER if row.failed == FAILED else f"both {row.failed}"
    if not math.isfinite(estimate.center) or (estimate.scale == "log" and estimate.center == 0):
        return f"{_without_number(row, estimate.center, tie, metric)}{_open_ends(estimate, metric)}"
    if estimate.kind.startswith("median") and estimate.center == tie:
        return f"tie{_ends(estimate, metric)}"
    return contrast_numbers(estimate, metric)


def _ends(estimate: Estimate, metric: str) -> str:
    """The interval of a difference or ratio, with a space before it; empty where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.scale == "log":
        return f" [{_factor(estimate.low)}, {_factor(estimate.high)}]"
    return f" [{_end(estimate.low, metric)}, {_end(estimate.high, metric)}]"


def _open_ends(estimate: Estimate, metric: str) -> str:
    """The interval where an end of it is a number."""
    failed = (0.0, math.inf) if estimate.scale == "log" else (-math.inf, math.inf)
    return "" if estimate.low in (None, *failed) and estimate.high in (None, *failed) else _ends(estimate, metric)


def _without_number(row: Row, center: float, tie: float, metric: str) -> str:
    """What kept the middle pair from having a difference: a side failed, is 0 on a log scale, or is not finite."""
    if math.isnan(center):
        return "each failed in half of the pairs"
    known, n = metric_of(metric), row.difference.n if row.difference else 0
    if (center > tie) != (known is not None and known.higher_is_better):
        if 2 * row.n_failed >= n:
            return row.failed
        return "baseline is 0" if all(map(math.isfinite, row.values.values())) else "not finite"
    if 2 * row.n_baseline_failed >= n:
        return BASELINE_FAILED if row.failed == FAILED else f"baseline {row.failed}"
    return "0" if 0 in row.values.values() else "baseline not finite"


def contrast_text(row: Row, metric: Metric, names: tuple[str, str] = ("a", "b")) -> str:
    """a − b, or a / b, of a claim (its side a); in words where the middle pair has a run without a finite number."""
    difference = row.difference
    assert difference is not None
    tie, unit = (0 if difference.scale == "raw" else 1), " points" if is_percent(metric.name) else ""
    ranked = difference.kind.startswith("median")
    ends = f"{_ends(difference, metric.name)}{unit}" if difference.low is not None else ""
    if row.nobody:
        return "both sides failed in every run"
    if not math.isfinite(difference.center) or (difference.scale == "log" and difference.center == 0):
        words = _in_words(row, metric, names)
        return words if "every" in words or not ends else f"{words}, interval{ends}"
    if ranked and difference.center == tie:
        return f"tie in the median{ends}"
    what = "median " if ranked else f"{difference.kind} " if "of medians" in difference.kind else ""
    return f"{what}{contrast_numbers(difference, metric.name)}{unit}"


def _in_words(row: Row, metric: Metric, names: tuple[str, str]) -> str:
    """Which side keeps the middle pair from having a difference: failed there, or is zero on the log scale."""
    assert row.difference is not None
    (a, b), where = names, "in the middle pair" if row.paired else "in the median"
    center, n = row.difference.center, row.difference.n
    if math.isnan(center):
        return f"{a} failed in half of the pairs, {b} in the other half"
    a_worse = (center > (0 if row.difference.scale == "raw" else 1)) != metric.higher_is_better
    worse, other, failed = (a, b, row.n_failed) if a_worse else (b, a, row.n_baseline_failed)
    clean = not (row.n_baseline_failed if a_worse else row.n_failed)
    if row.paired and clean and failed >= n and all(map(math.isinf, row.differences.values())):
        return f"{worse} failed in every pair, {other} in none"
    return f"{worse} failed {where}" if 2 * failed >= n else f"{other} is 0 {where}"


def items_text(estimate: Estimate | None, metric: str, signed: bool = False) -> str:
    """The second interval of an accuracy, ``[95.9, 97.8]``: other seeds and other test rows."""
    if estimate is None or estimate.items is None:
        return "–"
    return f"[{', '.join(quantity(end, metric, signed) for end in estimate.items)}]"


def in_general(row: Row) -> Row:
    """The row with the intervals that speak of accuracy in general, where it has them."""
    found = row
    if row.estimate is not None and row.estimate.items is not None:
        found = replace(found, estimate=_wider(row.estimate))
    if row.difference is not None and row.difference.items is not None:
        found = replace(found, difference=_wider(row.difference))
    return found


def _wider(estimate: Estimate) -> Estimate:
    assert estimate.items is not None
    return replace(estimate, low=estimate.items.low, high=estimate.items.high)


def contrast_numbers(estimate: Estimate | None, metric: str) -> str:
    """A difference or ratio with its interval, and no words: ``+1.2 [0.3, 2.1]``, ``× 3.2 [2.8, 3.6]``."""
    if estimate is None:
        return "–"
    ratio = estimate.scale == "log"
    center = f"× {_factor(estimate.center)}" if ratio else quantity(estimate.center, metric, signed=True)
    return f"{center}{_ends(estimate, metric)}"


def p_text(row: Row) -> str:
    """The sign-flip p; of a difference by rank that of the sign test, which the row's note says."""
    if row.p_sign_flip is not None:
        return number_text(row.p_sign_flip)
    return "–" if row.p_sign is None else number_text(row.p_sign)


def number_text(p: float) -> str:
    """A p-value with two digits."""
    return f"{p:.2g}" if p >= 0.0001 else f"{p:.0e}".replace("e-0", "e-")


def effect_text(effect: Estimate | None) -> str:
    """Cohen's d_z with its interval."""
    if effect is None or effect.low is None or effect.high is None:
        return "–"
    return f"{effect.center:.2g} [{effect.low:.2g}, {effect.high:.2g}]"


def within_text(row: Row, metric: str) -> str:
    """The margin of "equal within", rule 4; two failures are no equality."""
    return "–" if row.both_failed else margin_text(row.difference, metric)


def margin_text(difference: Estimate | None, metric: str) -> str:
    """The smallest margin that a difference or ratio would have met: ``± 1.9``, ``× 1.25``."""
    within = difference.equal_within if difference else None
    if difference is None or within is None:
        return "–"
    if math.isinf(within):
        return "∞"
    return f"× {digits(within)}" if difference.scale == "log" else f"± {quantity(within, metric)}"


def learned_text(row: Row) -> str:
    """How many learned: ``9/10``."""
    return f"{row.n_learned}/{row.n}"


def share_text(share: Estimate | None) -> str:
    """The exact interval of a share: ``[55, 100] %``."""
    if share is None or share.low is None or share.high is None:
        return "–"
    return f"[{100 * share.low:.0f}, {100 * share.high:.0f}] %"


def notes_of(row: Row, metric: str) -> str:
    """What a reader must know of a row: its own note, what the learned ones reached, why there is no interval."""
    parts = [row.note]
    if row.of_learned is not None and row.n_learned < row.n:
        parts.append(f"{row.of_learned.kind}: {quantity(row.of_learned.center, metric)}")
    if row.estimate is not None and row.estimate.note:
        parts.append(row.estimate.note)
    if row.difference is not None and row.difference.kind.startswith("median"):
        shares = "" if row.p_mcnemar is None else f", McNemar's p of the shares {number_text(row.p_mcnemar)}"
        parts.append(f"difference: median by rank, failed runs worst, p of the sign test{shares}")
    if row.difference is not None and row.difference.note:
        parts.append(row.difference.note)
    return "; ".join(part for part in parts if part)


def metric_name(comparison: Comparison) -> str:
    """The metric in words: ``test accuracy``."""
    plain = comparison.metric.replace("unexplained", "unexplained_variance").replace("_", " ")
    return plain if comparison.metric == comparison.metric_text else comparison.metric_text


def metric_title(comparison: Comparison) -> str:
    """The metric with its unit: ``test accuracy, %``."""
    name = metric_name(comparison)
    if is_percent(comparison.metric):
        return f"{name}, %"
    return f"{name} (geometric mean)" if comparison.scale == "log" else name


def group_title(comparison: Comparison) -> str:
    """The study and what its group has in common."""
    shared = ", ".join(f"{key} {value}" for key, value in comparison.group.items())
    return f"{comparison.name}: {shared}" if shared else comparison.name


def _factor(value: float) -> str:
    return "∞" if math.isinf(value) else digits(value)


def _end(value: float, metric: str) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return quantity(value, metric, signed=True)
