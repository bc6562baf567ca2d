"""Update rules as pairs of functions, with one learning rate per run.

``init(parameters) -> state`` and ``update(parameters, gradients, state, knobs, lr)``; parameters and state change in
place, and no run's update reads another's numbers. Plain products and sums only, for NumPy arrays and tensors alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnexp.arrays import Array, library, per_run, put, subtract_scaled
from bnexp.network import Parameters
from bnexp.plan import Run, Structure
from bnexp.trained import trained_masks

State = dict[str, Array]


class Knobs(NamedTuple):
    """What an update needs to know of each run, as arrays of shape [run].

    ``masks``: for parameters that some run does not train, 1 where it is trained, else 0; it broadcasts to the
    parameter. Parameters that all runs train have none.
    """

    momentum: Array
    weight_decay: Array
    norm_decay: Array
    adam_eps: Array
    masks: Mapping[str, Array]
    # Whether any run of the stack uses the knob; leaving out a product with 0 or 1 changes no bit.
    any_momentum: bool
    any_weight_decay: bool
    any_norm_decay: bool


class Optimizer(NamedTuple):
    """An update rule: two functions that know nothing but their arguments."""

    init: Callable[[Parameters], State]
    update: Callable[[Parameters, Parameters, State, Knobs, Array], None]


def make_knobs(structure: Structure, runs: Sequence[Run], dtype: str, device: str) -> Knobs:
    """Collect the runs' knobs into tensors."""
    train = [run.setting.train for run in runs]

    def column(values: Sequence[float]) -> Array:
        return put(np.array(values, dtype), device)

    masks = {name: put(mask.astype(dtype), device) for name, mask in trained_masks(structure, runs).items()}
    return Knobs(
        column([t.momentum for t in train]),
        column([t.weight_decay for t in train]),
        column([t.norm_decay for t in train]),
        column([t.adam_eps for t in train]),
        masks,
        any(t.momentum for t in train),
        any(t.weight_decay for t in train),
        any(t.norm_decay for t in train),
    )


def make_optimizer(structure: Structure) -> Optimizer:
    """The optimizer that a structure names."""
    if structure.optimizer == "sgd":
        return _sgd(structure.nesterov)
    return _adam(*structure.adam_betas)


def _sgd(nesterov: bool) -> Optimizer:
    """torch.optim.SGD: v ← m·v + g; w ← w − lr·v (nesterov: lr·(g + m·v)); g includes the decay."""

    def update(parameters: Parameters, gradients: Parameters, state: State, knobs: Knobs, lr: Array) -> None:
        for name, parameter in parameters.items():
            step = _decayed(name, parameter, gradients[name], knobs)
            if knobs.any_momentum:
                velocity, momentum = state[name], per_run(knobs.momentum, parameter)
                velocity *= momentum
                velocity += step
                step = step + momentum * velocity if nesterov else velocity
            subtract_scaled(parameter, lr, step)

    return Optimizer(lambda parameters: {name: library(p).zeros_like(p) for name, p in parameters.items()}, update)


def _adam(decay1: float, decay2: float) -> Optimizer:
    """torch.optim.Adam (Kingma & Ba 2015, Alg. 1), decay added to the gradient:

    m ← b₁m + (1 − b₁)g; v ← b₂v + (1 − b₂)g²; w ← w − lr/(1 − b₁ᵗ) · m / (sqrt(v)/sqrt(1 − b₂ᵗ) + ε)
    """

    def init(parameters: Parameters) -> State:
        xp = library(parameters["weight1"])
        moments = {f"{moment}.{name}": xp.zeros_like(p) for moment in "mv" for name, p in parameters.items()}
        here = {"device": parameters["weight1"].device} if _counts_there(parameters["weight1"]) else {}
        return {**moments, "t": xp.zeros((), dtype=xp.float64, **here)}

    def update(parameters: Parameters, gradients: Parameters, state: State, knobs: Knobs, lr: Array) -> None:
        state["t"] += 1
        t = state["t"] if _counts_there(lr) else state["t"].item()
        correction1, correction2 = 1 - decay1**t, (1 - decay2**t) ** 0.5
        for name, parameter in parameters.items():
            gradient = _decayed(name, parameter, gradients[name], knobs)
            m, v = state[f"m.{name}"], state[f"v.{name}"]
            m *= decay1
            m += gradient * (1 - decay1)
            v *= decay2
            v += gradient * gradient * (1 - decay2)
            denominator = library(v).sqrt(v)
            denominator /= correction2
            denominator += per_run(knobs.adam_eps, parameter)
            subtract_scaled(parameter, lr / correction1, m / denominator)

    return Optimizer(init, update)


def _counts_there(x: Array) -> bool:
    """Whether the count of steps stays where x is: a recorded CUDA graph cannot ask the host for it."""
    return not isinstance(x, np.ndarray) and x.device.type == "cuda"


def _decayed(name: str, parameter: Array, gradient: Array, knobs: Knobs) -> Array:
    """The gradient with L2 decay (weights: weight_decay; γ, β: norm_decay), zero where a number is not trained."""
    if name.startswith("weight") and knobs.any_weight_decay:
        gradient = gradient + per_run(knobs.weight_decay, parameter) * parameter
    elif name.startswith(("gamma", "beta")) and knobs.any_norm_decay:
        gradient = gradient + per_run(knobs.norm_decay, parameter) * parameter
    return gradient * knobs.masks[name] if name in knobs.masks else gradient
