"""The peer "plain": the PyTorch loop a user would write, one network after the other.

    python plain.py STUDY.npz OUT --hidden 64 --batch 32 --epochs 100 --seeds 10 [--threads 1]

Batches are slices of tensors that are shuffled once an epoch; there is no DataLoader and no ``.item()`` inside an
epoch. STUDY.npz holds train_x, train_t, test_x, test_t. Written to OUT, at the start and after each epoch: curves.csv
(loss and accuracy, over the minibatches and on the test rows) and activations.csv (mean and SD of both layers'
pre-activations on 128 training rows).
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("study", type=Path)
parser.add_argument("out", type=Path)
parser.add_argument("--device", default="cpu")
for name, default in (("hidden", 64), ("batch", 32), ("epochs", 1), ("seeds", 1), ("threads", 1)):
    parser.add_argument(f"--{name}", type=int, default=default)
arguments = parser.parse_args()
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(arguments.threads)))

import numpy as np
import torch

torch.set_num_threads(arguments.threads)
NORMS = ("none", "standardize", "full")
LR, PROBE = 0.1, 128


def network(norm: str, n_in: int, hidden: int, n_out: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for width in (n_in, hidden):
        layers.append(torch.nn.Linear(width, hidden, bias=norm == "none"))
        if norm != "none":
            layers.append(torch.nn.BatchNorm1d(hidden, affine=norm == "full"))
        layers.append(torch.nn.Sigmoid())
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden, n_out))


@torch.no_grad()
def look(module, epoch, trained, label, curves, activations, probe, test_x, test_t) -> None:
    """Evaluate on the test rows; read the pre-activations of the probe rows, normed by their own statistics."""
    module.eval()
    out = module(test_x)
    loss = torch.nn.functional.cross_entropy(out, test_t).item()
    curves.append([*label, epoch, *trained, loss, (out.argmax(1) == test_t).float().mean().item()])
    x, layer = probe, 0
    for part in module:
        if isinstance(part, torch.nn.Linear):
            x, layer = part(x), layer + 1
            activations.append([*label, epoch, layer, x.mean(0).mean().item(), x.std(0, correction=0).mean().item()])
        elif isinstance(part, torch.nn.BatchNorm1d):
            x = torch.nn.functional.batch_norm(x, None, None, part.weight, part.bias, True)
        else:
            x = part(x)


def train(norm: str, seed: int, data: dict[str, torch.Tensor], curves: list, activations: list) -> None:
    torch.manual_seed(seed)
    x, t = data["train_x"], data["train_t"]
    module = network(norm, x.shape[1], arguments.hidden, int(t.max()) + 1).to(x.device)
    optimizer = torch.optim.SGD(module.parameters(), lr=LR)
    probe = x[np.linspace(0, len(x) - 1, PROBE).astype(int)]
    steps = len(x) // arguments.batch
    seen = (norm, seed), curves, activations, probe, data["test_x"], data["test_t"]
    look(module, 0, ["", ""], *seen)
    for epoch in range(1, arguments.epochs + 1):
        module.train()
        order = torch.randperm(len(x), device=x.device)
        shuffled, targets = x[order], t[order]
        total = torch.zeros((), device=x.device)
        correct = torch.zeros((), dtype=torch.int64, device=x.device)
        for start in range(0, len(x) - arguments.batch + 1, arguments.batch):
            goals = targets[start : start + arguments.batch]
            out = module(shuffled[start : start + arguments.batch])
            loss = torch.nn.functional.cross_entropy(out, goals)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            correct += (out.detach().argmax(1) == goals).sum()
        look(module, epoch, [total.item() / steps, correct.item() / (steps * arguments.batch)], *seen)


def main() -> None:
    data = {name: torch.from_numpy(array).to(arguments.device) for name, array in np.load(arguments.study).items()}
    curves: list = [["norm", "seed", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]]
    activations: list = [["norm", "seed", "epoch", "layer", "mean", "sd"]]
    for norm in NORMS:
        for seed in range(arguments.seeds):
            train(norm, seed, data, curves, activations)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("curves", curves), ("activations", activations)):
        with (arguments.out / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


main()
