"""ls, show and rm: experiments and runs, picked and removed."""

from __future__ import annotations

import json
import shutil

import pytest
from tools import Silent, make_spec

from bnexp.cli import app
from bnexp.experiment import Request, run_experiment
from bnexp.results import load_results

SPEC = """
name: small
question: What is there?
data: {name: xor, samples: 40}
model: {hidden: [3, 3], norm: [none, full]}
train: {epochs: 1, batch_size: 10, lr: [0.1, 1e30]}
seeds: 6
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "small"
    run_experiment(make_spec(SPEC), Request(out=folder, workers=1), Silent())
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(whole, tmp_path / "results/small")
    return tmp_path / "results/small"


@pytest.fixture
def ask(capsys):
    def ask(*words, code=0):
        with pytest.raises(SystemExit) as end:
            app([str(word) for word in words])
        said = capsys.readouterr()
        assert end.value.code == code, said.err
        assert "Traceback" not in said.err
        return said.out if code == 0 else said.err

    return ask


def csvs(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.csv")}


def test_experiments_are_listed(folder, ask):
    (folder.parent / "torn").mkdir()
    (folder.parent / "torn/spec.yaml").write_text("data: [")
    (folder.parent / "torn/meta.json").write_text("{}")
    out = ask("ls")
    assert "results/small" in out
    assert "What is there?" in out
    assert "cannot be read" in out
    small, torn = json.loads(ask("ls", "--json"))["experiments"]
    assert (small["runs"], small["done"] + small["diverged"], small["pending"]) == (24, 24, 0)
    assert small["diverged"] > 0
    assert torn["problem"].startswith("results/torn/meta.json")


def test_runs_are_picked(folder, ask):
    def picked(*words):
        return json.loads(ask("ls", folder, "--json", *words))["runs"]

    frame = load_results([folder])[0].runs
    assert [run["run"] for run in picked()] == list(frame["run"])
    assert {run["norm"] for run in picked("--where", "norm=full")} == {"full"}
    assert len(picked("--where", "norm=full|none,lr=0.1,seed=3|4")) == 4
    assert len(picked("--status", "diverged")) == (frame["status"] == "diverged").sum()
    assert len(picked("--status", "diverged,done")) == 24
    assert picked("--status", "failed") == []
    assert "24 of 24 runs" in ask("ls", folder)
    assert "did you mean 'done'" in ask("ls", folder, "--status", "doen", code=2)
    assert "no such field" in ask("ls", folder, "--where", "nrom=full", code=2)
    assert "name a results folder" in ask("ls", "--where", "norm=full", code=2)


def test_one_is_shown(folder, ask):
    out = ask("show", folder)
    for words in ("What is there?", "24: ", "norm", "none, full", "xor", "versions", "sha256"):
        assert words in out
    run = json.loads(ask("show", folder, "norm=full lr=0.1 seed=3", "--json"))["run"]
    frame = load_results([folder])[0].runs
    row = frame[frame["run"] == "norm=full,lr=0.1,seed=3"].iloc[0]
    assert (run["run"], run["train_loss"], run["init_id"]) == (row["run"], row["train_loss"], row["init_id"])
    assert row["init_id"] in ask("show", folder, "norm=full,lr=0.1,seed=3")
    assert "means 2 runs" in ask("show", folder, "norm=full seed=3", code=2)
    assert "means no run" in ask("show", folder, "norm=fool", code=2)
    assert json.loads(ask("show", folder, "--json"))["meta"]["schema"] == 2


def test_runs_are_removed_and_trained_again(folder, whole, ask):
    assert "say --yes" in ask("rm", folder, "--where", "seed=0", code=2)
    assert csvs(folder) == csvs(whole)
    ask("rm", folder, "--where", "seed=0", "--yes")
    (results,) = load_results([folder])
    left = set(results.runs[results.runs["status"] == "pending"]["seed"])
    assert 0 in left
    assert len(left) < 6
    assert "nothing to remove" in ask("rm", folder, "--where", "seed=0", "--yes", code=2)
    run_experiment(make_spec(SPEC), Request(out=folder, workers=1), Silent())
    assert csvs(folder) == csvs(whole)


def test_a_folder_is_removed_but_for_what_is_not_ours(folder, ask):
    (folder / "notes.txt").write_text("mine")
    assert "left there, as bnexp did not write it: notes.txt" in ask("rm", folder, "--yes")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert "not a results folder" in ask("rm", folder, "--yes", code=2)
    assert (folder / "notes.txt").exists()


def test_a_damaged_folder_can_be_removed(folder, ask):
    (folder / "meta.json").write_text("{")
    ask("rm", folder, "--yes")
    assert not folder.exists()


def test_a_folder_in_use_is_not_removed(folder, ask):
    from bnexp.store import locked

    with locked(folder):
        assert "another bnexp" in ask("rm", folder, "--yes", code=6)
    assert load_results([folder])
