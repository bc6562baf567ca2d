"""Loss and gradients of a stack, differentiated by hand: the only seam to derivatives.

Autograd stays as the slow twin (``bnexp.network.loss_and_gradients_by_autograd``): the tests hold this file against it
for every norm, placement and activation. By hand there is no graph to build; what it saves stands in
tests/benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bnexp.network import Batch, Gradients, Parameters, Pass, forward, losses, padded
from bnexp.norms import Statistics, as_ghosts, gradient_by_batch
from bnexp.plan import Structure


def loss_and_gradients(parameters: Parameters, batch: Batch, structure: Structure) -> Gradients:
    """Each run's loss (mean over samples) on a batch, and its derivative by that run's own parameters."""
    result = _forward(parameters, batch, structure)
    gradients: Parameters = {}
    for layer, gradient in _backward(parameters, batch, result, structure, gradients):
        gradients[f"weight{layer}"] = weight_gradient(gradient, result.outputs[layer - 2] if layer > 1 else batch.x)
        if f"bias{layer}" in parameters:
            gradients[f"bias{layer}"] = gradient.sum(-1)
    loss = losses(result.logits, batch.targets, structure).mean(-1)
    return Gradients(loss, result.logits, {name: gradients[name] for name in parameters}, result.statistics)


def preactivation_gradients(parameters: Parameters, batch: Batch, structure: Structure) -> list[Tensor]:
    """∂(mean loss)/∂a [run, unit, sample] of each layer's preactivation a = Wx + b, from the first to the logits."""
    result = _forward(parameters, batch, structure)
    return [gradient for _, gradient in _backward(parameters, batch, result, structure, {})][::-1]


def _forward(parameters: Parameters, batch: Batch, structure: Structure) -> Pass:
    return forward(parameters, batch.x, structure, ghost_size=batch.ghost_size, noise=batch.noise, with_taps=True)


def _backward(
    parameters: Parameters, batch: Batch, result: Pass, structure: Structure, gradients: Parameters
) -> Iterator[tuple[int, Tensor]]:
    """Yield (layer, ∂loss/∂preactivation) from the last layer to the first; γ's and β's gradients on the way."""
    gradient = loss_gradient(result.logits, batch.targets, structure)
    for layer in range(structure.n_layers, 0, -1):
        if layer < structure.n_layers:
            gradient = input_gradient(parameters[f"weight{layer + 1}"], gradient)
            gradient = _before_the_unit(layer, gradient, batch, result, parameters, gradients, structure)
        yield layer, gradient


def _before_the_unit(
    layer: int,
    gradient: Tensor,
    batch: Batch,
    result: Pass,
    parameters: Parameters,
    gradients: Parameters,
    structure: Structure,
) -> Tensor:
    """From ∂loss/∂(a hidden layer's output) to ∂loss/∂(its preactivation); γ's and β's gradients on the way."""
    taps = result.taps[layer - 1]
    a = taps["preactivation" if structure.placement == "pre" else "activation"]
    if structure.placement == "pre":
        gradient = activation_gradient(gradient, taps["activation"], structure.activation)
    if batch.noise:
        gradient = gradient * batch.noise[layer - 1].scale
    if "affine" in taps:
        gradients[f"gamma{layer}"] = (gradient * taps.get("standardized", a)).sum(-1)
        gradients[f"beta{layer}"] = gradient.sum(-1)
        gradient = gradient * parameters[f"gamma{layer}"][:, :, None]
    if structure.normalizes:
        statistics = Statistics(*(s.flatten(1) for s in result.statistics[layer - 1]))
        found = gradient_by_batch(
            as_ghosts(gradient, batch.ghost_size),
            as_ghosts(a, batch.ghost_size),
            statistics,
            structure.center,
            structure.scale,
            structure.eps,
        )
        gradient = found.view(a.shape)
    if structure.placement == "post":
        gradient = activation_gradient(gradient, taps["activation"], structure.activation)
    return gradient


def activation_gradient(gradient: Tensor, output: Tensor, activation: str) -> Tensor:
    """∂loss/∂x from ∂loss/∂g(x) and g(x): sigmoid g(1 − g), tanh 1 − g², relu 1 where g > 0, linear 1."""
    if activation == "sigmoid":
        return (1 - output).mul_(output).mul_(gradient)
    if activation == "tanh":
        return (1 - output * output).mul_(gradient)
    if activation == "relu":
        return gradient * (output > 0)
    return gradient


def loss_gradient(logits: Tensor, targets: Tensor, structure: Structure) -> Tensor:
    """∂(mean loss)/∂logits: (softmax − one-hot)/samples, or 2(prediction − target)/samples."""
    n = logits.shape[-1]
    if structure.shape.task == "regression":
        return (logits - targets[:, None, :]) * (2 / n)
    share = torch.softmax(logits, 1)
    share.scatter_add_(1, targets[:, None, :], torch.full_like(share[:, :1], -1))
    return share.mul_(1 / n)


def weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """G·xᵀ for every run: [run, out, sample] × [run, sample, in] → [run, out, in], padded as ``product`` is."""
    n_in = x.shape[1]
    found = torch.bmm(padded(gradient, last=True), padded(x).transpose(1, 2))
    return found[:, :, :n_in].contiguous() if n_in % 4 else found


def input_gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    """Wᵀ·G for every run: [run, in, out] × [run, out, sample] → [run, in, sample]."""
    n_in, n = weight.shape[-1], gradient.shape[-1]
    found = torch.bmm(padded(weight).transpose(1, 2), padded(gradient))
    return found[:, :n_in, :n].contiguous() if n_in % 4 or n % 4 else found
