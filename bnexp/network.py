"""The network: layers with a leading run axis, from initial weights to logits, taps and gradients.

Shapes: activations [run, unit, sample], weights [run, out, in], biases, γ and β [run, out]. Layers count from 1, the
last is the output. Parameters live in a dict: ``weight1``, ``bias1``, ``gamma1``, ``beta1``, ``weight2``, …

Nothing here reduces over runs. On a CPU every operation gives a run the same bits whatever its neighbours, because of
how ``bnexp.arrays`` computes; tests/test_stack_invariance.py holds it fast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array, as_tensors, computed_by_numpy, library, on_cpu, over_classes, picked, product
from bnexp.lazy_torch import torch
from bnexp.noise import Noise, apply_noise
from bnexp.norms import (
    Statistics,
    affine_transform,
    as_ghosts,
    normalize_by_batch,
    normalize_by_statistics,
    transform_by_statistics,
)
from bnexp.plan import Run, Structure
from bnexp.rng import stream

Parameters = dict[str, Array]
Taps = list[dict[str, Array]]


class Batch(NamedTuple):
    """What one step trains on: x [group, in, sample], targets [run, sample], and how norms treat it.

    Each group of consecutive runs shares its rows x; there may be as many groups as runs. ``ghost_size``: the norm
    looks at groups of that many samples, each alone; 0 means all samples together. ``noise``:
    of each hidden layer, after its norm; empty for none.
    """

    x: Array
    targets: Array
    ghost_size: int = 0
    noise: Sequence[Noise] = ()


class Pass(NamedTuple):
    """One forward pass: logits [run, out, sample], the batch statistics of each normalised layer, the taps.

    With ghosts the statistics are [run, unit, ghost]. ``outputs``: what each hidden layer hands to the next.
    """

    logits: Array
    statistics: list[Statistics]
    taps: Taps
    outputs: list[Array]


class Gradients(NamedTuple):
    """Loss per run [run] (mean over samples), logits, ∂(loss of that run)/∂parameter, batch statistics; detached.

    ``correct``: samples [run] whose largest logit is the target's; None for a regression.
    """

    loss: Array
    logits: Array
    gradients: Parameters
    statistics: list[Statistics]
    correct: Array | None = None


def sigmoid(a: Array, out: Array | None = None) -> Array:
    """1/(1 + exp(−a))."""
    if not isinstance(a, np.ndarray):
        return library(a).sigmoid(a)
    if kernels.AVAILABLE:
        return _by_loop(a, out, kernels.SIGMOID)
    found = np.multiply(a, 0.5, out=out)  # ½(1 + tanh(a/2)): NumPy's tanh is twice as fast as its exp
    np.tanh(found, out=found)
    found += 1
    found *= 0.5
    return found


def tanh(a: Array, out: Array | None = None) -> Array:
    """The hyperbolic tangent."""
    if not isinstance(a, np.ndarray):
        return library(a).tanh(a)
    return _by_loop(a, out, kernels.TANH) if kernels.AVAILABLE else np.tanh(a, out=out)


def relu(a: Array, out: Array | None = None) -> Array:
    """max(a, 0)."""
    return np.maximum(a, 0, out=out) if isinstance(a, np.ndarray) else library(a).relu(a)


def identity(a: Array, out: Array | None = None) -> Array:
    """a itself, or a copy of it in ``out``."""
    return a if out is None else np.positive(a, out=out)


def _by_loop(a: Array, out: Array | None, kind: int) -> Array:
    a = np.ascontiguousarray(a)
    out = np.empty_like(a) if out is None else out
    kernels.activate(a.reshape(-1), out.reshape(-1), kind)
    return out


# Each takes NumPy arrays, for which it may leave its result in ``out``, or tensors.
ACTIVATIONS: dict[str, Callable[..., Array]] = {"sigmoid": sigmoid, "tanh": tanh, "relu": relu, "linear": identity}


def linear(weight: Array, x: Array, bias: Array | None) -> Array:
    """W·x + b for every run: [run, out, in] × [group, in, sample] → [run, out, sample]."""
    y = product(weight, x)
    if bias is not None:
        y += bias[:, :, None]
    return y


@computed_by_numpy
def forward(
    parameters: Mapping[str, Array],
    x: Array,
    structure: Structure,
    given: Sequence[Statistics] | None = None,
    *,
    ghost_size: int = 0,
    noise: Sequence[Noise] = (),
    with_taps: bool = False,
) -> Pass:
    """Run the network on x [group, in, sample].

    Norms use the batch's own statistics, or the ``given`` ones, one per hidden layer (running or population).
    With taps, each layer's dict holds what exists there, in reading order: pre: preactivation, standardized, affine,
    activation; post: preactivation, activation, standardized, affine; output: preactivation (the logits).
    """
    g = ACTIVATIONS[structure.activation]
    statistics: list[Statistics] = []
    taps: Taps = []
    outputs: list[Array] = []
    for layer in range(1, structure.n_layers):
        here: dict[str, Array] = {}
        x = here["preactivation"] = linear(parameters[f"weight{layer}"], x, parameters.get(f"bias{layer}"))
        if structure.placement == "post":
            x = here["activation"] = g(x)
        gamma, beta = parameters.get(f"gamma{layer}"), parameters.get(f"beta{layer}")
        at_once = given is not None and not with_taps
        if at_once and (given or gamma is not None):
            switches = structure.center, structure.scale, structure.eps
            x = transform_by_statistics(x, given[layer - 1] if given else None, gamma, beta, switches)
        elif structure.normalizes:
            if given is None:
                x, batch = _normalize(x, structure, ghost_size)
                statistics.append(batch)
            else:
                x = normalize_by_statistics(x, given[layer - 1], structure.center, structure.scale, structure.eps)
            here["standardized"] = x
        if gamma is not None and not at_once:
            x = here["affine"] = affine_transform(x, gamma, beta)
        if noise:
            x = apply_noise(x, noise[layer - 1], structure.scale)
        if structure.placement == "pre":
            x = here["activation"] = g(x)
        if with_taps:
            taps.append(here)
            outputs.append(x)
    logits = linear(parameters[f"weight{structure.n_layers}"], x, parameters[f"bias{structure.n_layers}"])
    if with_taps:
        taps.append({"preactivation": logits})
    return Pass(logits, statistics, taps, outputs)


def _normalize(a: Array, structure: Structure, ghost_size: int) -> tuple[Array, Statistics]:
    """â by the batch's own statistics, or each ghost's; and these statistics, [run, unit] or [run, unit, ghost]."""
    found, statistics = normalize_by_batch(as_ghosts(a, ghost_size), structure.center, structure.scale, structure.eps)
    if not ghost_size:
        return found, statistics
    shape = (*a.shape[:2], -1)
    return found.reshape(a.shape), Statistics(statistics.mean.reshape(shape), statistics.variance.reshape(shape))


def losses(logits: Array, targets: Array, structure: Structure) -> Array:
    """Loss of each sample [run, sample]: cross-entropy in nats of integer targets, or the squared error."""
    if structure.shape.task == "classification":
        return -picked(log_softmax(logits), targets)
    error = logits[:, 0] - targets
    return error * error


def log_softmax(logits: Array) -> Array:
    """ln(exp(z) / Σ exp(z)) over classes, shape [run, class, sample]; the largest logit is taken off first."""
    xp = library(logits)
    shifted = logits - xp.amax(logits, 1)[:, None]
    return shifted - xp.log(over_classes(xp.exp(shifted)))


def loss_and_gradients_by_autograd(parameters: Parameters, batch: Batch, structure: Structure) -> Gradients:
    """What ``bnexp.gradients.loss_and_gradients`` computes, by autograd: its twin, short and slower.

    Autograd needs one number, so the losses are summed over runs; no run's gradient depends on another's loss.
    """
    batch = as_tensors(batch)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in as_tensors(parameters).items()}
    result = forward(leaves, batch.x, structure, ghost_size=batch.ghost_size, noise=batch.noise)
    loss = losses(result.logits, batch.targets, structure).mean(-1)
    gradients = torch.autograd.grad(loss.sum(), list(leaves.values()))
    statistics = [Statistics(s.mean.detach(), s.variance.detach()) for s in result.statistics]
    return Gradients(loss.detach(), result.logits.detach(), dict(zip(leaves, gradients, strict=True)), statistics)


# --- initialisation ---------------------------------------------------------------------------------------------------


def initialize(structure: Structure, runs: Sequence[Run], dtype: str = "float32") -> Parameters:
    """Initial parameters of a stack, NumPy arrays; γ and β only if some run learns one.

    Weights are a function of (seed, layer) alone, so runs of one seed share them. Identity and standardize starts are
    set afterwards by ``calibrate``.
    """
    parameters: Parameters = {}
    drawn = {(run.seed, _scheme(run)): None for run in runs}
    for layer, (n_in, n_out) in enumerate(zip(structure.widths, structure.widths[1:], strict=False), start=1):
        draws = {key: draw_layer(key[0], layer, n_in, n_out, *key[1]) for key in drawn}
        pairs = [draws[run.seed, _scheme(run)] for run in runs]
        parameters[f"weight{layer}"] = _stack([weight for weight, _ in pairs], dtype)
        if structure.has_bias(layer):
            parameters[f"bias{layer}"] = _stack([bias for _, bias in pairs], dtype)
        if layer < structure.n_layers and any(run.switches.gamma or run.switches.beta for run in runs):
            for name in ("gamma", "beta"):
                parameters[f"{name}{layer}"] = _stack([np.full(n_out, _start(run, name)) for run in runs], dtype)
    return parameters


def draw_layer(
    seed: int, layer: int, n_in: int, n_out: int, scheme: str, sd: float | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Weight [out, in] and bias [out] of one layer, float64, from the stream (seed, init, layer).

    linear: both uniform in ±1/sqrt(in), as torch.nn.Linear; glorot: uniform in ±sqrt(6/(in + out)) (Glorot & Bengio
    2010); he: N(0, 2/in) (He et al. 2015); gaussian: N(0, sd²). The last three start with zero biases.
    """
    generator = stream(seed, "init", layer)
    if scheme in ("linear", "glorot"):
        bound = 1 / math.sqrt(n_in) if scheme == "linear" else math.sqrt(6 / (n_in + n_out))
        weight = generator.uniform(-bound, bound, (n_out, n_in))
    else:
        weight = generator.standard_normal((n_out, n_in)) * (math.sqrt(2 / n_in) if scheme == "he" else (sd or 0.0))
    bias = generator.uniform(-bound, bound, n_out) if scheme == "linear" else np.zeros(n_out)
    return weight, bias


def calibrate(
    parameters: Parameters, running: list[Statistics], structure: Structure, runs: Sequence[Run], x: Array
) -> None:
    """Set γ, β of runs that start as ``identity`` or ``standardize``, in place, layer by layer over all rows x [in, n].

    identity (norm full): γ = sqrt(σ² + ε), β = μ + the bias that ``none`` has there, so that y is what ``none`` has;
    the running statistics start at (μ, σ²), so that evaluation starts there too. standardize (norm affine):
    γ = 1/sqrt(σ² + ε), β = −μγ, so that y is what ``standardize`` has. μ, σ² (biased) are of the norm's input.
    """
    for index, run in enumerate(runs):
        kind = run.setting.model.gamma_init
        if not (run.switches.gamma and isinstance(kind, str)):
            continue
        own = one_run(parameters, index)
        for layer in range(1, structure.n_layers):
            here = forward(own, x[None], structure, with_taps=True).taps[layer - 1]
            a = here["preactivation" if structure.placement == "pre" else "activation"]
            mean = a.mean(-1)
            variance = ((a - mean[:, :, None]) ** 2).mean(-1)
            root = np.sqrt(variance + structure.eps)
            if kind == "identity":
                n_in, n_out = structure.widths[layer - 1], structure.widths[layer]
                # The bias that ``none`` has here, where this norm has none.
                bias = 0.0 if structure.has_bias(layer) else draw_layer(run.seed, layer, n_in, n_out, *_scheme(run))[1]
                own[f"gamma{layer}"][:], own[f"beta{layer}"][:] = root, mean + bias
                running[layer - 1].mean[index], running[layer - 1].variance[index] = mean[0], variance[0]
            else:
                own[f"gamma{layer}"][:], own[f"beta{layer}"][:] = 1 / root, -mean / root


def initial_running(structure: Structure, n_runs: int, dtype: str = "float32") -> list[Statistics]:
    """Running statistics before any step, as torch: mean 0, variance 1, per hidden layer; none without a norm."""
    if not structure.normalizes:
        return []
    shapes = [(n_runs, width) for width in structure.hidden]
    return [Statistics(np.zeros(shape, dtype), np.ones(shape, dtype)) for shape in shapes]


def one_run(parameters: Mapping[str, Array], index: int) -> Parameters:
    """Views of one run's parameters, with a run axis of length 1."""
    return {name: tensor[index : index + 1] for name, tensor in parameters.items()}


def init_ids(parameters: Mapping[str, Array], structure: Structure) -> list[str]:
    """Per run, ``w`` + 16 hex of SHA-256 over its float32 weight matrices in layer order."""
    hashes = [hashlib.sha256() for _ in range(parameters["weight1"].shape[0])]
    for layer in range(1, structure.n_layers + 1):
        for index, matrix in enumerate(on_cpu(parameters[f"weight{layer}"])):
            hashes[index].update(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
    return ["w" + found.hexdigest()[:16] for found in hashes]


def _scheme(run: Run) -> tuple[str, float | None]:
    return run.setting.model.weight_init, run.setting.model.weight_sd


def _start(run: Run, name: str) -> float:
    """γ or β at the start: neutral unless the run learns it and asks for a number."""
    learned = run.switches.gamma if name == "gamma" else run.switches.beta
    value = run.setting.model.gamma_init if name == "gamma" else run.setting.model.beta_init
    neutral = 1.0 if name == "gamma" else 0.0
    return value if learned and isinstance(value, int | float) else neutral


def _stack(arrays: Sequence[np.ndarray[Any, Any]], dtype: str) -> Array:
    return np.stack(arrays).astype(dtype)
