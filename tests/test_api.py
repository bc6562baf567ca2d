"""The commands as functions: what they give is what the commands write."""

from __future__ import annotations

import csv
import io
import subprocess
import sys

import altair
import numpy as np
import pytest
import torch
from test_cli import bnexp as command
from tools import ROOT

import bnexp
from bnexp.data import load_dataset
from bnexp.errors import ResultsError, SpecError, TrainingFailed, UsageError
from bnexp.spec import NormName

NORMS = NormName.__args__
SPEC = {
    "name": "small",
    "data": {"name": "digits", "subset": 300},
    "model": {"hidden": [9, 7], "norm": ["none", "full"]},
    "train": {"epochs": 3, "lr": [0.1, 1]},
    "seeds": 3,
    "claims": [
        {
            "claim": "c",
            "a": {"norm": "full"},
            "b": {"norm": "none"},
            "tune": "lr",
            "metric": "fit_loss",
            "expect": "less",
        }
    ],
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return bnexp.train(SPEC, out=tmp_path_factory.mktemp("api") / "small", workers=1, progress=False)


def test_importing_bnexp_costs_nothing():
    code = "import sys; before = set(sys.modules); import bnexp; print(len(set(sys.modules) - before), bnexp.__all__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    count, names = out.split(" ", 1)
    assert int(count) < 10
    assert names.strip() == "['chart', 'compare', 'load', 'report', 'train']"
    assert set(bnexp.__all__) < set(dir(bnexp))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = bnexp.trian


def test_no_module_bears_the_name_of_a_function():
    assert not {path.stem for path in (ROOT / "bnexp").iterdir()} & set(bnexp.__all__)


def test_a_dict_a_file_and_the_command_train_the_same(study, tmp_path):
    import json

    (tmp_path / "small.yaml").write_text(json.dumps(SPEC))
    from_file = bnexp.train(tmp_path / "small.yaml", out=tmp_path / "file", workers=1, progress=False)
    done = command("train", tmp_path / "small.yaml", "--out", "command", "--workers", "1", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ours = {path.name: path.read_bytes() for path in study.folder.glob("*.csv")}
    for folder in (from_file.folder, tmp_path / "command"):
        assert {path.name: path.read_bytes() for path in folder.glob("*.csv")} == ours
    assert bnexp.train(SPEC, ["seeds=4"], study.folder.parent / "more", workers=1, progress=False).runs.shape[0] == 16


def test_what_is_wrong_is_raised(tmp_path, monkeypatch):
    with pytest.raises(SpecError, match="did you mean 'train'"):
        bnexp.train({"data": "digits", "trian": {}}, out=tmp_path / "x")
    with pytest.raises(UsageError, match="YAML cannot say"):
        bnexp.train({"data": object()}, out=tmp_path / "x")
    with pytest.raises(ResultsError):
        bnexp.load(tmp_path / "none")

    def fails(*arguments, **options):
        raise RuntimeError("injected")

    monkeypatch.setattr("bnexp.executors.train", fails)
    with pytest.raises(TrainingFailed, match="injected"):
        bnexp.train(SPEC, out=tmp_path / "x", workers=1, progress=False)


def test_progress_off_a_terminal_has_no_line_twice(tmp_path, capsys):
    bnexp.train(SPEC, out=tmp_path / "small", workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert len(set(lines)) == len(lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)


def test_tables_are_frames(study):
    assert len(study.runs) == 12
    curves = study.table("curves")
    assert set(curves["run"]) == set(study.runs["run"])
    assert study.table("nothing") is None


def test_compare_is_what_the_command_writes(study):
    written = command("compare", study.folder, "--format", "csv", cwd=study.folder).stdout
    rows = list(csv.DictReader(io.StringIO(written)))
    frame = bnexp.compare(study.folder)
    assert len(frame) == len(rows)
    assert list(frame.columns) == list(rows[0])
    centers = [float(row["center"]) for row in rows if row["center"]]
    assert np.allclose(frame["center"].dropna().astype(float), centers)
    only = bnexp.compare(study, "test_loss", {"norm": "none"}, {"norm": ["full", "none"], "lr": 0.1})
    assert sorted(only[only["table"] == "equal values"]["norm"]) == ["full", "none"]
    with pytest.raises(UsageError):
        bnexp.compare(study, where={"nrom": "full"})


def test_report_and_chart(study, tmp_path):
    assert bnexp.report(study, tmp_path / "page.html") == [tmp_path / "page.html"]
    assert bnexp.report([study.folder, study], tmp_path / "two.html")
    chart = bnexp.chart(study)
    assert isinstance(chart, altair.TopLevelMixin)
    assert chart.to_dict()["$schema"].startswith("https://vega.github.io")
    with pytest.raises(UsageError, match="no figure 'curvs'"):
        bnexp.chart(study, "curvs")


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "linear"])
def test_a_module_answers_as_recorded(tmp_path, placement, activation):
    """Test loss and accuracy of the module are those of runs.csv, for every norm."""
    spec = {**SPEC, "claims": [], "seeds": 2, "model": {**SPEC["model"], "norm": list(NORMS), "activation": activation}}
    spec["model"]["placement"] = placement
    study = bnexp.train(spec, ["train.lr=0.1"], tmp_path / "norms", workers=1, progress=False)
    test = load_dataset(study.spec.settings[0].data).test
    rows, labels = torch.from_numpy(test.features), torch.from_numpy(test.targets)
    for row in study.runs.to_dict("records"):
        module = study.module(row["run"])
        assert type(module) is torch.nn.Sequential
        assert not module.training
        with torch.no_grad():
            outputs = module(rows)
        assert torch.nn.functional.cross_entropy(outputs, labels).item() == pytest.approx(row["test_loss"], rel=1e-5)
        assert (outputs.argmax(1) == labels).float().mean().item() == pytest.approx(row["test_accuracy"], abs=1.5 / 360)


def test_a_module_of_a_standardizing_norm_can_be_trained_on(study):
    module = study.module("norm=full,lr=0.1,seed=0").train()
    norms = [layer for layer in module if isinstance(layer, torch.nn.BatchNorm1d)]
    assert len(norms) == 2
    before = norms[0].running_mean.clone()
    module(torch.rand(50, 64)).sum().backward()
    assert not torch.equal(norms[0].running_mean, before)


def test_no_module_without_weights(study, tmp_path):
    import shutil

    with pytest.raises(UsageError, match="no run"):
        study.module("norm=full")
    shutil.copytree(study.folder, tmp_path / "mailed")
    shutil.rmtree(tmp_path / "mailed/shards")
    with pytest.raises(ResultsError, match="no weights"):
        bnexp.load(tmp_path / "mailed").module("norm=full,lr=0.1,seed=0")


def test_one_override_may_be_a_text_and_where_is_a_dict(study, tmp_path):
    assert len(bnexp.train(SPEC, "seeds=1", tmp_path / "one", workers=1, progress=False).runs) == len(study.runs) / 3
    with pytest.raises(UsageError, match="a dict is expected"):
        bnexp.compare(study, where="lr=1")
    with pytest.raises(UsageError, match="a dict is expected"):
        bnexp.compare(study, baseline="none")


def test_results_show_themselves_briefly(study):
    assert repr(study) == f"<Results small: {len(study.runs)} runs in {study.folder}>"
