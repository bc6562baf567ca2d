"""How smooth the loss is along the gradient: a walk from one point (Santurkar et al. 2018, App. A.2.2 and Fig. 4).

Just before the first step of epoch e (the weights are those after e − 1 epochs), on the minibatch of that step, by
batch statistics, with its noise and ghosts: w are the parameters that the run trains, all together, and g = ∇L(w) the
plain gradient of the loss, without decay, whatever the optimizer makes of it. The walk visits w − ηg at the eight step
lengths

    η_k = c_k · h,   c_k = ½ · 8^(k/7), k = 0..7, log-spaced in [½, 4]

with h = lr (step rule ``lr``), or, where the option ``relative`` is r > 0, also with h = r·‖W‖/‖g_W‖ (step rule
``relative``), W the trained weights of all matrices together and g_W their gradient: the weights then move by c_k·r of
their own length, however a norm scales them; biases, γ and β move by the same η. Columns:

- loss L(w); loss_min, loss_max: the least and the greatest L(w − ηg) of the eight;
- gradient_norm ‖g‖; gradient_change_min, gradient_change_max: of ‖∇L(w) − ∇L(w − ηg)‖;
- effective_smoothness: max over η of ‖∇L(w) − ∇L(w − ηg)‖/(η‖g‖), the gradient's change per distance moved.

Norms are Euclidean, summed in float64. What overflows at the end of a step is inf. g = 0 gives no smoothness, and
g_W = 0 no step by the rule ``relative``: nan. A run with ``train.only`` norm trains no weights and has no row
``relative``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnexp.gradients import loss_and_gradients
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import Measure, NextStep, Record
from bnexp.network import Gradients, Parameters

if TYPE_CHECKING:
    from torch import Tensor

LENGTHS = tuple(0.5 * 8 ** (k / 7) for k in range(8))  # c_k; the paper's range, [1/2, 4] times lr

_EIGHT = "of the eight step lengths η in [1/2, 4] times h along −g, g = ∇L(w)"
TABLE = Table(
    "landscape",
    (
        Column(
            "step_rule",
            "",
            "what h is: lr, or relative: r·‖W‖/‖∂loss/∂W‖ over all trained weights together",
            values=("lr", "relative"),
        ),
    ),
    (
        Column("loss", "nats or squared SDs", "L(w) before the epoch's first step, on its minibatch", log=True),
        Column("loss_min", "nats or squared SDs", f"least L(w − ηg) {_EIGHT}", log=True),
        Column("loss_max", "nats or squared SDs", f"greatest L(w − ηg) {_EIGHT}", log=True),
        Column("gradient_norm", "loss/parameter", "‖g‖ over all trained parameters", log=True),
        Column("gradient_change_min", "loss/parameter", f"least ‖∇L(w) − ∇L(w − ηg)‖ {_EIGHT}", log=True),
        Column("gradient_change_max", "loss/parameter", f"greatest ‖∇L(w) − ∇L(w − ηg)‖ {_EIGHT}", log=True),
        Column(
            "effective_smoothness",
            "loss/parameter²",
            f"greatest ‖∇L(w) − ∇L(w − ηg)‖/(η‖g‖) {_EIGHT}; nan where g = 0",
            log=True,
        ),
    ),
    first_epoch=1,
)


def read_step(step: NextStep) -> Iterator[Record]:
    """Yield one row by the learning rate, and one by the weights' norm if that is asked for."""
    here = loss_and_gradients(dict(step.parameters), step.batch, step.structure)
    gradient = trained(here.gradients, step)
    yield Record("landscape", ("lr",), TABLE.names, walk(step, here.loss, gradient, step.lr))
    if step.options["relative"]:
        weights = {name: tensor for name, tensor in step.parameters.items() if name.startswith("weight")}
        ratio = length(trained(weights, step)) / length({name: gradient[name] for name in weights})
        h = (step.options["relative"] * ratio).to(here.loss)
        present = [run.setting.train.only != "norm" for run in step.runs]
        yield Record("landscape", ("relative",), TABLE.names, walk(step, here.loss, gradient, h), present)


def walk(step: NextStep, loss: Tensor, gradient: Parameters, h: Tensor) -> Tensor:
    """The columns [run, column] of a walk along −gradient with η = c·h, h [run]."""
    size = length(gradient)
    losses, changes, distances = [], [], []
    for factor in LENGTHS:
        eta = factor * h
        there = arrive(step, gradient, eta)
        after = trained(there.gradients, step)
        losses.append(there.loss.double())
        changes.append(length({name: after[name].double() - before.double() for name, before in gradient.items()}))
        distances.append(eta.double() * size)
    distance = torch.stack(distances, -1)
    level, change = _overflown(torch.stack(losses, -1), distance), _overflown(torch.stack(changes, -1), distance)
    columns = [loss.double(), level.amin(-1), level.amax(-1), size, change.amin(-1), change.amax(-1)]
    return torch.stack([*columns, (change / distance).amax(-1)], 1)


def arrive(step: NextStep, gradient: Parameters, eta: Tensor) -> Gradients:
    """Loss and gradients at w − ηg, η [run]."""
    there = {
        name: parameter - eta.view(-1, *[1] * (parameter.dim() - 1)) * gradient[name]
        for name, parameter in step.parameters.items()
    }
    return loss_and_gradients(there, step.batch, step.structure)


def trained(parts: Mapping[str, Tensor], step: NextStep) -> Parameters:
    """The same numbers, 0 where a run does not train them; a product with the mask would keep what is not finite."""
    masks = step.knobs.masks
    return {name: part.masked_fill(masks[name] == 0, 0) if name in masks else part for name, part in parts.items()}


def length(parts: Mapping[str, Tensor]) -> Tensor:
    """Euclidean norm over all parts together, [run], float64."""
    squares = [(flat * flat).sum(-1) for flat in (part.double().flatten(1) for part in parts.values())]
    # One after the other: γ and β that only a neighbour learns then add an exact zero.
    return functools.reduce(torch.add, squares).sqrt()


def _overflown(found: Tensor, distance: Tensor) -> Tensor:
    """inf − inf at the end of a finite step is an overflow; nan only where there was no step."""
    return torch.where(found.isnan() & distance.isfinite(), math.inf, found)


LANDSCAPE = Measure("landscape", (TABLE,), read_step=read_step)
