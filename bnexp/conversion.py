r"""The same network under another norm: exact algebra on parameters, nothing trained.

A network is its parameters (run axis first, see ``bnexp.network``), its running statistics (m, v) and its structure.

to_full, from a norm without statistics (y = γa + β; ``none`` with γ = 1, β = 0), for any given mean μ and variance σ²
of each hidden layer's a, the norm's input:

    γ′ = γ·sqrt(σ² + ε)   β′ = γμ + β   m = μ   v = σ²

``full`` has no bias b where the norm would centre it away (``Structure.has_bias``): there b is dropped and m = μ − b.
By running statistics the outputs are the same; by batch statistics where the batch has mean μ and variance σ².

to_standardize, from a norm that standardizes and learns γ, β or both ("folding"). After the activation, or where the
activation is linear, the next layer absorbs both:

    W′ = W·diag(γ)   b′ = b + Wβ        W, b of layer l + 1, γ, β of layer l

where layer l + 1 has no bias, its norm centres: Wβ is taken off its running mean instead. Before a relu, γ alone is
absorbed, whatever its sign, as relu(γâ) = |γ|·relu(±â): W′ = W·diag(|γ|), and where γ < 0 the unit's incoming weights
and its running mean change sign. Outputs are the same by running and by batch statistics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bnexp.lazy_torch import torch
from bnexp.network import Parameters
from bnexp.norms import Statistics, Switches
from bnexp.plan import Structure

if TYPE_CHECKING:
    from torch import Tensor


class Network(NamedTuple):
    """All that decides outputs. ``running``: one per hidden layer; empty for a norm without statistics."""

    parameters: Parameters
    running: Sequence[Statistics]
    structure: Structure


def to_full(network: Network, statistics: Sequence[Statistics]) -> Network:
    """A network without statistics as ``full``; ``statistics``: of each hidden norm's input, [run, unit] each."""
    old = network.structure
    if old.normalizes:
        raise ValueError("only a norm without statistics (none, affine) is rewritten as full for any statistics")
    new = dataclasses.replace(old, center=True, scale=True)
    parameters: Parameters = {}
    running = []
    for layer in range(1, old.n_layers + 1):
        parameters[f"weight{layer}"], bias = network.parameters[f"weight{layer}"], network.parameters[f"bias{layer}"]
        if new.has_bias(layer):
            parameters[f"bias{layer}"] = bias
        if layer < old.n_layers:
            mean, variance = statistics[layer - 1]
            gamma = network.parameters.get(f"gamma{layer}", torch.ones_like(mean))
            beta = network.parameters.get(f"beta{layer}", torch.zeros_like(mean))
            parameters[f"gamma{layer}"] = gamma * torch.sqrt(variance + new.eps)
            parameters[f"beta{layer}"] = gamma * mean + beta
            running.append(Statistics(mean if new.has_bias(layer) else mean - bias, variance))
    return Network(parameters, running, new)


def folds(structure: Structure, switches: Switches) -> bool:
    """Whether a norm's γ and β can be folded into the layers around it, which leaves ``standardize``."""
    if not (structure.center and structure.scale and (switches.gamma or switches.beta)):
        return False
    into_the_next = structure.placement == "post" or structure.activation == "linear"
    return into_the_next or (structure.activation == "relu" and not switches.beta)


def to_standardize(network: Network, switches: Switches) -> Network:
    """A network whose norm learns what ``switches`` say, as ``standardize``; ValueError where it does not fold."""
    structure = network.structure
    if not folds(structure, switches):
        raise ValueError(f"before {structure.activation}, standardize cannot absorb what this norm learns")
    parameters = {name: tensor for name, tensor in network.parameters.items() if not name.startswith(("gamma", "beta"))}
    running = list(network.running)
    for layer in range(1, structure.n_layers):
        if switches.beta:
            _fold_beta(parameters, running, structure, layer, network.parameters[f"beta{layer}"])
        if switches.gamma:
            gamma = network.parameters[f"gamma{layer}"]
            if structure.placement == "pre" and structure.activation == "relu":
                _flip(parameters, running, layer, gamma < 0)
                gamma = gamma.abs()
            parameters[f"weight{layer + 1}"] = parameters[f"weight{layer + 1}"] * gamma[:, None, :]
    return Network(parameters, running, structure)


def _fold_beta(
    parameters: Parameters, running: list[Statistics], structure: Structure, layer: int, beta: Tensor
) -> None:
    """Put Wβ of a layer into the next layer's bias, or off its running mean."""
    shift = (parameters[f"weight{layer + 1}"] * beta[:, None, :]).sum(-1)
    if structure.has_bias(layer + 1):
        parameters[f"bias{layer + 1}"] = parameters[f"bias{layer + 1}"] + shift
    else:
        running[layer] = running[layer]._replace(mean=running[layer].mean - shift)


def _flip(parameters: Parameters, running: list[Statistics], layer: int, flipped: Tensor) -> None:
    """Change the sign of the norm's input in the units [run, unit] that are ``flipped``."""
    weight, mean = parameters[f"weight{layer}"], running[layer - 1].mean
    parameters[f"weight{layer}"] = torch.where(flipped[:, :, None], -weight, weight)
    running[layer - 1] = running[layer - 1]._replace(mean=torch.where(flipped, -mean, mean))
