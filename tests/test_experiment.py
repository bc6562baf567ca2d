"""From a spec to a results folder: the same bytes whatever the stacks, workers, interruptions and extensions."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from tools import (
    MNIST,
    ROOT,
    Silent,
    initial_running,
    initialize,
    make_dataset,
    make_spec,
    options_of,
    runs_of,
    stack_of,
)

import bnexp.executors
import bnexp.experiment
import bnexp.stacks
from bnexp.data import noisy_labels
from bnexp.devices import resolve_device
from bnexp.errors import DamagedResults, DeviceUnavailable, FolderInUse, ResultsError, UsageError
from bnexp.experiment import Request, run_experiment
from bnexp.inputs import load_datasets
from bnexp.loading import load_spec
from bnexp.network import forward, one_run
from bnexp.origin import computed_by
from bnexp.results import load_results
from bnexp.store import locked, write_meta
from bnexp.training import train

SPEC = """
name: small
data: {name: digits, subset: 200}
model: {hidden: [12, 8], norm: [none, standardize, full], activation: relu}
train: {epochs: 3, lr: [0.1, 1]}
seeds: 5
probe: 30
"""
TABLES = ("runs", "curves", "activations", "units", "parameters", "items")


def run(folder, *overrides, text=SPEC, observer=None, **request):
    spec = make_spec(text, *overrides)
    return run_experiment(spec, Request(out=folder, **request), observer or Silent())


def csvs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "small"
    summary = run(folder)
    assert (summary.trained, summary.failures) == (30, {})
    return folder


def test_the_folder_has_the_layout_of_the_contract(finished):
    assert set(csvs(finished)) == {f"{name}.csv" for name in TABLES}
    meta = json.loads((finished / "meta.json").read_text())
    assert meta["schema"] == 2
    assert (meta["exact_stack"], meta["stack_difference"]) == (True, 0.0)
    shards = sorted(path.name for path in (finished / "shards").iterdir())
    (computer,) = meta["computed_by"]
    assert computer.pop("shards") == shards
    assert computer == computed_by("cpu")
    assert meta["committed"] == dict.fromkeys(shards, 3)
    for shard in shards:
        commit = json.loads((finished / "shards" / shard / "commit.json").read_text())
        assert len(commit["runs"]) <= 8
        assert commit["done"]
        assert set(commit["files"]) | {"commit.json"} == {p.name for p in (finished / "shards" / shard).iterdir()}
        for name, said in commit["files"].items():
            content = (finished / "shards" / shard / name).read_bytes()
            assert said == {"length": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    runs = pd.read_csv(finished / "runs.csv")
    expected = (
        "run seed data hidden activation norm placement optimizer lr batch_size epochs status diverged_epoch learned"
    )
    assert list(runs.columns)[:14] == expected.split()
    assert list(runs["run"])[:3] == [f"norm=none,lr={lr},seed={s}" for lr, s in (("0.1", 0), ("1", 0), ("0.1", 1))]
    for name in TABLES[:-1]:
        raw = (finished / f"{name}.csv").read_bytes()
        assert b"\r" not in raw
        assert raw.endswith(b"\n")


def test_the_last_row_of_the_curves_is_the_run_s_outcome(finished):
    runs = pd.read_csv(finished / "runs.csv").set_index("run")
    curves = pd.read_csv(finished / "curves.csv")
    last = curves[curves["epoch"] == 3].set_index("run")
    for metric in ("train_loss", "fit_accuracy", "val_loss", "test_accuracy"):
        assert (last[metric] == runs[metric]).all()
    assert curves.groupby("run").size().eq(4).all()
    first = curves[curves["epoch"] == 0]
    assert first["train_loss"].isna().all()
    assert first["fit_loss"].notna().all()
    assert curves[curves["epoch"] == 1]["fit_loss"].isna().all()


def test_items_are_the_share_of_seeds_that_were_right(finished):
    items, runs = pd.read_csv(finished / "items.csv"), pd.read_csv(finished / "runs.csv")
    assert (items["n"] == 5).all()
    by_item = items.groupby("setting")["share"].mean()
    by_run = runs.groupby(["norm", "lr"])["test_accuracy"].mean()
    for (norm, lr), accuracy in by_run.items():
        assert by_item[f"norm={norm},lr={lr:g}"] == pytest.approx(accuracy, abs=1e-8)


def test_weights_are_kept_with_the_shard(finished):
    for path in finished.glob("shards/*/checkpoint.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert arrays["weight1"].shape[1:] == (12, 64)
            assert arrays["test_correct"].shape[1] == 360


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("largest", [8, 100])
def test_stacks_and_workers_change_no_byte(finished, tmp_path, monkeypatch, workers, largest):
    monkeypatch.setattr(bnexp.stacks, "STACK_RUNS", largest)
    observer = Silent()
    run(tmp_path / "again", observer=observer, workers=workers)
    assert observer.outline.workers == workers
    assert csvs(tmp_path / "again") == csvs(finished)


def test_threads_in_the_environment_change_no_byte(tmp_path):
    """Products large enough for a BLAS to divide them among threads, were it let."""
    text = "name: wide\ndata: {name: digits, subset: 400}\nmodel: {hidden: [400, 300], norm: [none, full]}\n"
    text += "train: {epochs: 2, batch_size: 150, optimizer: [sgd, adam]}\nseeds: 2\n"
    (tmp_path / "wide.yaml").write_text(text)
    found = {}
    for threads in ("1", "2", "4"):
        for workers in ("1", "2"):
            out = tmp_path / f"{threads}-{workers}"
            names = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMBA_NUM", "VECLIB_MAXIMUM")
            environment = {**os.environ, **{f"{name}_THREADS": threads for name in names}}
            command = [sys.executable, "-m", "bnexp", "train", "-q", str(tmp_path / "wide.yaml")]
            command += ["--workers", workers, "--out", str(out)]
            subprocess.run(command, env=environment, check=True)
            kept = [path for path in sorted(out.rglob("*")) if path.suffix in (".csv", ".npz")]
            found[threads, workers] = {str(path.relative_to(out)): path.read_bytes() for path in kept}
            assert json.loads((out / "meta.json").read_text())["exact_stack"] is True
    assert all(one == found["1", "1"] for one in found.values())
    assert len(found["1", "1"]) > 8


def test_a_finished_study_trains_nothing(finished):
    before = (finished / "runs.csv").stat().st_mtime_ns
    assert run(finished).trained == 0
    assert (finished / "runs.csv").stat().st_mtime_ns == before


def test_what_is_missing_is_trained_again(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "small")
    shard = sorted((folder / "shards").iterdir())[0]
    n_runs = len(json.loads((shard / "commit.json").read_text())["runs"])
    (shard / "commit.json").unlink()
    (folder / "curves.csv").write_text("broken")
    assert run(folder).trained == n_runs
    assert csvs(folder) == csvs(finished)


@pytest.mark.parametrize(
    "overrides", [["seeds=7"], ["train.lr=0.1,0.3,1"], ["model.norm=none,standardize,full,affine"]]
)
def test_an_extended_study_is_the_bytes_of_a_fresh_one(finished, tmp_path, overrides):
    folder = shutil.copytree(finished, tmp_path / "small")
    with pytest.raises(ResultsError, match="--extend"):
        run(folder, *overrides)
    summary = run(folder, *overrides, extend=True)
    run(tmp_path / "fresh", *overrides)
    assert 0 < summary.trained < len(summary.outline.runs)
    assert csvs(folder) == csvs(tmp_path / "fresh")
    assert run(folder, *overrides).trained == 0


def test_another_study_is_refused_with_the_difference(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "small")
    with pytest.raises(ResultsError, match=r"train.epochs: 3 → 4"):
        run(folder, "train.epochs=4")
    with pytest.raises(ResultsError, match="another study"):
        run(folder, "seeds=3", extend=True)  # fewer runs are not an extension
    assert csvs(folder) == csvs(finished)
    summary = run(folder, "seeds=1", "train.epochs=1", overwrite=True)
    assert summary.trained == 6
    assert len(pd.read_csv(folder / "runs.csv")) == 6


def test_name_question_and_claims_may_change(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "small")
    claim = "{claim: c, each: [lr], a: {norm: none}, b: {norm: full}, metric: fit_loss, expect: less}"
    assert run(folder, text=SPEC + f"question: another\nclaims: [{claim}]").trained == 0
    meta = json.loads((folder / "meta.json").read_text())
    assert len(meta["claims_sha256"]) == 2
    assert load_spec(folder / "spec.yaml").question == "another"


def test_the_resolved_spec_trains_to_the_same_folder(finished, tmp_path):
    spec = load_spec(finished / "spec.yaml")
    run_experiment(spec, Request(out=tmp_path / "again"), Silent())
    assert csvs(tmp_path / "again") == csvs(finished)


def test_changed_data_are_noticed(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "small")
    meta = json.loads((folder / "meta.json").read_text())
    meta["data"][0]["sha256"] = "1" * 64
    write_meta(folder, meta)
    with pytest.raises(ResultsError, match="checksum differs"):
        run(folder)


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for request in ({}, {"overwrite": True}):
        with pytest.raises(ResultsError, match="not a bnexp results folder"):
            run(tmp_path, **request)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_newer_or_damaged_folder_is_refused(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "small")
    (folder / "meta.json").write_text('{"schema": 99}')
    with pytest.raises(DamagedResults, match="newer"):
        run(folder)
    (folder / "meta.json").write_text("{")
    with pytest.raises(DamagedResults, match=r"meta\.json"):
        run(folder)


def test_one_writer_at_a_time(tmp_path):
    with locked(tmp_path / "small"), pytest.raises(FolderInUse, match="another bnexp"):
        run(tmp_path / "small")


def test_a_file_where_a_folder_belongs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file: not a folder"):
        run(tmp_path / "file" / "small")


def test_a_failing_stack_leaves_the_others(tmp_path, monkeypatch):
    honest = bnexp.executors.train

    def fails_for_norms(stack, *args, **options):
        if stack.structure.center:
            raise RuntimeError("injected")
        return honest(stack, *args, **options)

    monkeypatch.setattr(bnexp.executors, "train", fails_for_norms)
    seen = []

    class Looks(Silent):
        def epoch(self, stack, message):
            runs = load_results([tmp_path / "small"])[0].runs
            seen.append(dict(runs.groupby("norm")["status"].agg(set)))

    summary = run(tmp_path / "small", observer=Looks(), workers=1)
    assert {"full": {"failed"}, "standardize": {"failed"}, "none": {"pending"}} in seen  # who looks meanwhile sees it
    assert summary.trained == 10
    assert len(summary.failures) == 3
    runs = pd.read_csv(tmp_path / "small" / "runs.csv", keep_default_na=False)
    assert set(runs[runs["norm"] != "none"]["status"]) == {"failed"}
    monkeypatch.undo()

    class LooksAgain(Silent):
        def begin(self, outline):
            assert "failed" not in set(load_results([tmp_path / "small"])[0].runs["status"])

    assert run(tmp_path / "small", observer=LooksAgain()).trained == 20


def test_an_interruption_keeps_finished_shards(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(bnexp.stacks, "STACK_RUNS", 8)

    class Impatient(Silent):
        finished = 0

        def epoch(self, stack, message):
            self.finished += message.outcomes is not None
            if self.finished == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "small", observer=Impatient(), workers=1)
    results = load_results([tmp_path / "small"])[0]
    assert (results.runs["status"] == "pending").sum() == 30 - 2 * 8
    run(tmp_path / "small")
    assert csvs(tmp_path / "small") == csvs(finished)


def test_devices():
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="one of auto"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="--device cpu"):
            resolve_device("cuda")


def test_label_noise_does_not_copy_the_data():
    spec = make_spec("data: {name: digits, label_noise: [0, 0.2, 1]}")
    datasets, faults = load_datasets(setting.data for setting in spec.settings)
    assert (len(datasets), faults) == (3, "")
    assert len({id(dataset) for dataset in datasets.values()}) == 1


def test_label_noise_is_trained_on_and_fit_measures_it():
    text = "data: {name: digits, label_noise: 1, validation: 0}\nseeds: 2\ntrain: {epochs: 1}\nmeasure: []"
    spec, dataset = make_spec(text), make_dataset(n_train=400)
    runs = runs_of(spec, dataset)
    epochs = list(train(stack_of(runs), dataset, "cpu", options_of(spec)))
    record = next(r for r in epochs[0].records if r.table == "curves")
    values = dict(zip(record.columns, record.values[0].tolist(), strict=True))
    parameters = one_run(initialize(runs[0].structure, runs), 0)
    x = torch.from_numpy(dataset.train.features).T[None]
    running = initial_running(runs[0].structure, 1)
    predicted = forward(parameters, x, runs[0].structure, running).logits.argmax(1)[0]
    noisy = torch.from_numpy(noisy_labels(dataset, 1.0, runs[0].seed))
    assert values["fit_accuracy"] == pytest.approx((predicted == noisy).float().mean().item())


def test_epochs_0_looks_at_the_initialisation(tmp_path):
    run(tmp_path / "init", "train.epochs=0")
    runs = pd.read_csv(tmp_path / "init" / "runs.csv")
    assert (runs["status"] == "done").all()
    assert set(pd.read_csv(tmp_path / "init" / "curves.csv")["epoch"]) == {0}
    assert runs["test_loss"].notna().all()


def test_a_mixed_study_has_both_kinds_of_columns(tmp_path):
    text = (
        "data: [xor, bump]\nmodel: {hidden: [6, 6], norm: [none, full]}\ntrain: {epochs: 2, batch_size: full}\nseeds: 2"
    )
    run(tmp_path / "mixed", text=text)
    runs = pd.read_csv(tmp_path / "mixed" / "runs.csv").set_index("data")
    assert runs.loc["xor", "test_accuracy"].notna().all()
    assert runs.loc["xor", "test_r2"].isna().all()
    assert runs.loc["bump", "test_r2"].notna().all()
    assert runs.loc["bump", "test_accuracy"].isna().all()


def test_evaluate_every_thins_the_curves(tmp_path):
    run(
        tmp_path / "thin", "evaluate_every=2", "train.epochs=5", "seeds=1", "measure.activations.every=0", "fit_every=3"
    )
    assert set(pd.read_csv(tmp_path / "thin" / "curves.csv")["epoch"]) == {0, 2, 4, 5}
    assert set(pd.read_csv(tmp_path / "thin" / "activations.csv")["epoch"]) == {0, 5}
    assert set(pd.read_csv(tmp_path / "thin" / "parameters.csv")["epoch"]) == set(range(6))


def test_diverged_runs_end_with_their_epoch(tmp_path):
    run(tmp_path / "wild", "model.norm=none,full", "train.lr=0.1,1e30", "seeds=2", "train.epochs=4")
    runs = pd.read_csv(tmp_path / "wild" / "runs.csv").set_index("run")
    wild = runs[(runs["lr"] == 1e30) & (runs["norm"] == "none")]
    assert (wild["status"] == "diverged").all()
    assert (wild["diverged_epoch"] == 1).all()
    assert wild["test_accuracy"].isna().all()
    assert (~wild["learned"]).all()
    assert (runs[runs["lr"] == 0.1]["status"] == "done").all()
    curves = pd.read_csv(tmp_path / "wild" / "curves.csv")
    for run_id in wild.index:
        assert list(curves[curves["run"] == run_id]["epoch"]) == [0, 1]


@pytest.mark.skipif(not MNIST.exists(), reason="the MNIST files are not beside this checkout")
def test_a_slice_of_mnist(tmp_path):
    text = f"""
data: {{name: mnist, path: {MNIST}, subset: 1200}}
model: {{hidden: [32, 32], norm: [none, full]}}
train: {{epochs: 2, batch_size: 60, lr: 0.3}}
seeds: 2
"""
    run(tmp_path / "mnist", text=text)
    runs = pd.read_csv(tmp_path / "mnist" / "runs.csv")
    assert (runs[runs["norm"] == "full"]["test_accuracy"] > 0.7).all()
    assert len(pd.read_csv(tmp_path / "mnist" / "items.csv")) == 2 * 10_000


def test_quickstart_is_what_it_says():
    spec = load_spec(ROOT / "configs" / "quickstart.yaml")
    assert spec.axes == ("norm", "lr")
    assert len(spec.settings) * len(spec.seeds) == 120
