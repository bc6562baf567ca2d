"""Runs to the few numbers that a figure draws: which runs share a panel, and means over seeds with their bands.

A comparison is cut into *blocks*, one per combination of the fields that vary beside the norm and the learning rate; a
*panel* is a block at one learning rate. Fields of which each norm has one value (``affine`` that starts as
``standardize``, one rate per norm) divide nothing: they belong to the norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas import DataFrame

from bnexp.comparison import Comparison
from bnexp.comparison.choice import rank
from bnexp.comparison.intervals import t_quantile
from bnexp.plan import run_id
from bnexp.results import Results, with_derived
from bnexp.spec import leaves, show

KNOB = "lr"  # the horizontal axis of the lr picture; every other field that varies makes blocks
BARE = "none"  # the norm without a placement: it stands in the blocks of each
LEGEND = ("none", "affine", "center", "scale", "standardize", "gamma", "beta", "full")  # by what is switched on


@dataclass(frozen=True, eq=False)
class Cut:
    """The runs of a comparison by block, norm and learning rate.

    ``runs`` has a row per run and block: run, seed, norm, placement, block, rate (text; empty where lr divides
    nothing), layers (hidden ones), status, learned, diverged_epoch. ``blocks`` maps a block's label to its fields.
    """

    runs: DataFrame
    blocks: Mapping[str, Mapping[str, str]]
    rates: tuple[str, ...]
    norms: tuple[str, ...]

    def blocks_of(self, setting: Mapping[str, str]) -> list[str]:
        """The labels of the blocks that a row of the comparison stands in."""
        return [
            label
            for label, block in self.blocks.items()
            if all(_fits(setting, leaf, value) for leaf, value in block.items())
        ]


def _fits(setting: Mapping[str, str], leaf: str, value: str) -> bool:
    return (leaf == "placement" and setting.get("norm") == BARE) or setting.get(leaf, value) == value


def cut(results: Results, comparison: Comparison) -> Cut:
    """Cut a comparison's runs into blocks."""
    frame = _members(results, comparison)
    free = [axis for axis in comparison.axes if axis != "norm" and _divides(frame, axis)]
    fields = [axis for axis in free if axis != KNOB]
    frame = _everywhere(frame) if "placement" in fields else frame
    places = {leaf: list(dict.fromkeys(frame[leaf])) for leaf in fields}
    frame = (
        frame.sort_values(fields, key=lambda column: column.map(places[str(column.name)].index), kind="stable")
        if fields
        else frame
    )
    records: list[dict[str, str]] = [{leaf: row[leaf] for leaf in fields} for row in frame.to_dict("records")]
    frame = frame.assign(rate=frame[KNOB] if KNOB in free else "", block=[block_label(record) for record in records])
    outcomes = results.runs[["run", "status", "learned", "diverged_epoch"]]
    rates = tuple(sorted(set(frame["rate"]), key=float)) if KNOB in free else ()
    norms = tuple(norm for norm in LEGEND if norm in set(frame["norm"]))
    blocks = {block_label(record): record for record in records}
    return Cut(frame.merge(outcomes, on="run"), blocks, rates, norms)


def block_label(fields: Mapping[str, str]) -> str:
    """``activation tanh, placement pre``; empty where nothing but norm and lr varies."""
    return ", ".join(f"{leaf} {value}" for leaf, value in fields.items())


def _members(results: Results, comparison: Comparison) -> DataFrame:
    """Every planned run of the comparison's group with the text of the fields that matter here."""
    axes, fields, rows = results.spec.axes, leaves(), []
    wanted = tuple(dict.fromkeys((*comparison.axes, "norm", "placement", KNOB)))
    for setting in results.spec.settings:
        texts = {leaf: show(getattr(getattr(setting, section), name)) for leaf, (section, name) in fields.items()}
        if all(_fits(texts, leaf, value) for leaf, value in comparison.group.items()):
            shared = {**{leaf: texts[leaf] for leaf in wanted}, "layers": len(setting.model.hidden)}
            rows += [{**shared, "run": run_id(setting, axes, seed), "seed": seed} for seed in results.spec.seeds]
    return DataFrame(rows)


def _divides(frame: DataFrame, axis: str) -> bool:
    """Whether some norm has several values of the field; ``none`` has no placement."""
    placed = frame[frame["norm"] != BARE] if axis == "placement" else frame
    return bool((placed.groupby("norm")[axis].nunique() > 1).any())


def _everywhere(frame: DataFrame) -> DataFrame:
    """Norm none at each placement where another norm stands, whichever of its equal runs were trained."""
    placed, bare = frame[frame["norm"] != BARE], frame[frame["norm"] == BARE]
    one = bare.drop_duplicates([name for name in frame.columns if name not in ("run", "placement")])
    return pd.concat([one.assign(placement=value) for value in placed["placement"].unique()] + [placed])


# --- bands ------------------------------------------------------------------------------------------------------------


def measured(results: Results, table: str, runs: DataFrame) -> DataFrame | None:
    """A table's rows joined with the given runs, of which only those that ended in the ordinary way; None if none."""
    found = results.table(table)
    if found is None:
        return None
    ended = runs[runs["status"] == "done"].drop(columns=["status", "learned", "diverged_epoch"])
    joined = with_derived(found).merge(ended, on="run")
    return joined if len(joined) else None


def bands(frame: DataFrame, by: Sequence[str], column: str, log: bool = False) -> DataFrame:
    """Mean and 95 % Student-t band of a column over seeds: ``by``, n, mean, low, high.

    On the log scale: geometric means. A point where a run's value is infinite (or, on the log scale, not positive) is
    left out; ``low`` and ``high`` are NaN for a single run.
    """
    values = frame[column].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.log(values) if log else values
    known = frame[list(by)].assign(value=scaled)[~np.isnan(values)]
    grouped = known.groupby(list(by), sort=False)["value"]
    with np.errstate(invalid="ignore"):
        found = grouped.agg(["count", "mean", "std"]).reset_index().rename(columns={"count": "n"})
    found = found[np.isfinite(found["mean"])]
    half = found["n"].map(_t_over_root) * found["std"]
    low, high = found["mean"] - half, found["mean"] + half
    back: Any = np.exp if log else (lambda x: x)
    named: DataFrame = found.drop(columns="std").assign(mean=back(found["mean"]), low=back(low), high=back(high))
    return named


def _t_over_root(n: int) -> float:
    return t_quantile(n - 1) / float(np.sqrt(n)) if n > 1 else float("nan")


def thinned(frame: DataFrame, most: int, time: str = "epoch") -> DataFrame:
    """At most this many epochs (or steps), evenly spaced among those recorded, first and last included."""
    known = np.unique(frame[time])
    if len(known) <= most:
        return frame
    keep = known[np.unique(np.linspace(0, len(known) - 1, most).round().astype(int))]
    return frame[frame[time].isin(keep)]


# --- which learning rate ----------------------------------------------------------------------------------------------


def telling_rate(runs: DataFrame) -> str:
    """The learning rate for figures that show one: where most runs learned, of several such the middle one."""
    learned = runs["learned"].fillna(False).astype(int).groupby(runs["rate"]).sum()
    best = sorted(learned.index[learned == learned.max()], key=lambda rate: float(rate or 0))
    return str(best[(len(best) - 1) // 2])


def chosen_rates(parts: Cut, comparison: Comparison) -> dict[tuple[str, str], str]:
    """(block, norm) -> the learning rate that most seeds were reported at; empty where nothing chose."""
    found = {}
    for row in comparison.best_rows if comparison.tune == KNOB else ():
        counts = row.chosen or {}
        for block in parts.blocks_of(row.setting) if counts else ():
            found[block, row.setting.get("norm", parts.norms[0])] = max(counts, key=lambda rate: counts[rate])
    return found


def rates_by_training(results: Results, runs: DataFrame) -> dict[tuple[str, str], str]:
    """(block, norm) -> the learning rate with the lowest mean log training loss; runs that did not learn cost most."""
    if "train_loss" not in results.runs:
        return {}
    frame = runs.merge(results.runs[["run", "train_loss"]], on="run")
    with np.errstate(divide="ignore"):
        cost = np.log(frame["train_loss"].to_numpy(dtype=float))
    failed = ~frame["learned"].fillna(False).to_numpy(dtype=bool)
    frame["cost"] = np.where(failed | np.isnan(cost), np.inf, cost)
    found: dict[tuple[str, str], tuple[tuple[float, float], str]] = {}
    for key, group in frame.groupby(["block", "norm", "rate"], sort=False):
        block, norm, rate = map(str, key)
        place = rank(group["cost"].tolist())
        if place is not None and ((block, norm) not in found or place < found[block, norm][0]):
            found[block, norm] = place, rate
    return {key: rate for key, (_, rate) in found.items()}
