"""Loss and gradients of a stack, differentiated by hand: the only seam to derivatives.

Autograd stays as the slow twin (``bnexp.network.loss_and_gradients_by_autograd``): the tests hold this file against it
for every norm, placement and activation. By hand there is no graph to build, and NumPy can compute on a CPU; what it
saves stands in tests/benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnexp.arrays import Array, computed_by_numpy, library, minus_one_at, over_samples, picked, product
from bnexp.network import Batch, Gradients, Parameters, Pass, forward, log_softmax
from bnexp.norms import Statistics, as_ghosts, gradient_by_batch
from bnexp.plan import Structure


@computed_by_numpy
def loss_and_gradients(parameters: Parameters, batch: Batch, structure: Structure) -> Gradients:
    """Each run's loss (mean over samples) on a batch, and its derivative by that run's own parameters."""
    result = _forward(parameters, batch, structure)
    loss, gradient = loss_and_slope(result.logits, batch.targets, structure)
    gradients: Parameters = {}
    for layer, slope in _backward(parameters, batch, result, structure, gradient, gradients):
        gradients[f"weight{layer}"] = weight_gradient(slope, result.outputs[layer - 2] if layer > 1 else batch.x)
        if f"bias{layer}" in parameters:
            gradients[f"bias{layer}"] = over_samples(slope)
    ordered = {name: gradients[name] for name in parameters}
    return Gradients(loss, result.logits, ordered, result.statistics, correct(result.logits, batch.targets, structure))


@computed_by_numpy
def preactivation_gradients(parameters: Parameters, batch: Batch, structure: Structure) -> list[Array]:
    """∂(mean loss)/∂a [run, unit, sample] of each layer's preactivation a = Wx + b, from the first to the logits."""
    result = _forward(parameters, batch, structure)
    _, gradient = loss_and_slope(result.logits, batch.targets, structure)
    return [slope for _, slope in _backward(parameters, batch, result, structure, gradient, {})][::-1]


def _forward(parameters: Parameters, batch: Batch, structure: Structure) -> Pass:
    return forward(parameters, batch.x, structure, ghost_size=batch.ghost_size, noise=batch.noise, with_taps=True)


def _backward(
    parameters: Parameters, batch: Batch, result: Pass, structure: Structure, gradient: Array, gradients: Parameters
) -> Iterator[tuple[int, Array]]:
    """Yield (layer, ∂loss/∂preactivation) from the last layer to the first; γ's and β's gradients on the way.

    ``gradient``: ∂loss/∂logits.
    """
    for layer in range(structure.n_layers, 0, -1):
        if layer < structure.n_layers:
            gradient = product(parameters[f"weight{layer + 1}"].swapaxes(1, 2), gradient)
            gradient = _before_the_unit(layer, gradient, batch, result, parameters, gradients, structure)
        yield layer, gradient


def _before_the_unit(
    layer: int,
    gradient: Array,
    batch: Batch,
    result: Pass,
    parameters: Parameters,
    gradients: Parameters,
    structure: Structure,
) -> Array:
    """From ∂loss/∂(a hidden layer's output) to ∂loss/∂(its preactivation); γ's and β's gradients on the way."""
    taps = result.taps[layer - 1]
    if structure.placement == "pre":
        gradient = activation_gradient(gradient, taps["activation"], structure.activation)
    if batch.noise:
        gradient = gradient * batch.noise[layer - 1].scale
    a = taps["preactivation" if structure.placement == "pre" else "activation"]
    if structure.normalizes:
        gradient, total, pull = _before_the_norm(gradient, a, taps["standardized"], batch, result, layer, structure)
    elif "affine" in taps:
        total, pull = over_samples(gradient), over_samples(gradient * a)
    if "affine" in taps:
        gradients[f"beta{layer}"], gradients[f"gamma{layer}"] = total, pull
        # Per unit γ is one number, so it may multiply after the norm was differentiated as well as before.
        gradient = gradient * parameters[f"gamma{layer}"][:, :, None]
    if structure.placement == "post":
        gradient = activation_gradient(gradient, taps["activation"], structure.activation)
    return gradient


def _before_the_norm(
    gradient: Array, a: Array, normalized: Array, batch: Batch, result: Pass, layer: int, structure: Structure
) -> tuple[Array, Array, Array]:
    """``gradient_by_batch``, by ghosts where there are any; its two sums are over all samples."""
    shape, size = a.shape, batch.ghost_size
    statistics = Statistics(*(s.reshape(shape[0], -1) for s in result.statistics[layer - 1]))
    gradient, a, normalized = (as_ghosts(x, size) for x in (gradient, a, normalized))
    found, *sums = gradient_by_batch(
        gradient, a, normalized, statistics, structure.center, structure.scale, structure.eps
    )
    total, pull = (s.reshape(*shape[:2], -1).sum(-1) for s in sums) if size else sums
    return found.reshape(shape), total, pull


def activation_gradient(gradient: Array, output: Array, activation: str) -> Array:
    """∂loss/∂x from ∂loss/∂g(x) and g(x): sigmoid g(1 − g), tanh 1 − g², relu 1 where g > 0, linear 1."""
    if activation == "relu":
        return gradient * (output > 0)
    if activation == "linear":
        return gradient
    if activation == "sigmoid":
        slope = 1 - output
        slope *= output
    else:
        slope = -output * output
        slope += 1
    slope *= gradient
    return slope


def loss_and_slope(logits: Array, targets: Array, structure: Structure) -> tuple[Array, Array]:
    """Mean loss [run], and ∂(mean loss)/∂logits: (softmax − one-hot)/samples, or 2(prediction − target)/samples."""
    n = logits.shape[-1]
    if structure.shape.task == "regression":
        error = logits[:, 0] - targets
        return over_samples((error * error)[:, None])[:, 0] / n, error[:, None] * (2 / n)
    log_share = log_softmax(logits)
    loss = over_samples(picked(log_share, targets)[:, None])[:, 0] / -n
    slope = minus_one_at(library(logits).exp(log_share), targets)
    slope *= 1 / n
    return loss, slope


def correct(logits: Array, targets: Array, structure: Structure) -> Array | None:
    """How many samples [run] have their largest logit at the target; None for a regression."""
    if structure.shape.task == "regression":
        return None
    return (library(logits).argmax(logits, 1) == targets).sum(-1)


def weight_gradient(gradient: Array, x: Array) -> Array:
    """G·xᵀ for every run: [run, out, sample] × [group, sample, in] → [run, out, in]."""
    return product(gradient, x.swapaxes(1, 2))
