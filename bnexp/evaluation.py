"""Loss and accuracy of trained networks on given rows, and the statistics to evaluate with.

Rows are evaluated in fixed chunks and, on a CPU, a few runs at a time, so that what is at work stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnexp.arrays import Array, library, on_cpu, over_samples, quiet, widened
from bnexp.network import Parameters, forward, losses
from bnexp.norms import Statistics
from bnexp.plan import Structure

CHUNK = 500  # rows
DEVICE_CHUNK = 5000  # elsewhere than on a CPU, where launching costs more than memory
TOGETHER = 4  # runs evaluated at once on a CPU: more fall out of the cache, fewer cost calls


class Evaluation(NamedTuple):
    """Mean loss [run] and accuracy or R² [run], NumPy arrays; predicted classes or values [run, sample], where x is."""

    loss: np.ndarray[Any, Any]
    score: np.ndarray[Any, Any]
    predictions: Array


def evaluate(
    parameters: Parameters,
    given: Sequence[Statistics] | None,
    x: Array,
    targets: Array,
    structure: Structure,
) -> Evaluation:
    """Evaluate every run on rows x [sample, in] with targets [sample] or [run, sample].

    ``given``: the statistics that norms use; None: those of each chunk. R² = 1 − Σ(prediction − target)²/Σ(target −
    mean target)² over these rows.
    """
    targets = library(targets).broadcast_to(targets, (len(parameters["weight1"]), len(x)))
    with quiet():
        groups = list(_groups(parameters, given))
        # Statistics of a chunk are those of CHUNK rows everywhere.
        size = CHUNK if given is None or isinstance(x, np.ndarray) else DEVICE_CHUNK
        chunks = [_chunk(groups, x, targets, slice(at, at + size), structure) for at in range(0, len(x), size)]
        loss, predictions = (_joined(parts, -1) for parts in zip(*chunks, strict=True))
        loss = widened(loss)
        if structure.shape.task == "classification":
            score = on_cpu((predictions == targets).sum(-1)) / len(x)
        else:
            goals = widened(targets)  # rows of one run one after the other, whatever the stack
            spread = goals - goals.mean(-1)[:, None]
            score = on_cpu(1 - loss.sum(-1) / (spread * spread).sum(-1))
        return Evaluation(on_cpu(loss.mean(-1)), score, predictions)


def outputs(parameters: Parameters, given: Sequence[Statistics], x: Array, structure: Structure) -> Array:
    """Logits of every run [run, out, sample] on rows x [sample, in], by the given statistics."""
    with quiet():
        groups = _groups(parameters, given)
        return _joined([forward(own, x.T[None], structure, statistics).logits for _, own, statistics in groups], 0)


def population_statistics(parameters: Parameters, x: Array, structure: Structure) -> list[Statistics]:
    """Ioffe & Szegedy's Alg. 2: means over one pass of the training rows, in stored order and full batches.

    E[x] ← mean of the batch means; Var[x] ← m/(m − 1) · mean of the biased batch variances, m the batch size.
    """
    if not structure.normalizes:
        return []
    size = structure.batch_size
    starts = range(0, len(x) - size + 1, size)
    found: list[list[Statistics]] = []
    with quiet():
        for _, own, _ in _groups(parameters, None):
            batches = [forward(own, x[s : s + size].T[None], structure).statistics for s in starts]
            found.append([_population(layer, size) for layer in zip(*batches, strict=True)])
    return [
        Statistics(*(_joined(parts, 0) for parts in zip(*layer, strict=True))) for layer in zip(*found, strict=True)
    ]


def _population(batches: Sequence[Statistics], size: int) -> Statistics:
    """Alg. 2's E[x] and Var[x] of a layer from the statistics of its batches."""
    stack = library(batches[0].mean).stack
    mean, variance = (over_samples(stack(parts, -1)) / len(batches) for parts in zip(*batches, strict=True))
    return Statistics(mean, variance * (size / (size - 1)))


def probe_rows(n_train: int, probe: int) -> list[int]:
    """Indices of the probe set: ``probe`` training rows, evenly spaced in stored order; all if there are fewer."""
    count = min(probe, n_train)
    return [int(index) for index in np.arange(count) * n_train // count]


def _joined(parts: Sequence[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else library(parts[0]).concatenate(parts, axis)


def _groups(
    parameters: Parameters, given: Sequence[Statistics] | None
) -> Iterator[tuple[slice, Parameters, list[Statistics] | None]]:
    """Runs that are evaluated together: a few on a CPU, all at once elsewhere."""
    n_runs = parameters["weight1"].shape[0]
    together = TOGETHER if isinstance(parameters["weight1"], np.ndarray) else n_runs
    for start in range(0, n_runs, together):
        here = slice(start, start + together)
        statistics = None if given is None else [Statistics(s.mean[here], s.variance[here]) for s in given]
        yield here, {name: array[here] for name, array in parameters.items()}, statistics


def _chunk(
    groups: Sequence[tuple[slice, Parameters, list[Statistics] | None]],
    x: Array,
    targets: Array,
    here: slice,
    structure: Structure,
) -> tuple[Array, Array]:
    """Losses and predictions of all runs on a chunk of rows, [run, sample]."""
    rows = x[here].T
    if isinstance(rows, np.ndarray):  # copied once for all runs: BLAS is a quarter faster on columns
        rows = np.ascontiguousarray(rows)
    found = []
    for runs, own, statistics in groups:
        logits = forward(own, rows[None], structure, statistics).logits
        classes = structure.shape.task == "classification"
        predictions = library(logits).argmax(logits, 1) if classes else logits[:, 0]
        found.append((losses(logits, targets[runs, here], structure), predictions))
    return _joined([loss for loss, _ in found], 0), _joined([predicted for _, predicted in found], 0)
