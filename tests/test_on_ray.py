"""A real Ray on this machine: the bytes of a local run, whatever is killed meanwhile."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnexp.results import load_results

REQUIRED = os.environ.get("BNEXP_RAY") == "required"
pytestmark = pytest.mark.skipif(
    not REQUIRED and (importlib.util.find_spec("ray") is None or os.environ.get("BNEXP_RAY") != "1"),
    reason="a Ray is started only where BNEXP_RAY is 1 or required",
)
SPEC = """
name: small
data: digits
model: {hidden: [32, 32], norm: [none, full], activation: [sigmoid, tanh]}
train: {epochs: 60, lr: [0.1, 1]}
seeds: 16
"""
COMMAND = [sys.executable, "-m", "bnexp", "train", "small.yaml", "--executor", "ray", "--address", "local", "--out"]


def csvs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.csv")}


def trained(place, out, *more, code=0, **options):
    done = subprocess.run(
        [*COMMAND, out, "-q", *more], cwd=place, capture_output=True, text=True, timeout=300, **options
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a spec, and what a local run makes of it."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "small.yaml").write_text(SPEC)
    local = [sys.executable, "-m", "bnexp", "train", "small.yaml", "--out", "local", "-q"]
    subprocess.run(local, cwd=folder, check=True)
    return folder


def trainers():
    """The process ids of the cluster's processes that train."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_Trainer"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def until(condition, seconds=120):
    """Wait for something."""
    latest = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.05)


def test_the_same_bytes(place):
    trained(place, "ray", "--workers", "2")
    assert csvs(place / "ray") == csvs(place / "local")
    again = trained(place, "ray")
    assert again.stderr == ""


def test_a_worker_is_killed(place):
    child = subprocess.Popen([*COMMAND, "killed", "-q"], cwd=place, stderr=subprocess.PIPE, text=True)
    killed = 0
    while child.poll() is None and killed < 2:
        pids = trainers()
        if pids and list((place / "killed" / "shards").glob("*/commit.json")):
            os.kill(pids[0], signal.SIGKILL)
            killed += 1
            time.sleep(1.5)
        time.sleep(0.05)
    assert (child.communicate()[1], child.returncode) == ("", 0)
    assert killed > 0
    assert csvs(place / "killed") == csvs(place / "local")


def test_the_coordinator_is_killed(place):
    child = subprocess.Popen([*COMMAND, "coordinator", "-q"], cwd=place, stderr=subprocess.DEVNULL)
    until(lambda: list((place / "coordinator" / "shards").glob("*/commit.json")) or child.poll() is not None)
    child.kill()
    child.wait()
    until(lambda: not trainers())
    trained(place, "coordinator")
    assert csvs(place / "coordinator") == csvs(place / "local")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_folder_that_is_gone_on_with(place, number, code):
    out = f"signal{code}"
    child = subprocess.Popen([*COMMAND, out, "-q"], cwd=place, stderr=subprocess.PIPE, text=True)
    until(lambda: list((place / out / "shards").glob("*/commit.json")) or child.poll() is not None)
    child.send_signal(number)
    began = time.monotonic()
    message = child.communicate()[1]
    assert child.returncode in (code, 0), message  # it may have been at its end
    assert time.monotonic() - began < 25
    assert "Traceback" not in message
    until(lambda: not trainers())
    statuses = set(load_results([place / out])[0].runs["status"])
    assert statuses <= {"done", "running", "pending"}
    trained(place, out)
    assert csvs(place / out) == csvs(place / "local")


def patched(folder, code):
    """An environment in which every Python process runs this code first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}


DEADLY = """
import bnexp.executors, os
honest = bnexp.executors.train_stack
def deadly(index, stack, *rest):
    if stack.structure.activation == "tanh":
        os.kill(os.getpid(), 9)
    return honest(index, stack, *rest)
bnexp.executors.train_stack = deadly
"""


def test_a_stack_that_is_lost_three_times_is_failed_and_the_rest_goes_on(place):
    """Whoever trains a tanh network is killed."""
    done = trained(place, "failed", code=1, env=patched(place / "deadly", DEADLY))
    assert "its task was lost 3 times" in done.stderr
    runs = load_results([place / "failed"])[0].runs
    assert set(runs[runs["activation"] == "tanh"]["status"]) == {"failed"}
    assert set(runs[runs["activation"] == "sigmoid"]["status"]) == {"done"}
    trained(place, "failed")
    assert csvs(place / "failed") == csvs(place / "local")


HUNGRY = """
import bnexp.executors, numpy as np, time
honest = bnexp.executors._train_part
def hungry(index, stack, part, *rest):
    if len(part) > 1:
        eaten = [np.ones(2**27) for _ in range(3)]
        time.sleep(60)
    return honest(index, stack, part, *rest)
bnexp.executors._train_part = hungry
"""


def memory():
    """Bytes of this machine, and bytes that are taken."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (1024 * int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return total, total - free


def test_a_stack_that_ray_ends_for_want_of_memory_is_halved(place):
    """Who trains more than one shard takes 3 GiB, where Ray allows 2 more than there are taken."""
    total, taken = memory()
    environment = patched(place / "hungry", HUNGRY)
    environment |= {
        "RAY_memory_usage_threshold": f"{(taken + 2**31) / total:.4f}",
        "RAY_memory_monitor_refresh_ms": "50",
    }
    done = trained(place, "halved", "--workers", "1", env=environment)
    assert done.stderr == ""
    assert csvs(place / "halved") == csvs(place / "local")


def test_a_second_coordinator_is_refused(place):
    child = subprocess.Popen([*COMMAND, "two", "-q", "train.epochs=1000"], cwd=place, stderr=subprocess.DEVNULL)
    until(lambda: (place / "two" / ".holder").exists())
    second = trained(place, "two", "train.epochs=1000", code=6)
    assert f"(process {child.pid} on" in second.stderr
    child.send_signal(signal.SIGINT)
    child.wait()


def test_no_cluster_and_no_gpu(place):
    words = [*COMMAND[:-2], "auto", "--out", "none"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--address auto: no Ray cluster" in done.stderr
    done = trained(place, "none", "--gpus-per-task", "0.5", code=2)
    assert done.stderr.strip().splitlines()[-1] == "error: --gpus-per-task 0.5: the cluster has no GPU"
    assert not (place / "none").exists()
