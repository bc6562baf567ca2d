"""The faults of test_durable as the operating system makes them: strace, a full disk, a disk that is read-only.

They need Linux, root and strace, and are skipped elsewhere, unless BNEXP_FAULTS=required.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sizes import by_size

CALL = [sys.executable, "-c"]
TRAIN = """
import sys, bnexp.experiment as e, bnexp.executors as x
e.COMMIT_EVERY = e.COMMIT_SHARE = x.MESSAGE_EVERY = 0
from bnexp.__main__ import main
sys.argv[1:1] = ["train", "tiny.yaml", "-q", "--workers", "1", "--out"]
main()
"""
TINY = """
data: {name: xor, samples: 40}
model: {hidden: [3, 3], norm: [none, full]}
train: {epochs: 3, batch_size: 10, optimizer: [sgd, adam]}
measure: [activations]
seeds: 1
"""


def needed(possible: bool, what: str) -> None:
    if os.environ.get("BNEXP_FAULTS") == "required":
        assert possible, f"{what} is not possible"
    elif not possible:
        pytest.skip(f"{what} is not possible here")


def train(place: Path, folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, perhaps under another command."""
    command = [*before, *CALL, TRAIN, str(folder)]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=300)


def refused(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1
    assert str(folder) in done.stderr


def csvs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the spec, and what training makes of it undisturbed."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "tiny.yaml").write_text(TINY)
    assert train(folder, folder / "whole").returncode == 0
    return folder


# --- strace -----------------------------------------------------------------------------------------------------------

FAULTS = [
    "fsync EIO",
    "fsync ENOSPC",
    "fsync KILL",
    "rename EIO",
    "rename KILL",
    "unlink EIO",
    "mkdir ENOSPC",
    "mkdir KILL",
]


@pytest.fixture(scope="module")
def calls(place):
    """Of each call that a whole training makes, one after the other, whether it is ours: in the results folder."""
    possible = shutil.which("strace") is not None and subprocess.run(
        ["strace", "-e", "trace=fsync", "true"], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    needed(possible, "strace")
    trace = ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(place / "trace"), "-e", "trace=fsync,rename,unlink,mkdir"]
    assert train(place, place / "counted", *trace).returncode == 0
    found: dict[str, list[bool]] = {}
    for line in (place / "trace").read_text().splitlines():
        if match := re.match(r"\d+\s+(\w+)\(", line):
            found.setdefault(match[1], []).append(
                str(place / "counted") in line and ".holder" not in line and "EEXIST" not in line
            )
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kernel_refuses_a_call(place, calls, fault, counted):
    name, how = fault.split()
    ours = [number for number, is_ours in enumerate(calls[name], start=1) if is_ours]
    assert ours
    step = max(1, len(ours) // by_size(2, 20))
    hits = 0
    for number in ours[::step]:
        folder = place / f"{name}{how}{number}"
        does = "signal=KILL" if how == "KILL" else f"error={how}"
        trace = place / "injected"
        faster = [] if how == "KILL" else ["--seccomp-bpf"]  # with which strace 6.1 injects no signals
        strace = ["strace", "-f", "-y", *faster, "-o", str(trace), "-e", f"trace={name}"]
        done = train(place, folder, *strace, "-e", f"inject={name}:{does}:when={number}")
        # Calls of Python's own are not always as many: the n-th may not be ours this time.
        met = [line for line in trace.read_text().splitlines() if f"{name}(" in line][number - 1 :][:1]
        if not met or str(folder) not in met[0] or ".holder" in met[0]:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if how == "KILL":
            assert done.returncode in (137, -9)
        else:
            refused(done, folder)
            assert os.strerror(getattr(errno, how)) in done.stderr
        hits += 1
        assert train(place, folder).returncode == 0
        assert csvs(folder) == csvs(place / "whole")
        shutil.rmtree(folder)
    assert hits > 0
    counted(f"strace: {hits} of {len(ours)} {name} calls {how}, all gone on from")


# --- mounts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A small disk in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = hasattr(os, "geteuid") and os.geteuid() == 0 and mount(path, "size=64k").returncode == 0
    needed(mounted, "a mount")
    yield path
    subprocess.run(["umount", path], check=True)


def mount(path: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    return subprocess.run(command, capture_output=True, check=False)


def test_a_full_disk(place, disk, counted):
    sizes, folder, fits = range(8, 400, by_size(32, 4)), disk / "out", 0
    for size in sizes:
        assert mount(disk, f"remount,size={size}k").returncode == 0
        done = train(place, folder)
        if done.returncode == 0:
            fits += 1
        else:
            refused(done, folder)
            assert "No space left on device" in done.stderr
        assert mount(disk, "remount,size=50m").returncode == 0
        assert train(place, folder).returncode == 0
        assert csvs(folder) == csvs(place / "whole")
        shutil.rmtree(folder)
        if fits > 1:
            break
    tried = list(sizes).index(size) + 1
    assert fits
    counted(f"a full disk: {tried - fits} sizes too small, all gone on from")


def test_a_disk_that_is_read_only(place, disk):
    folder = disk / "out"
    assert mount(disk, "remount,size=60k").returncode == 0
    refused(train(place, folder), folder)  # begun, but not finished
    assert mount(disk, "remount,size=50m,ro").returncode == 0
    before = csvs(folder)
    refused(train(place, folder), folder)
    assert csvs(folder) == before
    assert mount(disk, "remount,size=50m,rw").returncode == 0
    assert train(place, folder).returncode == 0
    assert csvs(folder) == csvs(place / "whole")
    assert mount(disk, "remount,ro").returncode == 0
    for words in (
        ["compare", str(folder)],
        ["report", str(folder), "-o", "page.html"],
        ["train", "tiny.yaml", "--dry-run"],
    ):
        words += ["--out", str(folder)] if words[0] == "train" else []
        done = subprocess.run(
            [sys.executable, "-m", "bnexp", *words], cwd=place, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
