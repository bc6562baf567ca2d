"""Small results folders written by hand, for tests of what reads them: no training, numbers from a formula."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bnexp.layout import OUTCOMES, setting_columns
from bnexp.loading import load_spec
from bnexp.results import Results, load_results, planned_runs
from bnexp.spec import NORMS, Setting

EPOCHS = (0, 1, 2, 3)
METRICS = ("train_loss", "val_accuracy", "test_accuracy")
STATISTICS = ("mean", "sd", "saturated")
Status = Callable[[Setting, int], str]


def done(setting: Setting, seed: int) -> str:
    return "done"


def study(folder: Path, text: str, status: Status = done, tables: Sequence[str] = ("curves", "activations")) -> Results:
    """A folder whose runs end as ``status`` says: done, idle (did not learn), diverged or pending."""
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(text, encoding="utf-8")
    spec = load_spec(folder / "spec.yaml")
    planned = planned_runs(spec)
    meta = {"schema": 1, "committed": [], "runs": [{"id": run, "key": f"k{i}"} for i, run in enumerate(planned)]}
    (folder / "meta.json").write_text(json.dumps({**meta, "device": "<b>cpu</b>", "threads": 1}), encoding="utf-8")
    ended = {run: how for run, place in planned.items() if (how := status(*place)) != "pending"}
    columns = setting_columns(spec)
    rows = [_run(run, *planned[run], how, columns) for run, how in ended.items()]
    _write(folder / "runs.csv", ["run", "seed", *columns, *OUTCOMES, *METRICS], rows)
    makers = {"curves": _curves, "activations": _activations, "units": _units, "parameters": _parameters}
    for table in tables:
        head, make = makers[table](spec.settings[0])
        rows = [row for run, how in ended.items() for row in make(run, *planned[run], how)]
        _write(folder / f"{table}.csv", ["run", "epoch", *head], rows)
    return load_results([folder])[0]


def accuracy(setting: Setting, seed: int) -> float:
    """Better at lr 0.3, and by norm; a little different for each seed."""
    order = ("none", "standardize", "gamma", "beta", "full", "affine", "center", "scale").index(setting.model.norm)
    return 0.9 + 0.005 * order - 0.02 * abs(math.log10(setting.train.lr / 0.3)) + 0.004 * math.sin(7.0 * seed + order)


def _run(run: str, setting: Setting, seed: int, how: str, columns: Sequence[str]) -> list[Any]:
    status = "diverged" if how == "diverged" else "done"
    right = accuracy(setting, seed) if how == "done" else 0.1 + 0.001 * seed
    metrics = ["", "", ""] if how == "diverged" else [1 - right, right, right]
    outcome = [status, 1 if how == "diverged" else "", str(how == "done").lower(), 10, f"w{seed}", f"o{seed}"]
    return [run, seed, *(setting.shown(leaf) for leaf in columns), *outcome, *metrics]


def _last(how: str) -> Iterable[int]:
    return EPOCHS[:2] if how == "diverged" else EPOCHS


def _curves(first: Setting) -> tuple[list[str], Callable[..., list[list[Any]]]]:
    def rows(run: str, setting: Setting, seed: int, how: str) -> list[list[Any]]:
        right = accuracy(setting, seed)
        return [[run, e, "" if e == 0 else 1 / (1 + e + right), "", right * e / 3] for e in _last(how)]

    return list(METRICS), rows


def _taps(setting: Setting) -> list[str]:
    switches = NORMS[setting.model.norm]
    normed = ["standardized"] * (switches.center or switches.scale) + ["affine"] * (switches.gamma or switches.beta)
    if setting.model.placement == "pre":
        return ["preactivation", *normed, "activation"]
    return ["preactivation", "activation", *normed]


def _activations(first: Setting) -> tuple[list[str], Callable[..., list[list[Any]]]]:
    def rows(run: str, setting: Setting, seed: int, how: str) -> list[list[Any]]:
        return [
            [run, e, layer, tap, 0.1 * e + place, 1.0, 0.1 * e if tap == "activation" else ""]
            for e in _last(how)
            for layer in range(1, len(setting.model.hidden) + 2)
            for place, tap in enumerate(_taps(setting) if layer <= len(setting.model.hidden) else ["preactivation"])
        ]

    return ["layer", "tap", *STATISTICS], rows


def _units(first: Setting) -> tuple[list[str], Callable[..., list[list[Any]]]]:
    def rows(run: str, setting: Setting, seed: int, how: str) -> list[list[Any]]:
        return [
            [run, e, layer, tap, unit, unit + place - 1, unit + place, unit + place + 1 + e]
            for e in _last(how)
            for layer in range(1, len(setting.model.hidden) + 1)
            for place, tap in enumerate(_taps(setting))
            for unit in (0, 3)
        ]

    return ["layer", "tap", "unit", "p15", "p50", "p85"], rows


def _parameters(first: Setting) -> tuple[list[str], Callable[..., list[list[Any]]]]:
    def rows(run: str, setting: Setting, seed: int, how: str) -> list[list[Any]]:
        gamma = 2.0 + seed if NORMS[setting.model.norm].gamma else ""
        return [[run, e, layer, 1.0 + e, gamma if layer < 3 else ""] for e in _last(how) for layer in (1, 2, 3)]

    return ["layer", "weight_norm", "gamma_norm"], rows


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
