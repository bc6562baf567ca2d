"""Every shipped config, at its toy size, from the line in its own head."""

from __future__ import annotations

import re
import shlex

import pytest
from test_experiment import Silent
from tools import MNIST, ROOT

from bnexp.comparison import compare_runs, list_claims
from bnexp.experiment import Request, run_experiment
from bnexp.loading import load_spec
from bnexp.results import load_results

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_toy_size_trains_and_is_compared(path, tmp_path, monkeypatch):
    if "mnist" in path.read_text(encoding="utf-8") and not MNIST.is_dir():
        pytest.skip("needs the original MNIST beside the checkout")
    monkeypatch.setenv("BNEXP_DATA", str(MNIST.parent))
    line = re.search(r"^# Toy size: bnexp (.*)$", path.read_text(encoding="utf-8"), re.M)[1]
    words = shlex.split(line)
    assert words[:2] == ["train", f"configs/{path.name}"]
    assert words[-2:] == ["--out", "results/toy"]
    spec = load_spec(path, words[2:-2])
    summary = run_experiment(spec, Request(out=tmp_path / "toy"), Silent())
    assert summary.failures == {}
    results = load_results([tmp_path / "toy"])[0]
    assert set(results.runs["status"]) <= {"done", "diverged"}
    assert compare_runs(results)
    for row in list_claims(results):
        assert row.n_unfinished == 0
        assert not any("no such" in note or "several rows" in note for note in row.notes), row.notes
