"""The pages that the browser looks at: two written by hand, one with planted markup, one from a trained study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from studies import study

from bnexp.comparison import compare_runs
from bnexp.experiment import Request, run_experiment
from bnexp.loading import load_spec
from bnexp.page import render_page
from bnexp.results import Results, load_results

EVIL = "</script><img src=x onerror=alert(1)>"
EVIL_NAME = "<img src=x onerror=alert(2)>"  # a file's name has no slash
TABLES = ("curves", "activations", "units", "parameters")
SMALL = """
name: small
question: Does it help?
data: digits
model: {norm: [none, standardize, full]}
train: {lr: [0.3, 0.00001], epochs: 3}
seeds: 12
claims:
  - {claim: Full is better., source: a paper, a: {norm: full}, b: {norm: none}, metric: test_accuracy, tune: lr,
     expect: greater}
"""
PLANTED = f"""
name: planted
question: {json.dumps(EVIL)}
data: {{name: csv, path: {json.dumps(EVIL_NAME + ".csv")}, target: {json.dumps(EVIL)}}}
model: {{norm: [none, full]}}
train: {{lr: 0.3, epochs: 3}}
seeds: 6
claims:
  - {{claim: {json.dumps(EVIL)}, source: {json.dumps(EVIL)}, a: {{norm: full}}, b: {{norm: none}},
     metric: test_accuracy, expect: greater}}
"""
TRAINED = """
name: trained
question: Is a page of thirty runs and fifty epochs light?
data: {name: digits, subset: 300}
model: {hidden: [24, 24], norm: [none, standardize, full]}
train: {epochs: 50, lr: 0.3}
seeds: 10
"""


class Silent:
    def begin(self, outline):
        pass

    def epoch(self, stack, message):
        pass

    def warn(self, problem):
        pass

    def end(self):
        pass


def write_pages(folder: Path) -> dict[str, Path]:
    """Page name → file."""
    made = {"small": _small(folder), "planted": _planted(folder), "trained": _trained(folder)}
    return {name: write_page(folder / f"{name}.html", results) for name, results in made.items()}


def write_page(path: Path, results: Results) -> Path:
    path.write_text(render_page([results], [compare_runs(results)]), encoding="utf-8")
    return path


def _ending(setting, seed):
    if setting.train.lr < 0.1 and seed in (0, 1):
        return "diverged"
    return "idle" if setting.model.norm == "none" and seed == 2 else "done"


def _small(folder: Path) -> Results:
    return study(folder / "small", SMALL, _ending, TABLES)


def _planted(folder: Path) -> Results:
    results = study(folder / EVIL_NAME, PLANTED, tables=TABLES)
    shutil.copy(results.folder / "curves.csv", results.folder / f"{EVIL_NAME}.csv")
    meta = json.loads((results.folder / "meta.json").read_text(encoding="utf-8"))
    meta |= {"git": {"revision": EVIL}, "versions": {EVIL: EVIL}, "sessions": [{"command": EVIL, "ended": EVIL}]}
    (results.folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return load_results([results.folder])[0]


def _trained(folder: Path) -> Results:
    spec = folder / "trained.yaml"
    spec.write_text(TRAINED, encoding="utf-8")
    summary = run_experiment(load_spec(spec), Request(out=folder / "trained", workers=1), Silent())
    assert not summary.failures
    return load_results([folder / "trained"])[0]
