"""Norms of the parameters, per layer, and the gradient norm of the epoch's last minibatch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bnexp.layout import Column, Table
from bnexp.measures.base import Measure, Reading, Record

TABLE = Table(
    "parameters",
    (Column("layer", "", "weight layer, from 1; the last is the output"),),
    (
        Column("weight_norm", "weight", "Frobenius norm ‖W‖ of the weight matrix", log=True),
        Column("bias_norm", "weight", "Euclidean norm of the bias, where there is one", log=True),
        Column("gamma_norm", "1", "Euclidean norm of γ, where it is learned", log=True),
        Column("beta_norm", "activation", "Euclidean norm of β, where it is learned", log=True),
        Column("gradient_norm", "loss/weight", "‖∂loss/∂W‖ on the epoch's last minibatch; empty at epoch 0", log=True),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per layer; runs that differ in what exists come in separate records."""
    kinds = sorted({(run.switches.gamma, run.switches.beta) for run in reading.runs})
    for layer in range(1, reading.structure.n_layers + 1):
        found = {"weight_norm": norm(reading.parameters[f"weight{layer}"])}
        for name in ("bias", "gamma", "beta"):
            if f"{name}{layer}" in reading.parameters:
                found[f"{name}_norm"] = norm(reading.parameters[f"{name}{layer}"])
        if reading.gradients is not None:
            found["gradient_norm"] = norm(reading.gradients[f"weight{layer}"])
        for gamma, beta in kinds:
            missing = _missing(gamma, beta)
            columns = [name for name in found if name not in missing]
            present = [(run.switches.gamma, run.switches.beta) == (gamma, beta) for run in reading.runs]
            values = torch.stack([found[name] for name in columns], 1)
            yield Record("parameters", (str(layer),), tuple(columns), values, present)


def norm(parameter: Tensor) -> Tensor:
    """Euclidean norm of each run's numbers, shape [run]."""
    flat = parameter.flatten(1)
    return (flat * flat).sum(-1).sqrt()


def _missing(gamma: bool, beta: bool) -> set[str]:
    return {name for name, learned in (("gamma_norm", gamma), ("beta_norm", beta)) if not learned}


PARAMETERS = Measure("parameters", (TABLE,), read)
