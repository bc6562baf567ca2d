"""What ``bnexp doctor`` finds out: this machine, what is installed, how fast it writes and trains."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bnexp import files, source
from bnexp.devices import device_names
from bnexp.errors import BnexpError
from bnexp.experiment import Observer, Request, run_experiment
from bnexp.loading import resolve
from bnexp.origin import versions
from bnexp.sources import DATA_ROOT
from bnexp.workers import available_cores, blas_kernels

WRITTEN = 16 * 2**20  # bytes of the file by which writing is timed
SPEC = """
data: {name: digits, validation: 0}
model: {hidden: [64, 64], norm: full}
train: {epochs: 5}
seeds: 1
"""
EXTRAS = {  # by the module that each brings
    "triton": "one program a run on a GPU",
    "pyarrow": "export --to parquet",
    "tensorboard": "export --to tensorboard",
    "safetensors": "export --to safetensors",
    "ray": "train --executor ray",
    "nbclient": "runs the walk-through in the tests",
    "jax": "a peer of the benchmark",
    "playwright": "the page's tests",
}


class Finding(NamedTuple):
    """Something about this machine; ``fault``: what is wrong with it and what to do, if anything is."""

    name: str
    text: str
    fault: str = ""


def examine(observer: Observer) -> Iterator[Finding]:
    """Everything, what is quick first."""
    for name, version in versions().items():
        yield Finding(name, version)
    cores = available_cores()
    yield Finding("cores", f"{cores}; one thread in each of {cores} workers")
    yield Finding("BLAS kernels", blas_kernels() or "unknown")
    yield Finding("image sets", os.environ.get(DATA_ROOT) or f"downloaded when first used ({DATA_ROOT} names a folder)")
    for name, purpose in EXTRAS.items():
        there = importlib.util.find_spec(name) is not None
        yield Finding(f"extra {name}", f"{'installed' if there else 'not installed'}: {purpose}")
    yield _writing()
    for device in device_names():
        yield from _training(device, observer)


def _writing() -> Finding:
    """How fast a file is written here, durably."""
    try:
        with tempfile.TemporaryDirectory(prefix=".bnexp-doctor-", dir=".") as folder:
            small, large = Path(folder) / "small", Path(folder) / "large"
            began = time.perf_counter()
            files.replace(small, [b"x"])
            commit = time.perf_counter() - began
            files.replace(large, [bytes(WRITTEN)])
            seconds = time.perf_counter() - began - commit
    except (OSError, BnexpError) as error:
        return Finding("writing here", "not possible", f"{error}; train with --out on another disk")
    return Finding("writing here", f"{WRITTEN / 2**20 / seconds:.0f} MiB/s; a durable commit {1000 * commit:.1f} ms")


def _training(device: str, observer: Observer) -> Iterator[Finding]:
    """One small run, twice: the first time loops may have to be compiled."""
    spec = resolve(source.parse(SPEC, "doctor"), (), "doctor", Path())
    took, summary = [], None
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            try:
                summary = run_experiment(spec, Request(Path(folder) / "run", device, 1), observer)
            except BnexpError as error:
                yield Finding(f"training on {device}", "not possible", str(error))
                return
            took.append(time.perf_counter() - began)
        if summary.failures:
            why = next(iter(summary.failures.values())).strip().splitlines()[-1]
            yield Finding(f"training on {device}", "failed", why)
            return
    yield Finding(
        f"training on {device}", f"{took[1]:.2f} s for one small run of 5 epochs ({took[0]:.2f} s the first time)"
    )
    share = summary.stack_difference if summary else None
    if share == 0:
        yield Finding("stacked training", "exact")
    elif share is not None:
        fault = "a run's last bits depend on what is trained beside it; results stay valid"
        text = f"differs by {share:.1e} after three steps"
        yield Finding("stacked training", text, fault if device == "cpu" else "")
