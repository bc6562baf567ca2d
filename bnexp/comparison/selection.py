"""Which settings are compared: ``where`` filters, ``by`` splits, ``none`` counts once, the baseline is found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bnexp.claim_grammar import leaf_of
from bnexp.comparison.metrics import metric_of
from bnexp.errors import UsageError, did_you_mean
from bnexp.plan import run_id, setting_id
from bnexp.results import Results, with_derived
from bnexp.spec import REGRESSIONS, Setting, leaves, show

NOWHERE = "–"  # the placement of norm none
DATASET_FIELDS = ("data", "path", "task", "target")  # what varies here is another question, never pooled


@dataclass(frozen=True)
class Outcome:
    """What came out of one finished run; ``learned`` is False for a diverged one. NaN: the metric does not exist."""

    seed: int
    learned: bool
    diverged: bool
    init_id: str
    order_id: str
    values: Mapping[str, float]
    run: str = ""  # its id


Runs = Mapping[int, Outcome]  # finished runs of one setting by seed


@dataclass(frozen=True)
class Member:
    """A setting of the spec with the text of each of its fields, and its finished runs."""

    fields: Mapping[str, str]
    setting: Setting
    runs: Runs
    id: str = ""

    def matches(self, leaf: str, values: Iterable[str]) -> bool:
        """Whether the field has one of the values; norm none has no placement and so is at every one."""
        return (leaf == "placement" and self.setting.model.norm == "none") or self.fields[leaf] in values


@dataclass(frozen=True)
class Cell:
    """A setting as tables count it: the text of the fields that vary, norm none only once."""

    setting: dict[str, str]
    runs: Runs
    ids: tuple[str, ...] = ()  # of the settings that it stands for, as items.csv names them


def members_of(results: Results) -> tuple[Member, ...]:
    """Every setting of the study with its finished runs."""
    frame = with_derived(results.runs)
    metrics = [str(name) for name in frame.columns if metric_of(str(name))]
    finished = frame[frame["status"].isin(["done", "diverged"])]
    outcomes = {row["run"]: _outcome(row, metrics) for row in finished.to_dict("records")}
    axes, fields, members = results.spec.axes, leaves(), []
    for setting in results.spec.settings:
        ids = (run_id(setting, axes, seed) for seed in results.spec.seeds)
        runs = {outcomes[name].seed: outcomes[name] for name in ids if name in outcomes}
        texts = {leaf: show(getattr(getattr(setting, section), name)) for leaf, (section, name) in fields.items()}
        members.append(Member(texts, setting, runs, setting_id(setting, axes)))
    return tuple(members)


def _outcome(row: Mapping[Any, Any], metrics: Sequence[str]) -> Outcome:
    diverged = row["status"] == "diverged"
    learned = not diverged and row["learned"] is True
    values = {name: float(row[name]) for name in metrics}
    return Outcome(int(row["seed"]), learned, diverged, row["init_id"], row["order_id"], values, str(row["run"]))


# --- fields and values that a user names ------------------------------------------------------------------------------


def check_field(leaf: str, option: str) -> None:
    """Raise UsageError unless it is the leaf name of a field of the setting."""
    known = tuple(leaves())
    if leaf not in known:
        raise UsageError(f"{option}: no such field {leaf!r}{did_you_mean(leaf, known)}; fields: {', '.join(known)}")


def find_value(leaf: str, wanted: str, members: Sequence[Member], option: str) -> str:
    """The value as the study shows it (``1e-1`` finds 0.1); raise UsageError if the study has none like it."""
    check_field(leaf, option)
    known = tuple(dict.fromkeys(member.fields[leaf] for member in members))
    found = wanted if wanted in known else next((text for text in known if _same_number(text, wanted)), None)
    if found is None:
        there = ", ".join(text or "(empty)" for text in known)
        raise UsageError(f"{option}: no {leaf}={wanted} here{did_you_mean(wanted, known)}; {leaf} is: {there}")
    return found


def _same_number(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def keep(members: Sequence[Member], where: Mapping[str, list[str] | str]) -> tuple[Member, ...]:
    """The settings whose fields have one of the values asked for."""
    kept = tuple(members)
    for name, given in where.items():
        leaf = leaf_of(name)
        wanted = [given] if isinstance(given, str) else list(given)
        values = [find_value(leaf, value, members, "where") for value in wanted]
        kept = tuple(member for member in kept if member.matches(leaf, values))
    if not kept:
        raise UsageError(f"where: no setting has {' and '.join(f'{k}={v}' for k, v in where.items())} together")
    return kept


def split(members: Sequence[Member], by: Sequence[str]) -> list[tuple[dict[str, str], tuple[Member, ...]]]:
    """One group per combination of values of the ``by`` fields and of what names the data set."""
    by = [leaf_of(name) for name in by]
    for leaf in by:
        check_field(leaf, "by")
    datasets = [leaf for leaf in DATASET_FIELDS if leaf not in by and _varies(members, leaf)]
    fields = (*dict.fromkeys(by), *datasets)
    values = [list(dict.fromkeys(member.fields[leaf] for member in _having(members, leaf))) for leaf in fields]
    groups = []
    for combination in itertools.product(*values):
        group = dict(zip(fields, combination, strict=True))
        inside = tuple(m for m in members if all(m.matches(leaf, (text,)) for leaf, text in group.items()))
        if inside:
            groups.append((group, inside))
    return groups


def _having(members: Sequence[Member], leaf: str) -> Sequence[Member]:
    """The members for which the field means something: those with a norm, for placement."""
    placed = [member for member in members if member.setting.model.norm != "none"]
    return placed if leaf == "placement" and placed else members


def _varies(members: Sequence[Member], leaf: str) -> bool:
    return len({member.fields[leaf] for member in _having(members, leaf)}) > 1


def axes_of(members: Sequence[Member], axes: Sequence[str]) -> tuple[str, ...]:
    """The fields that vary inside a group; placement only if it does among settings that have one."""
    placed = any(member.setting.model.norm != "none" for member in members)
    return tuple(leaf for leaf in axes if _varies(members, leaf) and (leaf != "placement" or placed))


def cells_of(members: Sequence[Member], axes: Sequence[str]) -> tuple[tuple[Cell, ...], bool]:
    """The members as tables count them, and whether runs of ``none`` that must be bit-equal are."""
    cells: dict[tuple[str, ...], Cell] = {}
    agree = True
    for member in members:
        setting = on_axes(member.fields, axes)
        key = tuple(setting.values())
        known = cells.get(key)
        if known is not None:
            agree = agree and all(_equal(run, known.runs[s]) for s, run in member.runs.items() if s in known.runs)
        runs = {**member.runs, **known.runs} if known else member.runs
        ids = (*(known.ids if known else ()), member.id)
        cells[key] = Cell(setting, dict(sorted(runs.items())), ids)
    return tuple(cells.values()), agree


def on_axes(fields: Mapping[str, str], axes: Sequence[str]) -> dict[str, str]:
    """The values of the axes; norm none has the placement "–"."""
    placed = fields.get("norm") != "none"
    return {leaf: fields[leaf] if placed or leaf != "placement" else NOWHERE for leaf in axes}


def _equal(a: Outcome, b: Outcome) -> bool:
    values = ((a.values[name], b.values[name]) for name in a.values)
    return a.diverged == b.diverged and all(x == y or (math.isnan(x) and math.isnan(y)) for x, y in values)


# --- the baseline -----------------------------------------------------------------------------------------------------


def parse_baseline(baseline: str | Mapping[str, str] | None, members: Sequence[Member]) -> dict[str, str] | None:
    """A partial setting: ``{norm: none}``, ``norm=none,lr=0.1`` or a bare norm; checked against the study's values."""
    if baseline is None:
        return None
    given = dict(baseline) if isinstance(baseline, Mapping) else _parse_partial(baseline)
    named = {leaf_of(name): value for name, value in given.items()}
    return {leaf: find_value(leaf, value, members, "baseline") for leaf, value in named.items()}


def _parse_partial(text: str) -> dict[str, str]:
    if "=" not in text:
        return {"norm": text.strip()}
    pairs = [part.partition("=") for part in text.split(",")]
    if any(not equals for _, equals, _ in pairs):
        raise UsageError(f"baseline: expected field=value,field=value, not {text!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


def default_baseline(members: Sequence[Member]) -> dict[str, str]:
    """Norm none if the group has it, else the first setting's norm."""
    norms = [member.fields["norm"] for member in members]
    return {"norm": "none" if "none" in norms else norms[0]}


def is_regression(members: Sequence[Member]) -> bool:
    """Whether the group's metrics are those of a regression: by what was recorded, else by the data set's name."""
    outcomes = [run.values for member in members for run in member.runs.values()]
    for kind, answer in (("accuracy", False), ("unexplained", True)):
        if any(kind in name and not math.isnan(value) for values in outcomes for name, value in values.items()):
            return answer
    data = members[0].setting.data
    return data.name in REGRESSIONS or data.task == "regression"
