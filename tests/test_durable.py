"""Nothing is lost: kills at any moment, faults at every write, power cuts, two processes, damaged files."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import filelock
import numpy as np
import pytest
from faulty_disk import HOWS, FailsAt, Killed, Remembers, lay_out
from sizes import by_size
from tools import Silent, make_dataset, make_spec, options_of, runs_of

import bnexp.commits
import bnexp.continuation
import bnexp.executors
import bnexp.experiment
import bnexp.shard_files
import bnexp.store
from bnexp import files
from bnexp.cli import app
from bnexp.errors import BnexpError, DamagedResults, FolderInUse, StorageError, UsageError
from bnexp.experiment import Request, run_experiment
from bnexp.plan import Shard, Stack
from bnexp.results import load_results
from bnexp.tables import encode, study_tables
from bnexp.training import train

FROZEN = Path(__file__).parent / "frozen"
TINY = """
name: tiny
data: {name: xor, samples: 40}
model: {hidden: [3, 3], norm: [none, full]}
train: {epochs: 2, batch_size: 10, optimizer: [sgd, adam]}
measure: [activations]
seeds: 1
"""


def run(folder, text=TINY, **request):
    return run_experiment(make_spec(text), Request(out=folder, workers=1, **request), Silent())


def csvs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


@pytest.fixture(autouse=True)
def _commit_after_every_epoch(monkeypatch):
    monkeypatch.setattr(bnexp.experiment, "COMMIT_EVERY", 0.0)
    monkeypatch.setattr(bnexp.experiment, "COMMIT_SHARE", 0)
    monkeypatch.setattr(bnexp.executors, "MESSAGE_EVERY", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    run(folder)
    return folder


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", list(HOWS))
def test_every_write_may_fail(whole, tmp_path, monkeypatch, how, counted):
    counting = FailsAt(0, None)
    monkeypatch.setattr(files, "system", counting)
    run(tmp_path / "counted")
    last = 1 - counting.left  # one more than there are calls
    for n in range(1, last + 1):
        folder = tmp_path / f"{how}{n}"
        disk = FailsAt(n, HOWS[how])
        monkeypatch.setattr(files, "system", disk)
        with pytest.raises(Killed if how == "kill" else StorageError) if n < last else nullcontext() as found:
            run(folder)
        monkeypatch.setattr(files, "system", files.System())
        if how != "kill" and n < last:
            assert str(tmp_path) in str(found.value)
            assert "\n" not in str(found.value)
        if (folder / "spec.yaml").exists() and (folder / "meta.json").exists():
            load_results([folder])  # can be read, whatever happened
        run(folder)
        assert csvs(folder) == csvs(whole)
        shutil.rmtree(folder)
    assert last > 100
    counted(f"each of {last - 1} calls of a run ends in {how}: all gone on from")


def test_a_file_size_limit(whole, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    limited = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900));"
    limited += "from bnexp.__main__ import main; main()"
    command = ["train", "-q", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]
    ended = subprocess.run([sys.executable, "-c", limited, *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 5
    assert ended.stderr.count("\n") == 1
    assert "File too large" in ended.stderr
    run(tmp_path / "out")
    assert csvs(tmp_path / "out") == csvs(whole)


# --- power ------------------------------------------------------------------------------------------------------------


def what_power_cuts_break(tmp_path, whole, lazy=False):
    """States that a power cut can leave of a run, how many there are, and the errors of going on from them."""
    folder = tmp_path / "run" / "tiny"
    folder.parent.mkdir()
    disk = Remembers(folder.parent, lazy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "system", disk)
        run(folder)
    broken = []
    for index, state in enumerate(disk.states.values()):
        here = tmp_path / f"state{index}"
        lay_out(state, here)
        try:
            if (here / "tiny" / "shards").exists() and (here / "tiny" / "meta.json").exists():
                load_results([here / "tiny"])
            run(here / "tiny")
            if csvs(here / "tiny") != csvs(whole):
                broken.append("other rows")
        except BnexpError as error:
            broken.append(str(error))
        shutil.rmtree(here, ignore_errors=True)
    return len(disk.states), broken


@pytest.mark.skipif(sys.platform != "linux", reason="the disk is watched through /proc")
def test_a_power_cut_at_any_moment(whole, tmp_path, counted):
    n_states, broken = what_power_cuts_break(tmp_path, whole)
    assert n_states > 200
    assert broken == []
    counted(f"power cuts: {n_states} states of the disk that one can leave, all gone on from")


@pytest.mark.skipif(sys.platform != "linux", reason="the disk is watched through /proc")
def test_without_fsync_a_power_cut_breaks_it(whole, tmp_path):
    assert what_power_cuts_break(tmp_path, whole, lazy=True)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the disk is watched through /proc")
def test_a_commit_before_its_data_breaks_it(whole, tmp_path, monkeypatch):
    honest, late = bnexp.shard_files.files.append, []

    class Hasty:
        def __getattr__(self, name):
            return getattr(files, name)

        def append(self, *arguments):
            late.append(arguments)

        def replace(self, path, parts, last=True):
            files.replace(path, parts, last)
            if path.name == "commit.json":
                while late:
                    honest(*late.pop(0))

    monkeypatch.setattr(bnexp.shard_files, "files", Hasty())
    assert what_power_cuts_break(tmp_path, whole)[1]


# --- kills ------------------------------------------------------------------------------------------------------------

KILLED = """
name: killed
data: {name: digits, validation: 0}
model: {hidden: [16, 16], norm: [none, full]}
train: {epochs: 60, batch_size: 32, optimizer: [sgd, adam], lr: 0.05}
measure: [activations, shift]
seeds: 4
"""
OFTEN = """
import bnexp.experiment, bnexp.executors
bnexp.experiment.COMMIT_EVERY, bnexp.experiment.COMMIT_SHARE, bnexp.executors.MESSAGE_EVERY = 0.0, 0, 0.02
from bnexp.__main__ import main
main()
"""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_kill_at_any_moment(tmp_path, workers, counted):
    kills = by_size(30, 200) // 2
    (tmp_path / "killed.yaml").write_text(KILLED)
    command = [sys.executable, "-c", OFTEN, "train", "-q", str(tmp_path / "killed.yaml"), "--workers", str(workers)]
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True)
    chance, seen = random.Random(workers), []
    while len(seen) < kills:
        folder = tmp_path / f"killed{len(seen)}"
        for _ in range(3):  # the same folder, again and again
            process = subprocess.Popen([*command, "--out", str(folder)], stderr=subprocess.DEVNULL)
            wait_for_commits(process, folder, chance.choice([0, 0, 1, 2, 5, 10, 20, 40]))
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait()
            seen.append(committed(folder))
        subprocess.run([*command, "--out", str(folder)], check=True)
        assert csvs(folder) == csvs(tmp_path / "whole")
        shutil.rmtree(folder)
    counted(f"kills with {workers} workers: {len(seen)}, at committed epochs {', '.join(map(str, sorted(set(seen))))}")
    assert len(set(seen)) > kills / 3
    assert () in seen
    assert any(0 < epoch < 60 for epochs in seen for epoch in epochs)


def wait_for_commits(process, folder, more):
    """Until the committed epochs have grown by so many, or the process has ended; for 0, a moment of its start."""
    begun = sum(committed(folder))
    if not more:
        time.sleep(0.3)
    while more and process.poll() is None and sum(committed(folder)) < begun + more:
        time.sleep(0.01)


def committed(folder):
    """The committed epoch of each shard."""
    commits = sorted((folder / "shards").glob("*/commit.json"))
    return tuple(bnexp.commits.read_commit(path).epoch for path in commits)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_ends_after_the_epoch(tmp_path, number, code, workers):
    (tmp_path / "killed.yaml").write_text(KILLED.replace("epochs: 60", "epochs: 3000"))
    command = [sys.executable, "-m", "bnexp", "train", "-q", str(tmp_path / "killed.yaml"), "--workers", str(workers)]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stderr=subprocess.PIPE, text=True)
    while not committed(tmp_path / "out"):
        time.sleep(0.1)
    before = committed(tmp_path / "out")
    process.send_signal(number)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == code
    assert errors.count("\n") == 1
    assert "goes on from there" in errors
    after = committed(tmp_path / "out")
    assert any(now > then for now, then in zip(after, before, strict=False)) or len(after) > len(before)
    (results,) = load_results([tmp_path / "out"])
    assert "running" in set(results.runs["status"])
    epochs = results.table("curves").groupby("run")["epoch"].max()
    assert set(epochs) <= set(after)


def interrupted(folder, spec, after):
    """Train until so many checkpoints have come."""

    class Stop(Silent):
        left = after

        def epoch(self, stack, message):
            self.left -= message.arrays is not None
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(spec, Request(out=folder, workers=1), Stop())


@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_extension_renames_runs_that_were_begun(tmp_path, after):
    """A new axis gives every run a new id; rows that were committed before it keep theirs until the end."""
    spec, larger = make_spec(TINY), make_spec(TINY, "train.lr=0.1,0.3", "seeds=2")
    run_experiment(larger, Request(out=tmp_path / "whole", workers=1), Silent())
    interrupted(tmp_path / "tiny", spec, after)
    run_experiment(larger, Request(out=tmp_path / "tiny", workers=1, extend=True), Silent())
    (whole,), (grown,) = load_results([tmp_path / "whole"]), load_results([tmp_path / "tiny"])
    for name in ("curves", "activations", "runs"):
        ours, theirs = (one.table(name).sort_values(["run"], kind="stable") for one in (grown, whole))
        assert ours.to_csv(index=False) == theirs.to_csv(index=False)


def test_runs_that_all_diverged_are_gone_on_with(tmp_path):
    text = "name: d\ndata: {name: digits, subset: 200}\nmodel: {hidden: [4, 4], activation: relu}\n"
    text += "train: {epochs: 8, lr: [1e20, 1e25]}\nevaluate_every: 20\nseeds: 1\n"
    spec = make_spec(text)
    run_experiment(spec, Request(out=tmp_path / "whole", workers=1), Silent())
    for after in (1, 2):
        folder = tmp_path / f"d{after}"
        interrupted(folder, spec, after)
        run_experiment(spec, Request(out=folder, workers=1), Silent())
        assert csvs(folder) == csvs(tmp_path / "whole")


@pytest.mark.parametrize("request_", [{"restart_unfinished": True}, {"overwrite": True}])
def test_a_kill_while_a_folder_is_cleared(whole, tmp_path, monkeypatch, request_):
    for n in range(1, 60):
        folder = tmp_path / f"tiny{n}"
        interrupted(folder, make_spec(TINY), 2)
        monkeypatch.setattr(files, "system", FailsAt(n, "kill"))
        with suppress(Killed):
            run(folder, **request_)
        monkeypatch.setattr(files, "system", files.System())
        run(folder)
        assert csvs(folder) == csvs(whole)
        shutil.rmtree(folder)


class Kills(Silent):
    """Kill a worker at each of its first messages, so many times."""

    def __init__(self, times):
        self.times = times

    def epoch(self, stack, message):
        if self.times and not (message.again or message.error) and message.epoch > 0:
            self.times -= 1
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGKILL)
                process.join()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_another_worker_goes_on_from_the_commit(whole, tmp_path):
    summary = run_experiment(make_spec(TINY), Request(out=tmp_path / "tiny", workers=2), Kills(3))
    assert (summary.failures, summary.lost, summary.trained) == ({}, False, 4)
    assert csvs(tmp_path / "tiny") == csvs(whole)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_stack_whose_workers_end_again_and_again_is_given_up(tmp_path):
    spec = make_spec(KILLED, "train.epochs=100000")
    summary = run_experiment(spec, Request(out=tmp_path / "out", workers=2), Kills(1000))
    assert summary.lost
    assert "worker process ended 4 times" in "".join(summary.failures.values())
    load_results([tmp_path / "out"])


# --- two processes ----------------------------------------------------------------------------------------------------


def test_of_two_processes_one_runs(tmp_path, counted):
    (tmp_path / "killed.yaml").write_text(KILLED.replace("epochs: 60", "epochs: 3000"))
    command = [sys.executable, "-m", "bnexp", "train", "-q", str(tmp_path / "killed.yaml"), "--workers", "2"]
    command += ["--out", str(tmp_path / "out")]
    for _ in range(by_size(3, 50)):
        pair = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        while all(process.poll() is None for process in pair):
            time.sleep(0.02)
        loser, winner = sorted(pair, key=lambda process: process.poll() is None)
        message = loser.communicate()[1]
        assert loser.returncode == 6, message
        assert f"process {winner.pid} on" in message
        winner.kill()  # its workers may live a moment longer
        winner.communicate()
        third = subprocess.run([*command, "seeds=4", "--dry-run"], capture_output=True, text=True, check=False)
        assert third.returncode == 0
        with bnexp.store.locked(tmp_path / "out"):  # free at once
            pass
    counted(f"races of two processes: {by_size(3, 50)}, one ran, one exited 6")


@pytest.mark.parametrize("before", [None, "of nobody"])
def test_the_holder_is_named_even_if_it_signs_late(tmp_path, before):
    """It took the lock a moment ago; what one that was killed has signed may still be there."""
    folder, holder = tmp_path / "out", tmp_path / "out" / ".holder"
    folder.mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = socket.gethostname()
    if before:
        holder.write_text(json.dumps({"pid": gone.pid, "host": host}))
    signs = threading.Timer(0.3, holder.write_text, [json.dumps({"pid": os.getppid(), "host": host})])
    with filelock.FileLock(folder / ".lock"):
        signs.start()
        with pytest.raises(FolderInUse, match=f"process {os.getppid()} on"), bnexp.store.locked(folder):
            pass
    signs.join()


def test_nobody_is_named_if_nobody_signs(tmp_path, monkeypatch):
    monkeypatch.setattr(bnexp.store, "SIGNED_WITHIN", 0.1)
    bnexp.store.files.make_folder(tmp_path / "out")
    with (
        filelock.FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(FolderInUse, match="another bnexp is writing"),
        bnexp.store.locked(tmp_path / "out"),
    ):
        pass


# --- damage -----------------------------------------------------------------------------------------------------------


def test_no_flipped_bit_is_taken_for_what_was_written(whole, tmp_path, counted):
    chance = random.Random(0)
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    paths = [*sorted((folder / "shards").glob("*/*.*")), folder / "meta.json"]
    for _ in range(by_size(200, 1000)):
        path = chance.choice(paths)
        content = path.read_bytes()
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(DamagedResults) as found:
            run(folder)
        assert str(path) in str(found.value)
        path.write_bytes(content)
    run(folder)
    assert csvs(folder) == csvs(whole)
    counted(f"bit flips for who trains: {by_size(200, 1000)}, all refused")


def test_a_reader_takes_no_flipped_bit_for_what_was_written(whole, tmp_path, counted):
    """Of the spec and the top CSVs, which people edit: an error or a warning."""
    chance = random.Random(0)
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    paths = [*sorted(folder.glob("*.csv")), folder / "spec.yaml", folder / "meta.json"]
    refused, honest = 0, load_results([folder])[0].runs
    for _ in range(by_size(200, 1000)):
        path = chance.choice(paths)
        content = path.read_bytes()
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        found = None
        with suppress(DamagedResults):
            (found,) = load_results([folder])
        if found is None:
            refused += 1
        elif found.parts[0].folder == folder:
            assert found.edited == (path.name,)
        else:  # run ids of another plan: the shards are read
            assert path.name == "runs.csv"
            assert found.runs.equals(honest)
        path.write_bytes(content)
    assert load_results([folder])[0].edited == ()
    counted(f"bit flips for a reader: {by_size(200, 1000)}, {refused} refused, the rest read with a warning")


def test_no_cut_off_end_is_taken_for_what_was_written(whole, tmp_path, counted):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    shard, cuts = sorted((folder / "shards").iterdir())[0], 0
    for path in sorted(shard.iterdir()):
        content = path.read_bytes()
        for length in range(max(0, len(content) - 40), len(content)):
            path.write_bytes(content[:length])
            with pytest.raises(DamagedResults) as found:
                run(folder)
            assert str(path) in str(found.value)
            cuts += 1
        path.write_bytes(content)
    counted(f"ends cut off: {cuts}, all refused")


def test_a_checkpoint_is_never_unpickled(whole, tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.abort, ())

    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    shard = sorted((folder / "shards").iterdir())[0]
    np.savez(shard / "checkpoint.npz", weight1=np.array([Trap()], dtype=object))
    runs = json.loads((shard / "commit.json").read_text())["runs"]
    (shard / "commit.json").write_text(json.dumps({"schema": 1, "runs": runs, "files": {}}))
    commit = bnexp.commits.read_commit(shard / "commit.json")
    with pytest.raises(DamagedResults, match=r"checkpoint\.npz"):
        bnexp.shard_files.load_arrays(shard, commit)


def test_a_csv_that_was_edited_is_read_with_a_warning(whole, tmp_path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    assert load_results([folder])[0].edited == ()
    curves = (folder / "curves.csv").read_text()
    (folder / "curves.csv").write_text(curves.replace("0.", "1.", 1))
    for command in (["compare", str(folder)], ["report", str(folder), "-o", str(tmp_path / "page.html")]):
        with pytest.raises(SystemExit) as end:
            app(command)
        assert end.value.code == 0
        assert "curves.csv is not as training wrote" in " ".join(capsys.readouterr().err.split())
    assert "curves.csv is not as training wrote" in (tmp_path / "page.html").read_text()


def test_a_spec_that_was_edited_is_refused(whole, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    (folder / "spec.yaml").write_text((folder / "spec.yaml").read_text().replace("batch_size: 10", "batch_size: 20"))
    with pytest.raises(DamagedResults, match=r"spec\.yaml: not the study that was trained"):
        load_results([folder])
    run(folder)
    load_results([folder])


def test_train_puts_top_csvs_right(whole, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    (folder / "curves.csv").write_text("run,epoch\n")
    (folder / "items.csv").unlink()
    assert load_results([folder])[0].edited == ("curves.csv", "items.csv")
    assert run(folder).trained == 0
    assert csvs(folder) == csvs(whole)


@pytest.mark.parametrize("schema", [1, 2])
def test_folders_of_every_schema_are_read_and_gone_on_with(whole, tmp_path, schema):
    folder = tmp_path / "tiny"
    shutil.copytree(FROZEN / f"schema{schema}", folder)
    (results,) = load_results([folder])
    assert results.meta["schema"] == schema
    assert set(results.runs["status"]) == {"done"}
    before = csvs(folder)
    assert set(before) == set(csvs(whole))
    assert run(folder).trained == 0
    assert csvs(folder) == before
    more = run_experiment(make_spec(TINY, "seeds=2"), Request(out=folder, workers=1, extend=True), Silent())
    assert more.trained == 4
    assert load_results([folder])[0].meta["schema"] == bnexp.commits.SCHEMA
    lines = set(before["curves.csv"].splitlines())
    assert lines < set((folder / "curves.csv").read_bytes().splitlines())


def test_a_newer_folder_is_refused(whole, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    for name in ["meta.json", *(f"shards/{path.name}/commit.json" for path in (folder / "shards").iterdir())]:
        content = (folder / name).read_text()
        (folder / name).write_text(content.replace('"schema": 2', '"schema": 3'))
        with pytest.raises(DamagedResults, match="written by a newer bnexp"):
            run(folder)
        (folder / name).write_text(content)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_was_planted_is_neither_followed_nor_written_to(whole, tmp_path, kind, counted):
    folder, elsewhere = tmp_path / "tiny", tmp_path / "elsewhere"
    shutil.copytree(whole, folder)
    planted = sorted(folder.rglob("*")) + [folder / name for name in (".holder", "new.csv.tmp", "meta.json.tmp")]
    shard = next((folder / "shards").iterdir())
    planted += [shard / "more.csv", shard / "checkpoint-1.npz.tmp"]
    for path in planted:
        there = path.exists()
        if there:
            path.rename(elsewhere)
        elif kind == "link":
            elsewhere.write_text("precious")
        path.symlink_to(elsewhere) if kind == "link" else os.mkfifo(path)
        before = elsewhere.read_bytes() if elsewhere.is_file() else b""
        calls = [lambda: run(folder), lambda: run(folder, overwrite=True), lambda: load_results([folder])]
        for call in calls:
            with pytest.raises(DamagedResults, match="does not follow") as caught:
                call()
            assert str(path) in str(caught.value)
        assert (elsewhere.read_bytes() if elsewhere.is_file() else b"") == before
        path.unlink()
        if there:
            elsewhere.rename(path)
    assert csvs(folder) == csvs(whole)
    assert load_results([folder])
    counted(f"planted: {len(planted)} files and folders replaced by a {kind}, all refused")


def test_a_link_that_appears_meanwhile_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.csv").symlink_to(tmp_path / "precious")
    (tmp_path / "b.csv.tmp").symlink_to(tmp_path / "precious")
    for call in (lambda: files.append(tmp_path / "a.csv", b"x", 0), lambda: files.replace(tmp_path / "b.csv", [b"x"])):
        with pytest.raises(StorageError):
            call()
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_others_put_into_a_folder_stays(whole, tmp_path):
    """Neither overwriting nor resuming removes what bnexp did not write."""
    mine = tmp_path / "mine"
    (mine / "shards/a").mkdir(parents=True)
    for name, text in {
        "data.csv": "x",
        "shards/a/part0.bin": "y",
        "meta.json": '{"title": "mine"}',
        "a.tmp": "z",
    }.items():
        (mine / name).write_text(text)
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    for request in ({}, {"overwrite": True}):
        with pytest.raises((UsageError, DamagedResults)):
            run(mine, **request)
    assert {path: path.read_bytes() for path in before} == before
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    for name in ("notes.tmp", "analysis.csv", "shards/readme.md"):
        (folder / name).write_text("mine")
    run(folder)
    run(folder, overwrite=True)
    for name in ("notes.tmp", "analysis.csv", "shards/readme.md"):
        assert (folder / name).read_text() == "mine"


def test_shards_that_are_not_of_this_study_are_named(whole, tmp_path):
    other = tmp_path / "other"
    run(other, TINY.replace("seeds: 1", "seeds: [7]"))
    shards = sorted((whole / "shards").iterdir())
    for index, (source, name) in enumerate(
        [(next((other / "shards").iterdir()), None), (shards[0], "copy"), (shards[0], shards[0].name[:-1] + "0")]
    ):
        folder = tmp_path / f"tiny{index}"
        shutil.copytree(whole, folder)
        shutil.copytree(source, folder / "shards" / (name or source.name))
        with pytest.raises(DamagedResults, match=rf"shards/{name or source.name}"):
            run(folder)
        assert csvs(folder)["runs.csv"] == csvs(whole)["runs.csv"]


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("meta.json", {"data": 5}),
        ("meta.json", {"data": [1]}),
        ("meta.json", {"data": [{}]}),
        ("meta.json", {"claims_sha256": 5}),
        ("meta.json", {"sessions": 7}),
        ("meta.json", {"files": 5}),
        ("meta.json", {"runs": None, "study_sha256": "0"}),
        ("commit.json", {"runs": []}),
        ("commit.json", {"runs": [{"id": "x", "key": "y"}]}),
        ("commit.json", {"files": {}}),
        ("commit.json", {"files": {"runs.csv": True}}),
        ("commit.json", {}),
    ],
)
def test_json_that_says_something_else(whole, tmp_path, file, changes):
    """Of schema 1, which had no checksums; with one it is not believed at all."""
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    path = folder / file if file == "meta.json" else next((folder / "shards").iterdir()) / file
    said = json.loads(path.read_text())
    checksum = {} if changes else {"sha256": said["sha256"]}
    del said["sha256"]
    path.write_text(json.dumps({**said, "schema": 1, **changes, **checksum}))
    with pytest.raises(DamagedResults, match=str(path)):
        run(folder)
    with suppress(DamagedResults):  # nothing else
        load_results([folder])
    assert (folder / "runs.csv").exists()


def test_a_folder_that_is_moved_while_it_is_trained(tmp_path):
    class Moves(Silent):
        def epoch(self, stack, message):
            if (tmp_path / "tiny").exists():
                (tmp_path / "tiny").rename(tmp_path / "moved")

    for _ in range(2):
        with pytest.raises(StorageError, match="tiny"):
            run_experiment(make_spec(TINY), Request(out=tmp_path / "tiny", workers=1), Moves())
        assert not (tmp_path / "tiny").exists()
        run(tmp_path / "moved")
        shutil.rmtree(tmp_path / "moved")


def test_predictions_of_runs_that_are_gone_do_not_stay(tmp_path):
    text = TINY.replace("train:", "evaluate_every: 1\ntrain:")
    run(tmp_path / "tiny", text)
    assert (tmp_path / "tiny/items.csv").exists()
    shutil.rmtree(tmp_path / "tiny/shards")
    (tmp_path / "tiny/shards").mkdir()

    class Stop(Silent):
        def epoch(self, stack, message):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(make_spec(text), Request(out=tmp_path / "tiny", workers=1), Stop())
    assert not (tmp_path / "tiny/items.csv").exists()


def test_a_hard_link_at_the_holder_is_not_written_through(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / "tiny/.holder")
    with bnexp.store.locked(tmp_path / "tiny"):
        assert json.loads((tmp_path / "tiny/.holder").read_text())["pid"] == os.getpid()
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["runs.csv", "meta.json", "spec.yaml", ".lock"])
def test_a_folder_where_a_file_belongs(whole, tmp_path, name):
    folder = tmp_path / "tiny"
    shutil.copytree(whole, folder)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    for call in (lambda: run(folder), lambda: load_results([folder])):
        with pytest.raises(DamagedResults, match=name):
            call()


# --- going on elsewhere -----------------------------------------------------------------------------------------------


def test_a_shard_is_finished_by_what_began_it(whole, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    interrupted(folder, make_spec(TINY), 1)
    honest = bnexp.continuation.computed_by
    monkeypatch.setattr(bnexp.continuation, "computed_by", lambda device: {**honest(device), "numpy": "1.0"})
    with pytest.raises(UsageError, match=r"with numpy .*, here it is 1\.0; .*--restart-unfinished"):
        run(folder)
    run(folder, restart_unfinished=True)
    assert csvs(folder) == csvs(whole)


def test_shards_of_unlike_stacks_go_on_together():
    """A stack in which nothing learns γ has no tap ``affine``; the next one may have."""
    text = "data: digits\nmodel: {hidden: [5, 4], norm: [standardize, full]}\ntrain: {batch_size: 12, epochs: 4}\n"
    spec, dataset = make_spec(text + "measure: [activations, shift]\nseeds: 2"), make_dataset()
    runs = runs_of(spec, dataset)
    structure = runs[0].structure
    tables = study_tables(spec, ["classification"])
    shards = [
        Shard(name, structure, tuple(r for r in runs if r.setting.model.norm == name))
        for name in ("standardize", "full")
    ]
    alone, saved = [], []
    for shard in shards:
        epochs = list(train(Stack(structure, (shard,)), dataset, "cpu", options_of(spec)))
        alone.append([encode(epoch, [run.id for run in shard.runs], [0, 0], tables)[0] for epoch in epochs])
        goes_on = train(Stack(structure, (shard,)), dataset, "cpu", options_of(spec))
        saved.append(next(epoch.checkpoint() for epoch in goes_on if epoch.number == 2))
    assert set(saved[0]) < set(saved[1])
    together = Stack(structure, tuple(shards), 2)
    epochs = list(train(together, dataset, "cpu", options_of(spec), saved=saved))
    found = [encode(epoch, [run.id for run in together.runs], [0, 0, 1, 1], tables) for epoch in epochs]
    assert [epoch.number for epoch in epochs] == [3, 4]
    for rows, *wanted in zip(found, alone[0][3:], alone[1][3:], strict=True):
        assert rows == wanted
