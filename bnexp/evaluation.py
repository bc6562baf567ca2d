"""Loss and accuracy of trained networks on given rows, and the statistics to evaluate with.

Rows are evaluated in fixed chunks. On a CPU each run is evaluated alone: chunks are large enough for that to cost
nothing, and its numbers then cannot depend on the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bnexp.network import Parameters, forward, losses
from bnexp.norms import Statistics
from bnexp.plan import Structure

CHUNK = 1000  # rows


class Evaluation(NamedTuple):
    """Mean loss [run], accuracy or R² [run], and predicted classes or values [run, sample]."""

    loss: Tensor
    score: Tensor
    predictions: Tensor


def evaluate(
    parameters: Parameters,
    given: Sequence[Statistics] | None,
    x: Tensor,
    targets: Tensor,
    structure: Structure,
) -> Evaluation:
    """Evaluate every run on rows x [sample, in] with targets [sample] or [run, sample].

    ``given``: the statistics that norms use; None: those of each chunk. R² = 1 − Σ(prediction − target)²/Σ(target −
    mean target)² over these rows.
    """
    n_runs = parameters["weight1"].shape[0]
    targets = targets.expand(n_runs, -1)
    parts = [
        torch.cat(list(_chunks(own, statistics, x, targets[here], structure)), -1)
        for here, own, statistics in _groups(parameters, given)
    ]
    stacked = torch.cat(parts)  # [run, 2, sample]: loss and prediction
    loss, predictions = stacked[:, 0].double(), stacked[:, 1]
    if structure.shape.task == "classification":
        accuracy = (predictions == targets).sum(-1).double() / len(x)
        return Evaluation(loss.mean(-1), accuracy, predictions.long())
    spread = targets.double() - targets.double().mean(-1, keepdim=True)
    score = 1 - loss.sum(-1) / (spread * spread).sum(-1)
    return Evaluation(loss.mean(-1), score, predictions)


def outputs(parameters: Parameters, given: Sequence[Statistics], x: Tensor, structure: Structure) -> Tensor:
    """Logits of every run [run, out, sample] on rows x [sample, in], by the given statistics."""
    found = []
    for here, own, statistics in _groups(parameters, given):
        rows = x.T.expand(here.stop - here.start, -1, -1)
        found.append(forward(own, rows, structure, statistics).logits)
    return torch.cat(found)


def population_statistics(parameters: Parameters, x: Tensor, structure: Structure) -> list[Statistics]:
    """Ioffe & Szegedy's Alg. 2: means over one pass of the training rows, in stored order and full batches.

    E[x] ← mean of the batch means; Var[x] ← m/(m − 1) · mean of the biased batch variances, m the batch size.
    """
    if not structure.normalizes:
        return []
    size = structure.batch_size
    starts = range(0, len(x) - size + 1, size)
    found: list[list[Statistics]] = []
    for _, own, _ in _groups(parameters, None):
        n_runs = own["weight1"].shape[0]
        batches = [forward(own, x[s : s + size].T.expand(n_runs, -1, -1), structure).statistics for s in starts]
        found.append(
            [
                Statistics(
                    torch.stack([s.mean for s in layer], -1).mean(-1),
                    torch.stack([s.variance for s in layer], -1).mean(-1) * (size / (size - 1)),
                )
                for layer in zip(*batches, strict=True)
            ]
        )
    return [Statistics(*(torch.cat(parts) for parts in zip(*layer, strict=True))) for layer in zip(*found, strict=True)]


def probe_rows(n_train: int, probe: int) -> list[int]:
    """Indices of the probe set: ``probe`` training rows, evenly spaced in stored order; all if there are fewer."""
    count = min(probe, n_train)
    return [int(index) for index in np.arange(count) * n_train // count]


def _groups(
    parameters: Parameters, given: Sequence[Statistics] | None
) -> Iterator[tuple[slice, Parameters, list[Statistics] | None]]:
    """Runs that are evaluated together: each alone on a CPU, all at once elsewhere."""
    n_runs = parameters["weight1"].shape[0]
    together = 1 if parameters["weight1"].device.type == "cpu" else n_runs
    for start in range(0, n_runs, together):
        here = slice(start, start + together)
        statistics = None if given is None else [Statistics(s.mean[here], s.variance[here]) for s in given]
        yield here, {name: tensor[here] for name, tensor in parameters.items()}, statistics


def _chunks(
    own: Parameters, given: list[Statistics] | None, x: Tensor, targets: Tensor, structure: Structure
) -> Iterator[Tensor]:
    """Yield [run, 2, sample] for each chunk: losses and predictions."""
    n_runs = own["weight1"].shape[0]
    for start in range(0, len(x), CHUNK):
        rows = x[start : start + CHUNK].T.expand(n_runs, -1, -1)
        logits = forward(own, rows, structure, given).logits
        loss = losses(logits, targets[:, start : start + CHUNK], structure)
        predictions = logits.max(1).indices.to(loss) if structure.shape.task == "classification" else logits[:, 0]
        yield torch.stack([loss, predictions], 1)
