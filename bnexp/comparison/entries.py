"""What a table has a row for, and each of these against the one equal to it but for the baseline's fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bnexp.comparison.items import Shares, with_items
from bnexp.comparison.metrics import Metric
from bnexp.comparison.rows import NO_EXTRA, Extra, Row, joined, make_row
from bnexp.comparison.selection import Runs, on_axes


@dataclass(frozen=True, eq=False)
class Entry:
    """A setting, or one group at its chosen values: its runs by seed, and of each test row the share that was right."""

    setting: dict[str, str]
    runs: Runs
    extra: Extra = NO_EXTRA
    shares: Shares | None = None


def target_of(setting: Mapping[str, str], baseline: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the setting that this one is compared with."""
    fields = {leaf: value for leaf, value in baseline.items() if leaf in setting}
    return tuple(on_axes({**setting, **fields}, tuple(setting)).values())


def rows_of(
    entries: Sequence[Entry], seeds: Sequence[int], metric: Metric, baseline: Mapping[str, str]
) -> tuple[Row, ...]:
    """One row per entry, compared with its baseline where there is one."""
    by_values = {tuple(entry.setting.values()): entry for entry in entries}
    return tuple(_row(entry, by_values, seeds, metric, baseline) for entry in entries)


def _row(
    entry: Entry,
    by_values: Mapping[tuple[str, ...], Entry],
    seeds: Sequence[int],
    metric: Metric,
    baseline: Mapping[str, str],
) -> Row:
    target = target_of(entry.setting, baseline)
    applies = any(leaf in entry.setting for leaf in baseline)
    is_baseline = applies and target == tuple(entry.setting.values())
    partner = by_values.get(target) if applies and not is_baseline else None
    extra = entry.extra
    if applies and target not in by_values:
        fields = ",".join(f"{leaf}={value}" for leaf, value in baseline.items() if leaf in entry.setting)
        extra = replace(extra, note=joined(extra.note, f"no setting equal to it but for {fields}"))
    row = make_row(entry.setting, entry.runs, seeds, metric, partner.runs if partner else None, is_baseline, extra)
    return with_items(row, entry.shares, partner.shares if partner else None)
