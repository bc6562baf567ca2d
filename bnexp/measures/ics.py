"""Internal covariate shift, as Santurkar et al. 2018 define it (Def. 2.1): what the layers below do to a gradient.

Just before the first step of epoch e (the weights are those after e − 1 epochs), on the minibatch of that step, with
its noise and ghosts, for each layer l, the output included:

- G = ∂loss/∂W_l [out, in] at the current parameters, whether they are trained or not;
- G′ = the same after all parameters of layers 1..l−1 (weights, biases, γ, β; those of a norm belong to its layer) took
  the step that the optimizer is about to take: its momentum or moments, decay and masks included. Layers l.. stay.

difference ‖G − G′‖, relative ‖G − G′‖/‖G‖, cosine ⟨G, G′⟩/(‖G‖‖G′‖), over all entries, summed in float64. Nothing lies
below layer 1: its difference is 0, its relative 0, its cosine 1, by definition.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnexp.gradients import loss_and_gradients
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, Measure, NextStep, Record
from bnexp.measures.parameters import norm
from bnexp.network import Gradients, Parameters

if TYPE_CHECKING:
    from torch import Tensor

_WHEN = "before the epoch's first step (weights after epoch − 1 epochs), on its minibatch"
TABLE = Table(
    "ics",
    (LAYER,),
    (
        Column(
            "difference",
            "loss/weight",
            f"‖G − G′‖, G = ∂loss/∂W, G′ after the layers below took the optimizer's next step, {_WHEN}; 0 in layer 1",
            log=True,
        ),
        Column("relative", "1", f"‖G − G′‖/‖G‖, {_WHEN}; 0 in layer 1", log=True),
        Column("cosine", "1", f"cos(G, G′), {_WHEN}; 1 in layer 1"),
    ),
    first_epoch=1,
)


def read_step(step: NextStep) -> Iterator[Record]:
    """Yield one row per layer."""
    mixed = dict(step.parameters)
    now = loss_and_gradients(mixed, step.batch, step.structure)
    moved = after_the_step(step, now)
    values = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=now.loss.device).expand(len(step.runs), 3)
    yield Record("ics", ("1",), TABLE.names, values)
    for layer in range(2, step.structure.n_layers + 1):
        below = [f"{kind}{layer - 1}" for kind in ("weight", "bias", "gamma", "beta")]
        mixed |= {name: moved[name] for name in below if name in moved}
        then = loss_and_gradients(mixed, step.batch, step.structure)
        yield Record("ics", (str(layer),), TABLE.names, compare(now, then, f"weight{layer}"))


def after_the_step(step: NextStep, now: Gradients) -> Parameters:
    """All parameters as the optimizer would leave them, by its own rule, on copies of all that it changes."""
    moved = {name: tensor.clone() for name, tensor in step.parameters.items()}
    state = {name: tensor.clone() for name, tensor in step.state.items()}
    lr = torch.where(now.loss.isfinite(), step.lr, math.nan)  # as in training: such a run stops here
    step.optimizer.update(moved, now.gradients, state, step.knobs, lr)
    return moved


def compare(now: Gradients, then: Gradients, name: str) -> Tensor:
    """The three columns of a layer, [run, 3]."""
    before, after = now.gradients[name].double(), then.gradients[name].double()
    difference, size = norm(after - before), norm(before)
    cosine = (before * after).flatten(1).sum(-1) / (size * norm(after))
    return torch.stack([difference, difference / size, cosine], 1)


ICS = Measure("ics", (TABLE,), read_step=read_step)
