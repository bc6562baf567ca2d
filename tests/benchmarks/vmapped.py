"""The peer "vmapped": JAX, ``jit(vmap(scan))`` over all runs, compile included.

    python vmapped.py STUDY.npz OUT --hidden 64 --batch 32 --epochs 100 --seeds 10 [--devices 2]

The whole training of all runs of a program is one compiled call: a scan over epochs, in it a scan over steps,
evaluation and readings inside; one transfer at the end. There are two programs, without and with a norm; in the second,
runs that learn no γ, β have their updates masked. Runs of a seed share their rows. ``--devices 2`` splits the runs over
that many host devices, so that every core works; with 1, XLA's own threads use the cores. Input and output: plain.py's.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("study", type=Path)
parser.add_argument("out", type=Path)
for name, default in (("hidden", 64), ("batch", 32), ("epochs", 1), ("seeds", 1), ("devices", 1)):
    parser.add_argument(f"--{name}", type=int, default=default)
arguments = parser.parse_args()
os.environ["JAX_PLATFORMS"] = "cpu"
if arguments.devices > 1:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={arguments.devices}"

import jax
import jax.numpy as jnp
import numpy as np

LR, PROBE, EPS, MOMENTUM = 0.1, 128, 1e-5, 0.1


def forward(p, x, normed, running=None):
    """Logits, pre-activations and batch statistics; x [sample, in]."""
    pre, statistics = [], []
    for layer in ("1", "2"):
        a = x @ p["w" + layer] + (0 if normed else p["b" + layer])
        pre.append(a)
        if normed:
            mean, variance = (a.mean(0), a.var(0)) if running is None else running[int(layer) - 1]
            statistics.append((mean, variance))
            a = (a - mean) * (p["g" + layer] * jax.lax.rsqrt(variance + EPS)) + p["c" + layer]
        x = jax.nn.sigmoid(a)
    return x @ p["w3"] + p["b3"], pre, statistics


def loss_of(logits, t):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), t[:, None], 1).mean()


def trainer(data, normed):
    """A function (parameters, mask of γ and β, row order [epoch, step, batch]) → readings [epoch, …], of one run."""
    train_x, train_t, test_x, test_t = (data[name] for name in ("train_x", "train_t", "test_x", "test_t"))
    probe = train_x[np.linspace(0, len(train_x) - 1, PROBE).astype(int)]

    def objective(p, x, t):
        logits, _, statistics = forward(p, x, normed)
        return loss_of(logits, t), (statistics, (logits.argmax(1) == t).mean())

    def step(carry, rows):
        p, running, mask = carry
        found, gradients = jax.value_and_grad(objective, has_aux=True)(p, train_x[rows], train_t[rows])
        loss, (statistics, accuracy) = found
        p = {name: value - LR * gradients[name] * (mask if name[0] in "gc" else 1) for name, value in p.items()}
        n = rows.shape[0]
        running = [
            (m + MOMENTUM * (bm - m), v + MOMENTUM * (bv * (n / (n - 1)) - v))
            for (m, v), (bm, bv) in zip(running, statistics, strict=True)
        ]
        return (p, running, mask), jnp.stack([loss, accuracy])

    def look(p, running, trained):
        logits, _, _ = forward(p, test_x, normed, running if normed else None)
        _, pre, _ = forward(p, probe, normed)
        read = [part for a in pre for part in (a.mean(0).mean(), a.std(0).mean())]
        return jnp.stack([*trained, loss_of(logits, test_t), (logits.argmax(1) == test_t).mean(), *read])

    def epoch(carry, orders):
        carry, trained = jax.lax.scan(step, carry, orders)
        return carry, look(*carry[:2], trained.mean(0))

    def train(p, mask, orders):
        hidden = p["w2"].shape[0]
        running = [(jnp.zeros(hidden), jnp.ones(hidden))] * 2 if normed else []
        _, later = jax.lax.scan(epoch, (p, running, mask), orders)
        return jnp.concatenate([look(p, running, jnp.full(2, jnp.nan))[None], later])

    return train


def initial(seed, widths, normed):
    generator = np.random.default_rng(seed)
    p = {}
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(widths), start=1):
        bound = n_in**-0.5
        p[f"w{layer}"] = generator.uniform(-bound, bound, (n_in, n_out)).astype(np.float32)
        if not normed or layer == len(widths) - 1:
            p[f"b{layer}"] = generator.uniform(-bound, bound, n_out).astype(np.float32)
        else:
            p[f"g{layer}"], p[f"c{layer}"] = np.ones(n_out, np.float32), np.zeros(n_out, np.float32)
    return p


def main() -> None:
    arrays = dict(np.load(arguments.study))
    data = {
        name: jnp.asarray(array if array.dtype == np.float32 else array.astype(np.int32))
        for name, array in arrays.items()
    }
    n = len(arrays["train_x"])
    steps, seeds = n // arguments.batch, range(arguments.seeds)
    widths = [arrays["train_x"].shape[1], arguments.hidden, arguments.hidden, int(arrays["train_t"].max()) + 1]
    used = steps * arguments.batch
    orders = (
        np.stack(
            [
                np.stack(
                    [np.random.default_rng([seed, epoch]).permutation(n)[:used] for epoch in range(arguments.epochs)]
                )
                for seed in seeds
            ]
        )
        .astype(np.int32)
        .reshape(arguments.seeds, arguments.epochs, steps, arguments.batch)
    )
    mesh = jax.make_mesh((arguments.devices,), ("run",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("run"))
    curves, activations = (
        [["norm", "seed", "epoch", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]],
        [["norm", "seed", "epoch", "layer", "mean", "sd"]],
    )
    for norms in (("none",), ("standardize", "full")):
        normed = "full" in norms
        starts = [initial(seed, widths, normed) for seed in seeds]
        stacked = {name: np.stack([start[name] for start in starts]) for name in starts[0]}
        masks = np.array([float(norm == "full") for norm in norms], np.float32)
        # Over seeds outside (rows are shared), over norms inside.
        run = jax.vmap(jax.vmap(trainer(data, normed), in_axes=(None, 0, None)), in_axes=(0, None, 0))
        placed, placed_orders = jax.device_put((stacked, orders), split)
        found = np.asarray(jax.jit(run)(placed, masks, placed_orders))
        for place, norm in enumerate(norms):
            for seed in seeds:
                for epoch, row in enumerate(found[seed, place].tolist()):
                    curves.append([norm, seed, epoch, *row[:4]])
                    activations += [[norm, seed, epoch, layer, *row[2 + 2 * layer : 4 + 2 * layer]] for layer in (1, 2)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("curves", curves), ("activations", activations)):
        with (arguments.out / f"{name}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)


main()
