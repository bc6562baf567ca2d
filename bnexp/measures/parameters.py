"""Parameters per layer: their norms, and how the epoch's last step moved them.

Of a step w ← w′ with gradient g and learning rate lr, per row w_u of a weight matrix (the weights into unit u), summed
in float64, then averaged over rows:

- cosine: |⟨w_u, g_u⟩|/(‖w_u‖‖g_u‖). Before a norm that divides by the unit's SD the loss does not depend on ‖w_u‖, so
  w_u ⟂ g_u and the cosine is 0 up to ε;
- effective learning rate: lr/‖w_u‖² (van Laarhoven 2017): such a unit's direction moves as if its weights had length 1;
- growth residual: Σ_u|‖w′_u‖² − ‖w_u‖² − lr²‖g_u‖²| / Σ_u lr²‖g_u‖². By Pythagoras it is 0 where w_u ⟂ g_u (Arora, Li &
  Lyu 2018). Only for plain SGD: without momentum, without decay, and with all weights trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array, library, on_cpu, widened
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, LastStep, Measure, Reading, Record, where_they_exist
from bnexp.plan import Run

SMALL_GAMMA = 0.01  # |γ| below this: the unit is all but switched off

_STEP = "the epoch's last step"
TABLE = Table(
    "parameters",
    (LAYER,),
    (
        Column("weight_norm", "weight", "Frobenius norm ‖W‖ of the weight matrix", log=True),
        Column("bias_norm", "weight", "Euclidean norm of the bias, where there is one", log=True),
        Column("gamma_norm", "1", "Euclidean norm of γ, where it is learned", log=True),
        Column("beta_norm", "activation", "Euclidean norm of β, where it is learned", log=True),
        Column(
            "gradient_norm",
            "loss/weight",
            f"‖∂loss/∂W‖ at {_STEP}; empty at epoch 0, as all that follow but one",
            log=True,
        ),
        Column("small_gamma", "share", f"units with |γ| < {SMALL_GAMMA}, where γ is learned; at epoch 0 too"),
        Column("update_norm", "weight", f"‖ΔW‖ of {_STEP}", log=True),
        Column("weight_gradient_cosine", "1", f"mean over rows w of W of |cos(w, ∂loss/∂w)| at {_STEP}"),
        Column("effective_lr", "1/weight²", f"mean over rows w of W of lr/‖w‖², before {_STEP}", log=True),
        Column(
            "growth_residual",
            "1",
            "Σ|‖w′‖² − ‖w‖² − lr²‖∂loss/∂w‖²| over Σ lr²‖∂loss/∂w‖² over rows w of W, w′ the next; plain SGD only",
            log=True,
        ),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per layer; runs that differ in what exists come in separate records."""
    missing = [_missing(run) for run in reading.runs]
    for layer in range(1, reading.structure.n_layers + 1):
        found = {"weight_norm": norm(reading.parameters[f"weight{layer}"])}
        for name in ("bias", "gamma", "beta"):
            if f"{name}{layer}" in reading.parameters:
                found[f"{name}_norm"] = norm(reading.parameters[f"{name}{layer}"])
        if reading.last is not None:
            found["gradient_norm"] = norm(reading.last.gradients[f"weight{layer}"])
        if f"gamma{layer}" in reading.parameters:
            found["small_gamma"] = (abs(on_cpu(reading.parameters[f"gamma{layer}"])) < SMALL_GAMMA).mean(-1)
        if reading.last is not None:
            found |= step_columns(reading.last, reading.parameters, layer)
        yield from where_they_exist("parameters", (str(layer),), found, missing)


def step_columns(step: LastStep, after: Mapping[str, Array], layer: int) -> dict[str, Array]:
    """The columns that a step gives for a layer, each [run], float64."""
    name = f"weight{layer}"
    length, slope, product, now, moved = row_sums(step.before[name], step.gradients[name], after[name])
    step_length = on_cpu(step.lr).astype(np.float64)[:, None]
    growth = step_length * step_length * slope
    return {
        "update_norm": np.sqrt(moved.sum(-1)),
        "weight_gradient_cosine": (abs(product) / np.sqrt(length * slope)).mean(-1),
        "effective_lr": (step_length / length).mean(-1),
        "growth_residual": abs(now - length - growth).sum(-1) / growth.sum(-1),
    }


def row_sums(before: Array, gradient: Array, after: Array) -> np.ndarray[Any, Any]:
    """‖w‖², ‖g‖², ⟨w, g⟩, ‖w′‖² and ‖w′ − w‖² of each row: [5, run, row], float64."""
    if not (kernels.AVAILABLE and isinstance(before, np.ndarray)):
        return row_sums_by_torch(before, gradient, after)
    found = np.empty((*before.shape[:2], 5))
    kernels.step_sums(before, gradient, after, found)
    return np.moveaxis(found, -1, 0)


def row_sums_by_torch(before: Array, gradient: Array, after: Array) -> np.ndarray[Any, Any]:
    """What ``row_sums`` computes, an operation at a time: its twin, and the way of other devices."""
    w, g, v = (widened(torch.as_tensor(x)) for x in (before, gradient, after))
    pairs = ((w, w), (g, g), (w, g), (v, v), (v - w, v - w))
    return np.stack([on_cpu((a * b).sum(-1)) for a, b in pairs])


def norm(parameter: Array) -> Array:
    """Euclidean norm of each run's numbers, shape [run]."""
    flat = parameter.reshape(len(parameter), -1)
    return library(flat).sqrt((flat * flat).sum(-1))


def is_plain_sgd(run: Run) -> bool:
    """Whether a run's step is w − lr·∂loss/∂w, for every weight."""
    train = run.setting.train
    return train.optimizer == "sgd" and not train.momentum and not train.weight_decay and train.only == "all"


def _missing(run: Run) -> frozenset[str]:
    """Columns that do not exist for a run."""
    exists = {
        "gamma_norm": run.switches.gamma,
        "small_gamma": run.switches.gamma,
        "beta_norm": run.switches.beta,
        "growth_residual": is_plain_sgd(run),
    }
    return frozenset(name for name, there in exists.items() if not there)


PARAMETERS = Measure("parameters", (TABLE,), read, needs_last_step=True, by_arrays=True)
