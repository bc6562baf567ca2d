"""Runs to the few numbers that a figure draws: which runs share a panel, and means over seeds with their bands.

A comparison is cut into *blocks*, one per combination of the fields that vary beside the norm and the learning rate; a
*panel* is a block at one learning rate. Fields that each norm has its own value of (``affine`` starting as
``standardize``, one rate per norm) divide nothing: they belong to the norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas import DataFrame

from bnexp.comparison import Comparison
from bnexp.comparison.intervals import t_quantile
from bnexp.norms import NORMS
from bnexp.plan import run_id
from bnexp.results import Results
from bnexp.spec import leaves, show

KNOB = "lr"  # the field on the horizontal axis of the lr picture; every other varying field makes blocks
EVERYWHERE = "none"  # the norm without a placement: it stands in the blocks of both


@dataclass(frozen=True, eq=False)
class Cut:
    """The runs of a comparison by block, norm and learning rate.

    ``runs`` has one row per run and block: run, seed, status, learned, diverged_epoch, layers (hidden ones), placement,
    norm, block, rate (text, empty where lr does not vary). ``blocks`` maps each block's label to its fields.
    """

    runs: DataFrame
    blocks: Mapping[str, Mapping[str, str]]
    rates: tuple[str, ...]
    norms: tuple[str, ...]

    def block_of(self, setting: Mapping[str, str]) -> list[str]:
        """The labels of the blocks that a row of the comparison belongs to: several for the norm without placement."""
        return [
            label
            for label, fields in self.blocks.items()
            if all(_fits(setting, leaf, value) for leaf, value in fields.items())
        ]


def _fits(setting: Mapping[str, str], leaf: str, value: str) -> bool:
    return (leaf == "placement" and setting.get("norm") == EVERYWHERE) or setting.get(leaf, value) == value


def cut(results: Results, comparison: Comparison) -> Cut:
    """Cut a comparison's runs into blocks."""
    frame = _members(results, comparison.group)
    free = [axis for axis in comparison.axes if axis != "norm" and _divides(frame, axis)]
    fields = [axis for axis in free if axis != KNOB]
    frame["rate"] = frame[KNOB] if KNOB in free else ""
    frame = _everywhere(frame, fields)
    keys = frame[fields].drop_duplicates().to_dict("records") if fields else [{}]
    blocks = {block_label(key): {str(leaf): str(value) for leaf, value in key.items()} for key in keys}
    frame["block"] = [block_label(key) for key in frame[fields].to_dict("records")] if fields else ""
    rates = tuple(sorted(set(frame["rate"]), key=float)) if KNOB in free else ()
    norms = tuple(norm for norm in NORMS if norm in set(frame["norm"]))
    return Cut(_with_outcomes(frame, results), blocks, rates, norms)


def block_label(fields: Mapping[str, str] | Mapping[object, object]) -> str:
    """``activation tanh, placement pre``; empty where nothing but the norm and lr varies."""
    return ", ".join(f"{leaf} {value}" for leaf, value in fields.items())


def _members(results: Results, group: Mapping[str, str]) -> DataFrame:
    """Every planned run of a group with the text of its fields."""
    axes, fields, rows = results.spec.axes, leaves(), []
    for setting in results.spec.settings:
        texts = {leaf: show(getattr(getattr(setting, section), name)) for leaf, (section, name) in fields.items()}
        if all(_fits(texts, leaf, value) for leaf, value in group.items()):
            layers = len(setting.model.hidden)
            rows += [{**texts, "run": run_id(setting, axes, seed), "layers": layers} for seed in results.spec.seeds]
    return DataFrame(rows)


def _divides(frame: DataFrame, axis: str) -> bool:
    """Whether some norm has several values of the field; norm none has no placement."""
    placed = frame[frame["norm"] != EVERYWHERE] if axis == "placement" else frame
    return bool((placed.groupby("norm")[axis].nunique() > 1).any())


def _everywhere(frame: DataFrame, fields: Sequence[str]) -> DataFrame:
    """Norm none once per placement of the others, whichever of its equal runs were trained."""
    bare = frame["norm"] == EVERYWHERE
    if "placement" not in fields or not bare.any():
        return frame
    same = ["run", "placement"]
    once = frame[bare].drop_duplicates([name for name in frame.columns if name not in same and name != "key"])
    seeds = once["run"].str.rpartition(",seed=")[2]
    once = once.assign(seed=seeds)
    return _repeat(frame, bare, fields)


def _repeat(frame: DataFrame, bare: pd.Series[bool], fields: Sequence[str]) -> DataFrame:
    raise NotImplementedError
