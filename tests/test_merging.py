"""Parts of a study, trained apart and joined, are the bytes of the whole; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from tools import Silent, make_dataset, make_spec, runs_of

import bnexp.experiment
import bnexp.files
from bnexp import source
from bnexp.errors import DamagedResults, ResultsError, StorageError, UsageError
from bnexp.experiment import Request, run_experiment
from bnexp.loading import resolve
from bnexp.merging import merge
from bnexp.plan import make_plan, part_of
from bnexp.results import load_results

SPEC = """
name: small
data: {name: xor, samples: 80}
model: {hidden: [3, 3], norm: [none, standardize, full]}
train: {epochs: 2, batch_size: 10, lr: [0.1, 1], optimizer: [sgd, adam]}
measure: [activations]
seeds: 5
"""


def train(out, part=None, observer=None, *overrides, **options):
    spec = resolve(source.parse(SPEC, "small.yaml"), overrides, "small", out.parent)
    run_experiment(spec, Request(out, "cpu", 1, part=part, **options), observer or Silent())
    return out


def csvs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole") / "small")


@pytest.fixture
def parts(tmp_path):
    return [train(tmp_path / f"part{k}", (k, 3)) for k in (1, 2, 3)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000])
def test_parts_are_disjoint_and_all_of_it(n):
    spec = make_spec(SPEC)
    runs = runs_of(spec, make_dataset())
    parts = [part_of(runs, k, n) for k in range(1, n + 1)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == len(make_plan(runs))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_merged_parts_are_the_bytes_of_the_whole(whole, parts, tmp_path, order):
    merged = merge([parts[index] for index in order], tmp_path / "all", Silent())
    assert csvs(tmp_path / "all") == csvs(whole)
    assert merged.taken == merged.summary.outline.done == 60
    assert merged.unfinished == {}
    meta = json.loads((tmp_path / "all" / "meta.json").read_text())
    assert len([one for one in meta["sessions"] if one["runs_trained"]]) == 3
    assert load_results([tmp_path / "all"])[0].edited == ()
    done = run_experiment(make_spec(SPEC), Request(tmp_path / "all", "cpu", 1), Silent())
    assert done.trained == 0


def test_one_after_the_other_and_again(whole, parts, tmp_path):
    for index in (0, 1, 0, 2):
        merge([parts[index]], tmp_path / "all", Silent())
    assert csvs(tmp_path / "all") == csvs(whole)
    before = json.loads((tmp_path / "all" / "meta.json").read_text())["sessions"]
    assert merge(parts, tmp_path / "all", Silent()).taken == 0
    after = json.loads((tmp_path / "all" / "meta.json").read_text())["sessions"]
    assert [one for one in after if one["runs_trained"]] == [one for one in before if one["runs_trained"]]
    (tmp_path / "link").symlink_to(tmp_path / "all")
    with pytest.raises(UsageError, match="one of the folders to be merged"):
        merge([tmp_path / "all"], tmp_path / "link", Silent())


def test_a_missing_part_is_trained_afterwards(whole, parts, tmp_path):
    merge(parts[:2], tmp_path / "all", Silent())
    left = (load_results([parts[2]])[0].runs["status"] == "done").sum()
    assert (load_results([tmp_path / "all"])[0].runs["status"] == "pending").sum() == left > 0
    train(tmp_path / "all")
    assert csvs(tmp_path / "all") == csvs(whole)


def test_a_part_resumes_as_itself(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(bnexp.stacks, "STACK_RUNS", 8)

    class Impatient(Silent):
        def epoch(self, stack, message):
            if message.outcomes is not None:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "again", (1, 3), Impatient())
    train(tmp_path / "again", (1, 3))
    assert csvs(tmp_path / "again") == csvs(parts[0])


def test_what_is_unfinished_stays_and_is_told(parts, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnexp.experiment, "COMMIT_EVERY", 0.0)

        class Stop(Silent):
            def epoch(self, stack, message):
                if message.arrays is not None:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "begun", None, Stop())
    merged = merge([parts[0], tmp_path / "begun"], tmp_path / "all", Silent())
    begun = sum(merged.unfinished.values())
    assert begun > 0 or merged.unfinished == {}
    statuses = load_results([tmp_path / "all"])[0].runs["status"].value_counts()
    assert statuses["done"] == merged.taken
    assert "running" not in statuses


def test_another_study_is_refused(parts, tmp_path):
    train(tmp_path / "other", None, None, "train.epochs=1")
    with pytest.raises(ResultsError, match=r"different studies:\n  train.epochs: 2 → 1"):
        merge([parts[0], tmp_path / "other"], tmp_path / "all", Silent())
    assert not (tmp_path / "all").exists()
    with pytest.raises(ResultsError, match="holds another study"):
        merge(parts, tmp_path / "other", Silent())
    with pytest.raises(UsageError, match="one of the folders"):
        merge(parts, parts[0], Silent())


def test_a_run_that_differs_is_refused(parts, tmp_path):
    """As another machine may round it."""
    (tmp_path / "twice").mkdir()
    shutil.copytree(parts[0], tmp_path / "twice" / "part1")
    other = tmp_path / "twice" / "part1"
    shard = next(iter(sorted((other / "shards").iterdir())))
    said = json.loads((shard / "commit.json").read_text())
    content = (shard / "curves.csv").read_bytes().replace(b"0.", b"0.1", 1)
    (shard / "curves.csv").write_bytes(content)
    with pytest.raises(DamagedResults, match=r"curves\.csv"):
        merge([parts[0], other], tmp_path / "all", Silent())
    said["files"]["curves.csv"] = bnexp.commits.Content.of(content)._asdict()
    said.pop("sha256", None)
    (shard / "commit.json").write_bytes(bnexp.commits.as_json(said))
    with pytest.raises(ResultsError, match="were trained in both and differ"):
        merge([parts[0], other], tmp_path / "all", Silent())
    merge([parts[0], parts[0]], tmp_path / "all", Silent())


def test_runs_in_other_shards_are_refused(parts, tmp_path):
    """An extended study was cut otherwise."""
    train(tmp_path / "grown", None, None, "seeds=2")
    train(tmp_path / "grown", None, None, extend=True)
    with pytest.raises(ResultsError, match="lie in other shards"):
        merge([parts[0], tmp_path / "grown"], tmp_path / "all", Silent())


def test_a_disk_that_refuses_and_the_same_command_again(whole, parts, tmp_path, monkeypatch):
    refused, honest = [], bnexp.files.replace

    def refuse(path, *rest, **options):
        if len(refused) < 5 and path.name == "commit.json":
            refused.append(path)
            raise StorageError(f"{path}: No space left on device")
        honest(path, *rest, **options)

    monkeypatch.setattr(bnexp.files, "replace", refuse)
    for _ in range(5):
        with pytest.raises(StorageError):
            merge(parts, tmp_path / "all", Silent())
    merge(parts, tmp_path / "all", Silent())
    assert csvs(tmp_path / "all") == csvs(whole)


def test_foreign_folders(parts, tmp_path):
    with pytest.raises(ResultsError, match="not a results folder"):
        merge([tmp_path], tmp_path / "all", Silent())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ResultsError, match="not empty"):
        merge(parts, tmp_path / "full", Silent())
    mailed = tmp_path / "mailed"
    shutil.copytree(parts[0], mailed)
    shutil.rmtree(mailed / "shards")
    with pytest.raises(ResultsError, match="has no shards"):
        merge([mailed], tmp_path / "all", Silent())


def test_the_commands(tmp_path):
    (tmp_path / "small.yaml").write_text(SPEC)

    def bnexp_(*words):
        return subprocess.run(
            [sys.executable, "-m", "bnexp", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    for k in (1, 2):
        assert bnexp_("train", "small.yaml", "--part", f"{k}/2", "-q").returncode == 0
    folders = [f"results/small-part-{k}-of-2" for k in (1, 2)]
    done = bnexp_("merge", *folders, "--into", "results/small")
    assert done.stdout == "results/small: 60 runs were taken; 60 of 60 are finished\n"
    assert done.stderr.endswith("next: bnexp report results/small\n")
    done = bnexp_("merge", folders[0], "--into", "half")
    assert done.stderr.endswith("next: bnexp train half/spec.yaml --out half\n")
    for text in ("0/3", "4/3", "3", "a/b", "1/2/3", "-1/2"):
        done = bnexp_("train", "small.yaml", f"--part={text}")
        assert (done.returncode, "K/N is expected" in done.stderr) == (2, True)
