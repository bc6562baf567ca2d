"""Results folders whose runs come from a function of setting and seed: for tests of what compares them."""

from __future__ import annotations

import csv
import itertools
import json

from bnexp.comparison import Comparison, compare_runs
from bnexp.layout import OUTCOMES, setting_columns
from bnexp.loading import load_spec
from bnexp.results import load_results


def study(tmp_path, body, outcome, name="s"):
    """A results folder without shards: ``outcome(fields, seed)`` gives a run's columns, None for a run not finished."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "spec.yaml").write_text(f"name: {name}\n{body}", encoding="utf-8")
    spec = load_spec(folder / "spec.yaml")
    axes, leaves, rows, runs = spec.axes, setting_columns(spec), [], []
    for setting, seed in itertools.product(spec.settings, spec.seeds):
        fields = {leaf: setting.shown(leaf) for leaf in leaves}
        run = ",".join([*(f"{axis}={setting.shown(axis)}" for axis in axes), f"seed={seed}"])
        runs.append({"id": run, "key": f"k{len(runs)}"})
        found = outcome(fields, seed)
        base = {"status": "pending"}
        if found is not None:
            base = {"status": "done", "learned": "true", "init_id": f"w{seed}", "order_id": f"o{seed}", **found}
        rows.append({"run": run, "seed": seed, **fields, **base})
    metrics = list(dict.fromkeys(key for row in rows for key in row if key not in ("run", "seed", *leaves, *OUTCOMES)))
    with (folder / "runs.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["run", "seed", *leaves, *OUTCOMES, *metrics], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (folder / "meta.json").write_text(json.dumps({"schema": 1, "runs": runs, "committed": []}))
    return load_results([folder])[0]


def only(results, **options):
    (comparison,) = compare_runs(results, **options)
    assert isinstance(comparison, Comparison)
    return comparison


def row_of(rows, **setting):
    (row,) = (row for row in rows if all(row.setting[leaf] == value for leaf, value in setting.items()))
    return row


TWO = "data: digits\nmodel: {norm: [none, full]}\nseeds: 10\n"
DIVERGED = {"status": "diverged", "learned": "false"}
A = [0.91, 0.93, 0.95, 0.92, 0.94, 0.96, 0.97, 0.9, 0.93, 0.95]
B = [0.89, 0.94, 0.9, 0.91, 0.9, 0.93, 0.96, 0.88, 0.91, 0.9]


def two(tmp_path, full=A, none=B, seeds=10, metric="test_accuracy", **same):
    values = {"full": full, "none": none}
    text = TWO.replace("10", str(seeds))
    return study(tmp_path, text, lambda f, s: {metric: values[f["norm"]][s], **same})
