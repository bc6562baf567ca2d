"""How planning, writing, comparing and reporting grow with the number of runs, without training any.

    python tests/benchmarks/growth.py 1000 10000 100000 [--measures]

The executor is simulated: it hands over rows and checkpoints as workers would, of random numbers that depend on the
norm. A line for each size: seconds and peak memory (MiB) of the coordinator, which plans, deals out and writes; of
``compare``; of ``report``, with the size of its page. Each is a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPEC = """
name: growth
data: {name: digits, subset: 200}
model:
  norm: [none, standardize, full, affine, center, scale, gamma, beta]
  placement: [pre, post]
  activation: [sigmoid, tanh, relu]
train: {epochs: 5, lr: [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]}
evaluate_every: 5
"""
SETTINGS = 8 * 2 * 3 * 12


def simulate(stacks: Sequence[Any], job: Any, workers: int, saved: Any, stop: Any) -> Iterator[Any]:
    """What workers would send of every stack: rows of all epochs, and the end."""
    from bnexp.executors import Message
    from bnexp.recording import Outcome
    from bnexp.tables import outcome_values

    curves, rng = job.tables["curves"], np.random.default_rng(0)
    for index, stack in enumerate(stacks):
        runs = stack.runs
        quality = np.array(
            [zlib.crc32(f"{run.setting.model.norm}{run.setting.train.lr}".encode()) % 97 / 97 for run in runs]
        )
        score = 1 / (1 + np.exp(-(quality + rng.normal(0, 0.2, len(runs)))))
        rows: list[dict[str, str]] = []
        outcomes, place = [], 0
        for shard in stack.shards:
            text: dict[str, list[str]] = {name: [] for name in job.tables}
            said = []
            for run in shard.runs:
                for name, table in job.tables.items():
                    for epoch in (0, stack.structure.epochs):
                        for labels in labels_of(name, run):
                            values = ",".join(f"{v:.9g}" for v in score[place] + rng.normal(0, 0.01, len(table.names)))
                            text[name].append(f'"{run.id}",{epoch},{labels}{values}\n')
                metrics = {name: float(score[place]) for name in curves.names}
                outcome = Outcome(
                    "done", None, bool(score[place] > 0.5), 5000, f"w{run.seed:016x}", f"o{run.seed:016x}", metrics
                )
                said.append(outcome_values(outcome, curves))
                place += 1
            rows.append({name: "".join(lines) for name, lines in text.items()})
            outcomes.append(said)
        correct = rng.random((len(runs), 360)) < score[:, None]
        starts = np.cumsum([0, *(len(shard.runs) for shard in stack.shards)])
        arrays = [
            {"test_correct": correct[a:b], "weight": np.zeros((b - a, 1000), np.float32)}
            for a, b in itertools.pairwise(starts)
        ]
        yield Message(
            index, stack.structure.epochs, rows, 0.5, len(runs), outcomes=outcomes, arrays=arrays,
            shards=range(len(stack.shards)), done=True,
        )  # fmt: skip


def labels_of(table: str, run: Any) -> list[str]:
    """The labels of a table's rows of one epoch, as CSV."""
    layers = range(1, len(run.setting.model.hidden) + 2)
    if table == "curves":
        return [""]
    if table == "parameters":
        return [f"{layer}," for layer in layers]
    taps = ("preactivation", "activation")
    if table == "activations":
        return [f"{layer},{tap}," for layer in layers for tap in taps]
    return [f"{layer},{tap},{unit}," for layer in layers for tap in taps for unit in range(4)]


def coordinate(folder: Path, seeds: int, measures: bool) -> None:
    """Plan, deal out and write a study of so many seeds."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tools import Silent

    import bnexp.experiment
    from bnexp import source
    from bnexp.loading import resolve

    bnexp.experiment.run_stacks = simulate  # type: ignore[assignment]
    overrides = [f"seeds={seeds}", *([] if measures else ["measure=[]"])]
    spec = resolve(source.parse(SPEC, "growth.yaml"), overrides, "growth", folder)
    bnexp.experiment.run_experiment(
        spec, bnexp.experiment.Request(folder / "growth", "cpu", 2, max_runs=10**9), Silent()
    )


def measured(words: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory, MiB, of a command."""
    before = time.perf_counter()
    code = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - before, int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--measures", action="store_true", help="with the default measures")
    parser.add_argument("--coordinate", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.coordinate:
        coordinate(Path(given.coordinate), given.runs[0], given.measures)
        return
    for runs in given.runs:
        seeds = max(2, round(runs / SETTINGS))
        with tempfile.TemporaryDirectory() as folder:
            more = ["--measures"] if given.measures else []
            coordinator = measured([sys.executable, __file__, str(seeds), "--coordinate", folder, *more])
            bnexp = [sys.executable, "-m", "bnexp"]
            compare = measured([*bnexp, "compare", f"{folder}/growth"])
            report = measured([*bnexp, "report", f"{folder}/growth", "-o", f"{folder}/page.html"])
            size = (Path(folder) / "page.html").stat().st_size / 1e6
        named = {"coordinator": coordinator, "compare": compare, "report": report}
        text = ", ".join(f"{name} {seconds:.1f} s {memory:.0f} MiB" for name, (seconds, memory) in named.items())
        print(f"{seeds * SETTINGS} runs: {text}, page {size:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
