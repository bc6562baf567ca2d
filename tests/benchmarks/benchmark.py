"""Whole studies, from a cold start to written CSVs: bnexp against the two loops that one would write oneself.

    pip install 'bnexp[benchmark]'
    python tests/benchmarks/benchmark.py [--only digits mnist scale cost measures memory first gpu] [--rounds 3]

Sides, each a process of its own, one after the other, the same work in the same run of this script:

- bnexp: ``bnexp train -q`` with its default measures, on as many workers as it likes;
- plain: plain.py, with one or two threads, whichever is faster for one epoch of three runs;
- vmapped: vmapped.py, once with XLA's own threads and once with the runs split over as many devices as there are cores;
  the faster counts. Compilation is part of its time, as importing is of everyone's.

``gpu``: 300 MNIST runs of 20 epochs on CUDA, after start-up (a run without a step), against plain.py on the same GPU.
bnexp's compiled loops are read from Numba's cache, as in every study but a machine's first; ``first`` says what that
one costs. Times are medians over rounds; the machine may be shared, so only ratios count. MNIST is read from --mnist.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # they override the kernels that fit the processor
    os.environ.pop(name, None)

import numpy as np
import psutil
from threadpoolctl import threadpool_info, threadpool_limits

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from tools import MNIST, make_spec

from bnexp.data import load_dataset
from bnexp.workers import available_cores

#         data, hidden, batch, epochs, seeds
STUDIES = {
    "digits": ("digits", 64, 32, 100, 10),
    "mnist": ("mnist", 100, 60, 5, 10),
    "scale": ("digits", 64, 32, 30, 100),
    "gpu": ("mnist", 100, 60, 20, 100),
}
BARS = {"digits": (10, 1.75), "mnist": (4.5, 2.5), "scale": (15, 2.25)}


class Bench:
    """Runs processes in a scratch folder."""

    def __init__(self, folder: Path, mnist: Path, rounds: int) -> None:
        self.folder, self.mnist, self.rounds = folder, mnist, rounds

    def data(self, name: str) -> str:
        return (
            f"{{name: mnist, path: '{self.mnist}', validation: 0}}"
            if name == "mnist"
            else f"{{name: {name}, validation: 0}}"
        )

    def spec(self, study: str) -> Path:
        data, hidden, batch, epochs, seeds = STUDIES[study]
        path = self.folder / f"{study}.yaml"
        path.write_text(
            f"name: {study}\ndata: {self.data(data)}\n"
            f"model: {{hidden: [{hidden}, {hidden}], norm: [none, standardize, full]}}\n"
            f"train: {{epochs: {epochs}, batch_size: {batch}}}\nseeds: {seeds}\n"
        )
        return path

    def arrays(self, name: str) -> Path:
        path = self.folder / f"{name}.npz"
        if not path.exists():
            dataset = load_dataset(make_spec(f"data: {self.data(name)}").settings[0].data)
            parts = {"train": dataset.train, "test": dataset.test}
            np.savez(path, **{f"{part}_x": rows.features for part, rows in parts.items()},
                     **{f"{part}_t": rows.targets for part, rows in parts.items()})  # fmt: skip
        return path

    def bnexp(self, study: str, *overrides: str, memory: bool = False) -> tuple[float, float]:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-m", "bnexp", "train", "-q", str(self.spec(study)), *overrides, "--out", str(out)]
        found = timed(command, memory)
        assert (out / "curves.csv").stat().st_size
        return found

    def peer(self, script: str, study: str, *options: str, small: int = 0) -> float:
        """Seconds of a peer; ``small``: of one seed and so many epochs."""
        data, hidden, batch, epochs, seeds = STUDIES[study]
        out = self.folder / "peer"
        shutil.rmtree(out, ignore_errors=True)
        size = {"hidden": hidden, "batch": batch, "epochs": small or epochs, "seeds": 1 if small else seeds}
        words = [word for name, value in size.items() for word in (f"--{name}", str(value))]
        seconds, _ = timed([sys.executable, str(HERE / script), str(self.arrays(data)), str(out), *words, *options])
        rows = 3 * size["seeds"] * (size["epochs"] + 1) + 1
        assert len((out / "curves.csv").read_text().splitlines()) == rows
        return seconds

    def against_peers(self, study: str) -> dict[str, object]:
        threads = min(("1", "2"), key=lambda count: self.peer("plain.py", study, "--threads", count, small=1))
        cores = str(available_cores())
        times: dict[str, list[float]] = {
            "bnexp": [],
            "plain": [],
            "vmapped, 1 device": [],
            f"vmapped, {cores} devices": [],
        }
        for _ in range(self.rounds):
            times["bnexp"].append(self.bnexp(study)[0])
            for devices in ("1", cores):
                key = f"vmapped, {devices} device{'s' if devices != '1' else ''}"
                times[key].append(self.peer("vmapped.py", study, "--devices", devices))
            times["plain"].append(self.peer("plain.py", study, "--threads", threads))
        seconds = {side: statistics.median(found) for side, found in times.items()}
        vmapped = min(value for side, value in seconds.items() if side.startswith("vmapped"))
        return {
            "seconds": seconds,
            "plain_threads": int(threads),
            "against_plain": seconds["plain"] / seconds["bnexp"],
            "against_vmapped": vmapped / seconds["bnexp"],
            "against_vmapped_on_one_device": seconds["vmapped, 1 device"] / seconds["bnexp"],
        }

    def median(self, study: str, *overrides: str) -> float:
        return statistics.median(self.bnexp(study, *overrides)[0] for _ in range(self.rounds))

    def cost_per_run(self) -> dict[str, float]:
        """(time of 300 runs − start)/300 over (time of 30 runs − start)/30; start: 30 runs without a step."""
        workers = ("--workers", str(available_cores()))
        start = self.median("scale", "seeds=10", "train.epochs=0", *workers)
        few, many = self.median("scale", "seeds=10", *workers), self.median("scale", *workers)
        return {"start": start, "of_30": few, "of_300": many, "ratio": (many - start) / 300 / ((few - start) / 30)}

    def measures(self) -> dict[str, float]:
        """Default measures on over measures off, on the digits study; the two alternate."""
        rounds = [(self.bnexp("digits")[0], self.bnexp("digits", "measure=[]")[0]) for _ in range(2 * self.rounds)]
        on, off = (statistics.median(side) for side in zip(*rounds, strict=True))
        return {"on": on, "off": off, "ratio": on / off}

    def memory(self) -> dict[str, float]:
        """Peak memory of all processes, 300 MNIST runs, one epoch."""
        seconds, peak = self.bnexp("mnist", "seeds=100", "train.epochs=1", memory=True)
        return {"seconds": seconds, "gib": peak / 2**30}

    def gpu(self) -> dict[str, object]:
        """300 MNIST runs on CUDA: seconds after start-up, and per run against the plain loop on the same GPU."""
        import torch

        runs, epochs = 3 * STUDIES["gpu"][4], STUDIES["gpu"][3]
        self.bnexp("gpu", "train.epochs=1", "--device", "cuda")  # kernels are compiled and kept
        ends = [
            [self.bnexp("gpu", f"train.epochs={n}", "--device", "cuda")[0] for n in (0, epochs)]
            for _ in range(self.rounds)
        ]
        start, whole = (statistics.median(times) for times in zip(*ends, strict=True))
        one, three = (self.peer("plain.py", "gpu", "--device", "cuda", small=n) for n in (1, 3))
        plain = (three - one) / 2 / 3 * epochs  # a run
        a = torch.randn(8192, 8192, device="cuda")
        times = []
        for _ in range(6):
            torch.cuda.synchronize()
            began = time.perf_counter()
            a @ a
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        peak = 2 * 8192**3 / min(times) / 1e9
        return {
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "start": start,
            "whole": whole,
            "after_start": whole - start,
            "plain_per_run": plain,
            "against_plain": plain / ((whole - start) / runs),
            "gemm_gflops": peak,
            "share_of_peak": products("gpu", 60000, 10000, 784) / peak / (whole - start),
        }

    def smoke(self) -> dict[str, float]:
        """One seed and one epoch of every side, to see that they run."""
        sides = {"bnexp": lambda: self.bnexp("digits", "seeds=1", "train.epochs=1")[0]}
        for script, options in (("plain.py", ("--threads", "1")), ("vmapped.py", ("--devices", "1"))):
            sides[script] = functools.partial(self.peer, script, "digits", *options, small=1)
        return {name: run() for name, run in sides.items()}

    def first(self) -> float:
        """The digits study on a machine that has no compiled loops yet."""
        os.environ["NUMBA_CACHE_DIR"] = str(self.folder / "numba")
        try:
            return self.bnexp("digits")[0]
        finally:
            del os.environ["NUMBA_CACHE_DIR"]


def timed(command: list[str], memory: bool = False) -> tuple[float, float]:
    """Seconds of a whole process, and the peak of its and its children's memory (PSS) in bytes if asked for."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = [0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak)) if memory else None
    if watcher:
        watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    if watcher:
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\n{errors}")
    return seconds, peak[0]


def watch(pid: int, peak: list[float]) -> None:
    """Sum the proportional memory of a process tree, ten times a second, until it ends."""
    while True:
        try:
            parent = psutil.Process(pid)
            total = 0
            for process in (parent, *parent.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                    continue
        except psutil.NoSuchProcess:
            return
        if parent.status() == psutil.STATUS_ZOMBIE:
            return
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def machine() -> dict[str, object]:
    """Processor, cores, versions, and the peak of one core's float32 products."""
    a, b = (np.random.default_rng(0).standard_normal((1024, 1024), np.float32) for _ in range(2))
    with threadpool_limits(limits=1):
        times = []
        for _ in range(12):
            began = time.perf_counter()
            a @ b
            times.append(time.perf_counter() - began)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    from importlib.metadata import version

    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": available_cores(),
        "blas": [info["architecture"] for info in threadpool_info() if info["internal_api"] == "openblas"],
        "gemm_gflops_per_core": 2 * 1024**3 / min(times) / 1e9,
        **{name: version(name) for name in ("torch", "numpy", "numba", "jax")},
        "python": platform.python_version(),
    }


def products(study: str, n_train: int, n_test: int, inputs: int) -> float:
    """Operations of a study's products, training and testing, in 10⁹."""
    _, hidden, batch, epochs, seeds = STUDIES[study]
    weights = inputs * hidden + hidden * hidden + hidden * 10
    steps = n_train // batch
    per_epoch = steps * batch * 2 * (3 * weights - inputs * hidden) + n_test * 2 * weights
    return 3 * seeds * epochs * per_epoch / 1e9


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*STUDIES, "cost", "measures", "memory", "first", "smoke"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts[:-1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mnist", type=Path, default=MNIST, help="folder with MNIST's IDX files")
    parser.add_argument("--json", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    table: dict[str, object] = {"machine": machine()}
    print(json.dumps(table["machine"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.mnist, arguments.rounds)
        bench.bnexp("digits", "train.epochs=1")  # Numba's cache
        sizes = {"digits": (1437, 360, 64), "mnist": (60000, 10000, 784)}
        for part in (part for part in parts if part in arguments.only):
            if part in ("mnist", "memory", "gpu") and not arguments.mnist.exists():
                print(f"{part}: left out, no MNIST at {arguments.mnist}")
                continue
            if part == "gpu" and not has_cuda():
                print("gpu: left out, no CUDA here")
                continue
            if part in BARS:
                found = table[part] = bench.against_peers(part)
                peak = table["machine"]["gemm_gflops_per_core"]  # type: ignore[index]
                all_cores = peak * available_cores() * found["seconds"]["bnexp"]  # type: ignore[index, operator]
                found["share_of_peak"] = products(part, *sizes[STUDIES[part][0]]) / all_cores
                sides = ", ".join(f"{side} {value:.2f} s" for side, value in found["seconds"].items())  # type: ignore[attr-defined]
                plain, vmapped = BARS[part]
                print(
                    f"{part}: {sides}; against plain {found['against_plain']:.1f} × (aim {plain}), against vmapped"
                    f" {found['against_vmapped']:.2f} × (aim {vmapped}); {found['share_of_peak']:.0%} of peak",
                    flush=True,
                )
            else:
                calls = {
                    "cost": bench.cost_per_run,
                    "measures": bench.measures,
                    "memory": bench.memory,
                    "first": bench.first,
                    "gpu": bench.gpu,
                    "smoke": bench.smoke,
                }
                table[part] = calls[part]()
                print(f"{part}: {json.dumps(table[part])}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
