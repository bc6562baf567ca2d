"""Worker processes: one thread each, deaf to Ctrl-C, and arrays that lie once for all of them."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import bnexp.executors
from bnexp import workers
from bnexp.cli import app
from bnexp.workers import Shared, one_thread, receive, start_worker


def test_shared_arrays_arrive_and_a_worker_s_changes_stay_its_own():
    value = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([], np.int64), "c": "text", "d": 5}
    ours, theirs = multiprocessing.Pipe()
    shared = Shared(value)
    for _ in range(2):
        shared.send(ours)
    first, second = receive(theirs), receive(theirs)
    shared.close()
    assert not Path(shared._file.name).exists()
    first["a"][0, 0] = 100
    for found, corner in ((first, 100), (second, 0)):
        assert found["a"].flags.writeable
        assert found["a"][0, 0] == corner
        assert np.array_equal(found["a"].ravel()[1:], value["a"].ravel()[1:])
        assert (found["b"].dtype, found["b"].shape, found["c"], found["d"]) == (np.int64, (0,), "text", 5)
    assert value["a"][0, 0] == 0


def test_shared_values_without_arrays():
    ours, theirs = multiprocessing.Pipe()
    shared = Shared(["x", 1])
    shared.send(ours)
    assert receive(theirs) == ["x", 1]
    shared.close()


def new_pages(pipe):
    """How many pages the system has to map for three arrays of 20 MiB, ten times, after the first time."""
    import resource

    before = 0
    for turn in range(11):
        arrays = [np.ones(5 * 2**20, np.float32) for _ in range(3)]
        del arrays
        if not turn:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    pipe.recv()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_worker_keeps_the_memory_of_its_last_arrays_for_the_next():
    pipe, process = start_worker(new_pages)
    assert pipe.recv() < 100  # huge pages are 30 each time, others 15,360
    pipe.close()
    process.join(10)


def answer(pipe):
    from threadpoolctl import threadpool_info

    threads = [info["num_threads"] for info in threadpool_info()]
    pipe.send((os.getpid(), threads, signal.getsignal(signal.SIGINT) == signal.SIG_IGN))
    pipe.recv()


def test_a_worker_has_one_thread_and_ends_with_its_pipe():
    pipe, process = start_worker(answer)
    pid, threads, deaf = pipe.recv()
    assert pid == process.pid != os.getpid()
    assert set(threads) == {1}
    assert deaf
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert process.is_alive()
    pipe.close()
    process.join(10)
    assert process.exitcode == 0


def test_the_environment_and_the_threads_are_put_back():
    before = [os.environ.get(name) for name in workers.THREADS]
    with one_thread():
        assert {os.environ[name] for name in workers.THREADS} == {"1"}
    assert [os.environ.get(name) for name in workers.THREADS] == before


@pytest.mark.skipif(not workers.FORKS, reason="workers start afresh here")
def test_workers_are_forked_from_one_server_that_does_not_import_torch():
    pipe, process = start_worker(modules)
    assert pipe.recv() == (True, False)
    pipe.close()
    process.join(10)


def modules(pipe):
    import sys

    pipe.send(("bnexp.training" in sys.modules, "torch" in sys.modules))


def test_a_long_folder_for_temporary_files_is_no_hindrance(tmp_path):
    """The socket of the workers' server has no room for it; workers then start without that server."""
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    code = (
        "from bnexp import workers\n"
        "if __name__ == '__main__':\n"
        "    workers.warm_up()\n"
        "    raise SystemExit(workers.FORKS)\n"
    )
    (tmp_path / "run.py").write_text(code)
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


SPEC = """
name: small
data: {name: xor, samples: 200}
model: {hidden: [4, 4], norm: [none, full]}
train: {epochs: 2, batch_size: 10}
seeds: 20
"""


def test_workers_that_die_are_told_of(tmp_path, monkeypatch):
    (tmp_path / "small.yaml").write_text(SPEC)
    monkeypatch.setattr(bnexp.executors, "start_worker", lambda live: start_worker(leave))
    with pytest.raises(SystemExit) as end:
        app(["train", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "out"), "--workers", "2", "-q"])
    assert end.value.code == 8
    assert (tmp_path / "out" / "runs.csv").read_text().count("failed") == 40


def leave(pipe):
    os._exit(3)


SCRIPT = """
import bnexp
print("once")
study = {"name": "guard", "data": "digits", "train": {"epochs": 1}, "seeds": 16, "measure": [], "claims": []}
print(len(bnexp.train(study, out="out", workers=2, progress=False).runs), "runs")
"""


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    """Its workers do not import it; by themselves multiprocessing's would, and train the study again, without end."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("once\n16 runs\n", 0), done.stderr


def test_threads_that_start_workers_leave_the_program_as_it_was():
    main, before = sys.modules["__main__"], dict(os.environ)

    def start() -> None:
        for _ in range(20):
            with workers._without_main(), workers._single_threaded():
                time.sleep(0.001)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.modules["__main__"] is main
    assert dict(os.environ) == before
