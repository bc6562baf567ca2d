"""A real Ray on this machine: the bytes of a local run, whatever is killed meanwhile."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from bnexp.on_ray import Place, _Crew, _Trainers
from bnexp.results import load_results

REQUIRED = os.environ.get("BNEXP_RAY") == "required"
pytestmark = [
    pytest.mark.skipif(
        not REQUIRED and (importlib.util.find_spec("ray") is None or os.environ.get("BNEXP_RAY") != "1"),
        reason="a Ray is started only where BNEXP_RAY is 1 or required",
    ),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
    ),  # Ray's own
]
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
    (computer,) = load_results([place / "ray"])[0].meta["computed_by"]
    assert computer["host"] == socket.gethostname()
    assert len(computer["shards"]) == 16
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
    said = child.communicate()[1]  # Ray may tell of the loss, too
    assert ("error:" in said, "Traceback" in said, child.returncode) == (False, False, 0), said
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
    trained(place, "halved", "--workers", "1", env=environment)
    assert csvs(place / "halved") == csvs(place / "local")


def test_a_second_coordinator_is_refused(place):
    child = subprocess.Popen([*COMMAND, "two", "-q", "train.epochs=1000"], cwd=place, stderr=subprocess.DEVNULL)
    until(lambda: (place / "two" / "shards").exists())
    second = trained(place, "two", "train.epochs=1000", code=6)
    assert f"(process {child.pid} on" in second.stderr
    child.send_signal(signal.SIGINT)
    child.wait()


def test_no_cluster_and_no_gpu(place):
    words = [*COMMAND[:-2], "auto", "--out", "none"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--address auto: no Ray cluster" in done.stderr
    for address, known in (("auto", {"RAY_ADDRESS": "127.0.0.1:1"}), ("ray://127.0.0.1:1", {})):
        words[words.index("--address") + 1] = address
        done = subprocess.run(
            words, cwd=place, capture_output=True, text=True, env={**os.environ, **known}, check=False
        )
        assert (done.returncode, "nobody answers at 127.0.0.1:1" in done.stderr) == (2, True)
    done = trained(place, "none", "--gpus-per-task", "0.5", code=2)
    assert done.stderr.strip().splitlines()[-1] == "error: --gpus-per-task 0.5: the cluster has no GPU"
    assert not list((place / "none" / "shards").glob("*"))
    again = trained(place, "local")  # nothing is left, so no Ray is started
    assert again.stderr == ""


class Stillborn:
    """In the place of Ray: calls are answered at once, those of the first trainers by their death."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, dead):
        self.dead, self.made, self.killed = dead, 0, []

    def put(self, value):
        return value

    def wait(self, calls, num_returns, timeout):
        return calls, []

    def get(self, call):
        if call < self.dead:
            raise self.exceptions.RayError("broken node")

    def remote(self, kind):
        return types.SimpleNamespace(options=lambda **options: types.SimpleNamespace(remote=self.trainer))

    def trainer(self):
        number, self.made = self.made, self.made + 1
        prepare = types.SimpleNamespace(remote=lambda: number)
        return types.SimpleNamespace(prepare=prepare, number=number)

    def kill(self, trainer):
        self.killed.append(trainer.number)


@pytest.mark.parametrize(("dead", "given_up"), [(3, False), (4, True), (99, True)])
def test_a_study_is_given_up_only_where_no_process_is_left(dead, given_up):
    """Three of four that never are ready leave one that is; where all four die, nobody is left."""
    ray = Stillborn(dead)
    trainers = _Trainers(ray, 0.0)
    for _ in range(4):
        trainers.hire()
    shards = types.SimpleNamespace(shards=[1], runs=[1])
    crew = _Crew([shards] * 10, None, Place(4, "cpu", None, None, trainers), lambda shard: None)
    said = [message for call in list(trainers.coming) for message in crew.welcome(call)]
    assert [message.error for message in said] == ["no process could be started: broken node"] * (10 if given_up else 0)
    assert ray.killed == list(range(min(dead, 4)))
    assert len(crew.waiting) == (0 if given_up else 10)


WITHOUT_GPU = """
import dataclasses, os
import bnexp.devices, bnexp.executors, bnexp.origin
honest = bnexp.executors.train_stack
def on_cpu(index, stack, begun, job, *rest):
    if job.device == "cuda":
        with open("{seen}", "a") as file:
            print(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid(), file=file)
    return honest(index, stack, begun, dataclasses.replace(job, device="cpu"), *rest)
bnexp.executors.train_stack = on_cpu
bnexp.origin.device_name = lambda device: {"cuda": "cuda (none)"}.get(device, device)
bnexp.devices.room_for_stacks = lambda device, share: int(4e8 * share)
"""


@pytest.fixture(scope="module")
def cluster(place):
    """A cluster that runs already: one core, two GPUs in whose place the CPU computes, and a door for clients."""
    from ray.cluster_utils import Cluster

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        door = taken.getsockname()[1]
    head = {"num_cpus": 1, "num_gpus": 2, "include_dashboard": False, "ray_client_server_port": door}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", patched(place / "gpus", WITHOUT_GPU.replace("{seen}", str(place / "seen")))["PYTHONPATH"]
        )
        running = Cluster(initialize_head=True, head_node_args=head)
    running.client_address = f"ray://{running.head_node.node_ip_address}:{door}"
    yield running
    running.shutdown()


def on_cluster(cluster, out, address="auto"):
    """The command that trains there, and its environment."""
    return [*COMMAND[:-2], address, "--out", out, "-q"], {**os.environ, "RAY_ADDRESS": cluster.address}


def test_a_client_of_a_cluster(place, cluster):
    words, environment = on_cluster(cluster, "client", cluster.client_address)
    environment.pop("RAY_ADDRESS")
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert csvs(place / "client") == csvs(place / "local")


def test_a_node_is_lost(place, cluster):
    node = cluster.add_node(num_cpus=1)
    words, environment = on_cluster(cluster, "node")
    child = subprocess.Popen(words, cwd=place, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: len(trainers()) > 1 and list((place / "node" / "shards").glob("*/commit.json")))
    cluster.remove_node(node, allow_graceful=False)
    said = child.communicate()[1]
    assert ("error:" in said, "Traceback" in said, child.returncode) == (False, False, 0), said
    assert csvs(place / "node") == csvs(place / "local")


def test_tasks_share_gpus(place, cluster):
    """Each of four asks for half of one of two GPUs; what computes in their place here is the CPU."""
    words, environment = on_cluster(cluster, "shared")
    words += ["--gpus-per-task", "0.5", "train.epochs=200"]
    subprocess.run(words, cwd=place, env=environment, timeout=300, check=True)
    there = {tuple(line.split()) for line in (place / "seen").read_text().splitlines()}
    assert sorted(gpu for gpu, _ in there) == ["0", "0", "1", "1"]
    assert load_results([place / "shared"])[0].meta["device"] == "cuda (none)"
    assert set(load_results([place / "shared"])[0].runs["status"]) == {"done"}
