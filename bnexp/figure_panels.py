"""Which runs share a panel of curves, what stands above it, and which runs are in no line."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from pandas import DataFrame

from bnexp.aggregates import LEGEND, chosen_rates, rates_by_training
from bnexp.figure_parts import MOST_BLOCKS, MOST_LISTED, Source, broken, grid_of, panel_text
from bnexp.summary import spoken

MOST_PANELS = 6  # with a panel per learning rate; more become one panel per block, each norm at its best rate
MOST_COUNTED = 3  # norms whose diverged runs the head of a panel counts one by one


def curve_panels(source: Source) -> tuple[DataFrame, str]:
    """The runs whose curves are drawn with the head of their panel, and how their learning rates were chosen."""
    parts, comparison = source.parts, source.comparison
    runs = parts.runs[parts.runs["block"].isin(list(parts.blocks)[:MOST_BLOCKS])]
    if not parts.rates:
        return _headed(runs, ["block"]), "every norm as the spec says"
    if len(runs[["block", "rate"]].drop_duplicates()) <= MOST_PANELS:
        return _headed(runs, ["block", "rate"]), "one panel per learning rate"
    chosen, by = chosen_rates(parts, comparison), f"by {spoken(comparison.tuned_by)} for most seeds"
    if not chosen:
        chosen, by = rates_by_training(source.results, runs), "by its final training loss"
    of_run = zip(runs["block"], runs["norm"], runs["rate"], strict=True)
    runs = runs[[chosen.get((block, norm)) == rate for block, norm, rate in of_run]]
    return _headed(runs, ["block"]), f"each norm at its best learning rate, chosen {by}: {_rates_text(chosen)}"


def _rates_text(chosen: Mapping[tuple[str, str], str]) -> str:
    """The commonest rate, then what has another one."""
    rates = list(chosen.values())
    usual = max(dict.fromkeys(rates), key=rates.count)
    others = [
        f"{panel_text(block, '')} {norm} {rate}".strip() for (block, norm), rate in chosen.items() if rate != usual
    ]
    if not others:
        return f"lr {usual} for all"
    more = f"; and {len(others) - MOST_LISTED} more" if len(others) > MOST_LISTED else ""
    return f"lr {usual}, but for {'; '.join(others[:MOST_LISTED])}{more}"


def _headed(runs: DataFrame, fields: list[str]) -> DataFrame:
    """Add ``panel``, its head: block and learning rate, and on a second line the runs that are in no line."""
    ordered = runs.assign(_rate=[float(rate or 0) for rate in runs["rate"]])
    blocks = list(dict.fromkeys(runs["block"]))
    ordered = ordered.assign(_block=ordered["block"].map(blocks.index)).sort_values(["_block", "_rate"], kind="stable")
    groups = [group for _, group in ordered.groupby(fields, sort=False)]
    width, parts = grid_of(len(groups)).width, []
    for group in groups:
        first = group.iloc[0]
        text = panel_text(first["block"], first["rate"] if "rate" in fields else "")
        head = broken(text, width)
        absent = [text for status in ("diverged", "unfinished") if (text := _absent(group, status))]
        parts.append(group.assign(panel="\n".join(filter(None, [head, *(broken(one, width) for one in absent)]))))
    return pd.concat(parts).drop(columns=["_rate", "_block"])


def _absent(runs: DataFrame, status: str) -> str:
    """``diverged: beta 5 of 5, full 5 of 5``."""
    odd = runs["status"] == "diverged" if status == "diverged" else ~runs["status"].isin(["done", "diverged"])
    counts = [
        f"{norm} {int(odd[runs['norm'] == norm].sum())} of {int((runs['norm'] == norm).sum())}"
        for norm in LEGEND
        if odd[runs["norm"] == norm].any()
    ]
    if len(counts) > MOST_COUNTED:
        return f"{status}: {int(odd.sum())} of {len(runs)} runs, of {len(counts)} norms"
    return f"{status}: {', '.join(counts)}" if counts else ""


def missing_text(runs: DataFrame) -> str:
    """What a caption says of runs that are in no line; nothing where there are none."""
    if (runs["status"] == "done").all():
        return ""
    return "Runs that diverged or are not finished are in no line; the head of a panel counts them."
