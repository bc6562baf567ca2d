"""Milliseconds per run and epoch: bnexp's stacks against the plain PyTorch loop a user would write.

    python tests/benchmarks/benchmark.py [--mnist FOLDER] [--rounds N]

Both sides do the same work in one process with one thread: train, evaluate loss and accuracy on the test rows at the
start and after each epoch, and on the training rows at the start and at the end. The plain loop trains one
torch.nn module after another, batches sliced from a tensor. Each round times both, one after the other, and the table
shows the medians and their ratio: the machine may be shared, the ratio is what counts. bnexp records its default
measures as well; ``bare`` is bnexp without them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools import MNIST, ROOT, make_spec, options_of, runs_of

from bnexp.data import Dataset, load_dataset
from bnexp.executors import make_stacks
from bnexp.loading import load_spec
from bnexp.plan import Run, make_plan
from bnexp.spec import DEFAULT_MEASURES, MEASURES, Spec
from bnexp.training import train

STUDIES = {
    "digits": ("data: {{name: digits, validation: 0}}", "hidden: [64, 64]", 32, 20),
    "mnist": ("data: {{name: mnist, path: '{folder}', validation: 0}}", "hidden: [100, 100]", 60, 2),
}
NORMS = "[none, standardize, full]"


def make_study(data: str, hidden: str, batch_size: int, epochs: int, measure: str) -> Spec:
    return make_spec(
        f"{data}\nmodel: {{{hidden}, norm: {NORMS}}}\ntrain: {{epochs: {epochs}, batch_size: {batch_size}}}\n"
        f"seeds: 10\nmeasure: {measure}"
    )


def stacked(spec: Spec, dataset: Dataset) -> None:
    """All runs as bnexp trains them on one worker."""
    runs = runs_of(spec, dataset)
    shapes = {runs[0].setting.data: runs[0].structure.shape}
    for stack in make_stacks(make_plan(spec, shapes), 1):
        for _ in train(stack, dataset, "cpu", options_of(spec)):
            pass


def module_of(run: Run) -> torch.nn.Sequential:
    widths, norm = run.structure.widths, run.setting.model.norm
    layers: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers.append(torch.nn.Linear(n_in, n_out, bias=norm == "none"))
        if norm != "none":
            layers.append(torch.nn.BatchNorm1d(n_out, affine=norm == "full"))
        layers.append(torch.nn.Sigmoid())
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-2], widths[-1]))


def plain(spec: Spec, dataset: Dataset, chosen: list[int]) -> None:
    """Some of the runs as a user would train them: one network after the other."""
    x, t = torch.from_numpy(dataset.train.features), torch.from_numpy(dataset.train.targets)
    test_x, test_t = torch.from_numpy(dataset.test.features), torch.from_numpy(dataset.test.targets)
    loss_of = torch.nn.functional.cross_entropy
    runs = runs_of(spec, dataset)
    for run in (runs[index] for index in chosen):
        torch.manual_seed(run.seed)
        module, train_ = module_of(run), run.setting.train
        optimizer = torch.optim.SGD(module.parameters(), lr=train_.lr)
        for epoch in range(train_.epochs + 1):
            if epoch in (0, train_.epochs):
                look(module, x, t)
            look(module, test_x, test_t)
            if epoch == train_.epochs:
                break
            module.train()
            order, correct, total = torch.randperm(len(x)), 0, 0.0
            for start in range(0, len(x) - run.structure.batch_size + 1, run.structure.batch_size):
                rows = order[start : start + run.structure.batch_size]
                out = module(x[rows])
                loss = loss_of(out, t[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
                correct += (out.argmax(1) == t[rows]).sum().item()


def look(module: torch.nn.Sequential, x: torch.Tensor, t: torch.Tensor) -> tuple[float, float]:
    """Loss and accuracy on some rows."""
    module.eval()
    with torch.no_grad():
        out = module(x)
        return torch.nn.functional.cross_entropy(out, t).item(), (out.argmax(1) == t).float().mean().item()


def seconds(function, *arguments) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def measure(name: str, folder: Path, rounds: int) -> dict[str, float]:
    data, hidden, batch_size, epochs = STUDIES[name]
    data = data.format(folder=folder)
    full = make_study(data, hidden, batch_size, epochs, "[activations, parameters]")
    bare = make_study(data, hidden, batch_size, epochs, "[]")
    dataset = load_dataset(full.settings[0].data)
    # On MNIST three plain runs, one of each norm, stand for thirty; they are timed one after the other anyway.
    chosen = list(range(30)) if name == "digits" else [0, 10, 11]
    times: dict[str, list[float]] = {"bnexp": [], "bare": [], "plain": []}
    stacked(make_study(data, hidden, batch_size, 0, "[]"), dataset)  # warm up
    for _ in range(rounds):
        times["bnexp"].append(seconds(stacked, full, dataset) / (30 * epochs))
        times["bare"].append(seconds(stacked, bare, dataset) / (30 * epochs))
        times["plain"].append(seconds(plain, full, dataset, chosen) / (len(chosen) * epochs))
    return {side: 1e3 * statistics.median(found) for side, found in times.items()}


def measure_costs(rounds: int) -> dict[str, float]:
    """Time of the quickstart (10 epochs) with each measure, every epoch, over its time without any; medians."""
    without = ["train.epochs=10", "claims=[]", "measure=[]"]
    bare = load_spec(ROOT / "configs" / "quickstart.yaml", without)
    dataset = load_dataset(bare.settings[0].data)
    sets = {name: [name] for name in MEASURES if name != "predictions"}  # that is for one or two features
    sets = {"default": list(DEFAULT_MEASURES), **sets}
    ratios: dict[str, list[float]] = {name: [] for name in sets}
    for _ in range(rounds):
        for name, measures in sets.items():
            options = ", ".join(f"{measure}: {{every: 1}}" for measure in measures)
            spec = load_spec(ROOT / "configs" / "quickstart.yaml", [*without[:2], f"measure={{{options}}}"])
            alone = seconds(stacked, bare, dataset)  # beside each: the machine's speed drifts
            ratios[name].append(seconds(stacked, spec, dataset) / alone)
    return {name: statistics.median(found) for name, found in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, default=MNIST, help="folder with MNIST's IDX files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(STUDIES), help="which studies")
    parser.add_argument("--measures", action="store_true", help="instead: what each measure costs on the quickstart")
    parser.add_argument("--json", type=Path, help="also write the table here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measures:
        for name, ratio in measure_costs(arguments.rounds).items():
            print(f"{name:12} {ratio:6.2f} × the time without measures", flush=True)
        return
    names = [name for name in STUDIES if name in arguments.only and (name != "mnist" or arguments.mnist.exists())]
    print(f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, one thread; ms per run and epoch")
    print(f"{'study':8} {'bnexp':>8} {'bare':>8} {'plain':>8} {'plain/bnexp':>12} {'bnexp/bare':>11}")
    table = {}
    for name in names:
        found = table[name] = measure(name, arguments.mnist, arguments.rounds)
        ratio, cost = found["plain"] / found["bnexp"], found["bnexp"] / found["bare"]
        print(
            f"{name:8} {found['bnexp']:8.2f} {found['bare']:8.2f} {found['plain']:8.2f} {ratio:12.1f} {cost:11.2f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
