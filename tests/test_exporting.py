"""What is exported, read back by the libraries it is for, is what was recorded."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import bnexp
from bnexp import exporting
from bnexp.errors import UsageError

REQUIRED = os.environ.get("BNEXP_EXTRAS") == "required"
SPEC = """
name: small
data: {name: digits, subset: 200}
model: {hidden: [6, 5], norm: [none, center, full], activation: [sigmoid, relu]}
train: {epochs: 3, lr: [0.1, 1e30]}
measure: {activations: {}, parameters: {}, shift: {steps: 2}}
seeds: 2
"""


def needs(library):
    if not REQUIRED and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def command(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "bnexp", *map(str, words)], capture_output=True, text=True, cwd=cwd, check=False
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    (folder / "small.yaml").write_text(SPEC)
    return bnexp.train(folder / "small.yaml", out=folder / "small", workers=1, progress=False)


def test_parquet(study, tmp_path):
    needs("pyarrow")
    done = command("export", study.folder, "--to", "parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.stem for path in (tmp_path / "small-parquet").iterdir()}
    assert names == {"runs", "items", *study.tables}
    for name in names:
        found = pd.read_parquet(tmp_path / "small-parquet" / f"{name}.parquet")
        pd.testing.assert_frame_equal(found, study.table(name), check_exact=True)


def test_tensorboard(study, tmp_path):
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = command("export", study.folder, "--to", "tensorboard", "-o", "events", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = {path.name: path for path in (tmp_path / "events").iterdir()}
    assert set(folders) == set(study.runs["run"])
    compared, every = 0, {}
    for run, folder in folders.items():
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        tags = set(events.Tags()["scalars"])
        found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
        every |= found
        found = dict(found)
        for table in study.tables:
            frame = study.table(table)
            place = "step" if "step" in frame.columns else "epoch"
            labels = [name for name in study.labels(table) if name in frame.columns and name != place]
            own = frame[frame["run"] == run]
            for values, rows in own.groupby(labels) if labels else [((), own)]:
                for column in frame.columns.drop(["run", "epoch", place, *labels], errors="ignore"):
                    tag = "/".join([table, *(f"{k}={v}" for k, v in zip(labels, values, strict=True)), column])
                    there = rows[[place, column]].dropna()
                    if there.empty:
                        assert tag not in tags
                        continue
                    with np.errstate(over="ignore"):  # some diverge
                        values32 = there[column].to_numpy(np.float64).astype(np.float32)
                    assert found.pop(tag) == list(zip(there[place], values32.tolist(), strict=True))
                    compared += len(there)
        assert found == {}
    assert compared > 1000
    assert any(tag.startswith("shift_steps/layer=1") and len(points) > 5 for tag, points in every.items())


def test_safetensors(study, tmp_path):
    needs("safetensors")
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    done = command("export", study.folder, "--to", "safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    finished = study.runs[study.runs["status"] == "done"].set_index("run")
    assert 0 < len(finished) < len(study.runs)  # some diverged
    files = {path.name.removesuffix(".safetensors"): path for path in (tmp_path / "small-safetensors").iterdir()}
    assert set(files) == set(finished.index)
    for run, path in files.items():
        module = study.module(run)
        state = module.state_dict()
        assert state.keys() == load_file(path).keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in load_file(path).items())
        with safe_open(path, "pt") as stream:
            about = stream.metadata()
        assert (about["run"], about["experiment"]) == (run, "small")
        assert about["norm"] == finished.loc[run, "norm"]
        assert math.isclose(float(about["lr"]), finished.loc[run, "lr"])


@pytest.mark.parametrize("kind", exporting.KINDS)
def test_a_missing_extra_is_one_line(study, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"pip install 'bnexp\[{kind}\]'") as caught:
        exporting.export(study, kind, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported(study, tmp_path):
    found = command("export", study.folder, "--to", "csv", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (
        2,
        "error: --to csv: one of parquet, tensorboard, safetensors is expected\n",
    )
    needs("pyarrow")
    (tmp_path / "there").mkdir()
    found = command("export", study.folder, "--to", "parquet", "-o", "there", cwd=tmp_path)
    assert found.returncode == 2
    assert "there: is there already" in found.stderr
    assert list((tmp_path / "there").iterdir()) == []


def test_a_disk_that_refuses_leaves_nothing(study, tmp_path, monkeypatch):
    needs("pyarrow")

    def refuse(frame, path, **_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", refuse)
    with pytest.raises(bnexp.errors.StorageError, match="No space left"):
        exporting.export(study, "parquet", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "run", ["../../etc/passwd", "...", "a b/c\\d:e\x00f", "x" * 500, "", "norm=full,lr=0.1,seed=3"]
)
def test_no_id_leaves_the_folder(run, tmp_path):
    name = exporting._file_name(run)
    assert (tmp_path / name).parent == tmp_path
    (tmp_path / f"{name}.safetensors").write_text("")
    assert (name == run) == (run == "norm=full,lr=0.1,seed=3")


def test_other_ids_have_other_names():
    """The seed stands at the end of an id, and letters that a file system may not take are put aside."""
    ids = [f"{'field=value,' * 30}seed={seed}" for seed in range(50)] + [f"a{odd}b" for odd in "/\\:*?_ \x00"]
    assert len({exporting._file_name(run) for run in ids}) == len(ids)


@pytest.mark.parametrize("place", [".", "", "missing/../.."])
def test_no_name_for_a_folder(study, tmp_path, place):
    needs("pyarrow")
    found = command("export", study.folder, "--to", "parquet", "-o", place, cwd=tmp_path)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
