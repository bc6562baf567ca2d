r"""The subject of the study: eight norms, four switches, one formula.

Per unit, over the samples of a batch (mean μ, biased variance σ²):

    y = γ · (a − c·μ) · (s / sqrt(σ² + ε) + 1 − s) + β

c centres, s scales; γ stays 1 unless it is learned, β stays 0 unless it is learned. ``full`` is the batch norm of
Ioffe & Szegedy 2015 (Alg. 1), ``standardize`` is the same without the affine transform, ``affine`` is the transform
without any normalisation. With γ = sqrt(σ² + ε) and β = μ, ``full`` returns its input: the identity of their sec. 3.

What β is for. *Theorem*: let g be odd up to a constant, g(u) + g(−u) = k (tanh: 0, sigmoid: 1, linear: 0), let the norm
centre, stand before g, and learn no β (``standardize``, ``gamma``, ``center``), and let the rows of the batch lie
symmetrically about a point m: with m + d also m − d. Then every output f of the network, at any width and depth, has
f(m + d) + f(m − d) = the same constant for all rows: its even part is constant.
*Proof*, layer by layer: suppose what enters a layer has this property, as the rows themselves do. Then so has
a = Wx + b, which is therefore a constant plus a part odd in d. Over symmetric rows the odd part has mean 0, so centring
leaves exactly it; dividing by the SD and multiplying by γ keep it odd; and g of it plus g of its negative is k. The
output layer is linear. ∎
So such a network leaves of a target at least the variance of its even part, whatever γ (our bump: .3573 of all), and of
a balanced class that x and −x share (XOR) a cross-entropy of at least ln 2, by convexity. β per unit moves the
argument of g off its centre, and the property is gone. A relu is not odd; after the activation centring undoes nothing
that the next layer's bias cannot restore. With random minibatches the symmetry holds up to sampling noise.

Activations are laid out [run, unit, sample]: a batch is the last axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnexp import kernels
from bnexp.arrays import Array, copied, library, move_towards, over_samples


class Switches(NamedTuple):
    """What a norm does: centre, scale, learn γ, learn β."""

    center: bool
    scale: bool
    gamma: bool
    beta: bool

    @property
    def uses_statistics(self) -> bool:
        """Whether the norm looks at the batch at all, and so keeps running statistics."""
        return self.center or self.scale


#                         c      s      γ      β
NORMS = {
    "none": Switches(False, False, False, False),
    "standardize": Switches(True, True, False, False),
    "full": Switches(True, True, True, True),
    "affine": Switches(False, False, True, True),
    "center": Switches(True, False, False, False),
    "scale": Switches(False, True, False, False),
    "gamma": Switches(True, True, True, False),
    "beta": Switches(True, True, False, True),
}


class Statistics(NamedTuple):
    """Mean and biased variance per unit, each of shape [run, unit]."""

    mean: Array
    variance: Array


def normalize_by_batch(a: Array, center: bool, scale: bool, eps: float) -> tuple[Array, Statistics]:
    """Return â = (a − c·μ)(s/sqrt(σ²+ε) + 1 − s) by the batch's own statistics, and these.

    ``a`` has shape [run, unit, sample]. Gradients flow through μ and σ² as in Ioffe & Szegedy's sec. 3.
    """
    if isinstance(a, np.ndarray) and kernels.AVAILABLE:
        return _normalize_by_loop(np.ascontiguousarray(a), center, scale, eps)
    n = a.shape[-1]
    mean = over_samples(a) / n
    centered = a - mean[:, :, None]
    variance = over_samples(centered * centered) / n
    normalized = centered if center else a
    if scale:
        normalized = normalized / library(a).sqrt(variance + eps)[:, :, None]
    return normalized, Statistics(mean, variance)


def _normalize_by_loop(a: Array, center: bool, scale: bool, eps: float) -> tuple[Array, Statistics]:
    number, (runs, units) = a.dtype.type, a.shape[:2]
    found, mean, variance = np.empty_like(a), np.empty((runs, units, 1), a.dtype), np.empty((runs, units, 1), a.dtype)
    one, zero = np.ones((runs, units), a.dtype), np.zeros((runs, units), a.dtype)
    source, target = a[:, :, None], found[:, :, None]
    kernels.normalize(source, one, zero, number(center), scale, number(eps), mean, variance, target)
    return found, Statistics(mean[:, :, 0], variance[:, :, 0])


def as_ghosts(a: Array, ghost_size: int) -> Array:
    """[run, unit, sample] → [run, unit × ghost, ghost_size]: each ghost batch a unit of its own (Hoffer et al. 2017).

    The same array if ``ghost_size`` is 0; it divides the number of samples.
    """
    return a.reshape(a.shape[0], -1, ghost_size) if ghost_size else a


def gradient_by_batch(
    gradient: Array, a: Array, normalized: Array, statistics: Statistics, center: bool, scale: bool, eps: float
) -> tuple[Array, Array, Array]:
    """∂loss/∂a from ∂loss/∂â, through the batch's own μ and σ² (Ioffe & Szegedy's sec. 3); Σg and Σg·â over samples.

    With g = ∂loss/∂â, r = 1/sqrt(σ² + ε) and means over samples: both: r(g − mean(g) − â·mean(g·â)); centre: g −
    mean(g); scale: r(g − r(a − μ)·mean(g·â)). The two sums are [run, unit]: of ∂loss/∂y they are β's and γ's gradients.
    """
    n = a.shape[-1]
    total, pull = over_samples(gradient), over_samples(gradient * normalized)
    if not scale:
        return gradient - (total / n)[:, :, None], total, pull
    inverse = 1 / library(a).sqrt(statistics.variance + eps)
    if center:
        found = normalized * (pull / -n)[:, :, None]
        found += gradient
        found -= (total / n)[:, :, None]
    else:
        found = (a - statistics.mean[:, :, None]) * (inverse * pull / -n)[:, :, None]
        found += gradient
    found *= inverse[:, :, None]
    return found, total, pull


def normalize_by_statistics(a: Array, statistics: Statistics, center: bool, scale: bool, eps: float) -> Array:
    """Return â by given statistics, as ``model.eval()`` does with the running ones; shapes as above."""
    if center:
        a = a - statistics.mean[:, :, None]
    if scale:
        a = a / library(a).sqrt(statistics.variance[:, :, None] + eps)
    return a


def affine_transform(normalized: Array, gamma: Array, beta: Array) -> Array:
    """Return y = γ·â + β, γ and β of shape [run, unit]."""
    y = normalized * gamma[:, :, None]
    y += beta[:, :, None]
    return y


def transform_by_statistics(
    a: Array, statistics: Statistics | None, gamma: Array | None, beta: Array | None, switches: tuple[bool, bool, float]
) -> Array:
    """The two above in one: y from a, by given statistics (None: no norm); it may overwrite a.

    ``switches``: c, s and ε.
    """
    center, scale, eps = switches
    if not (isinstance(a, np.ndarray) and kernels.AVAILABLE):
        if statistics is not None:
            a = normalize_by_statistics(a, statistics, center, scale, eps)
        return a if gamma is None else affine_transform(a, gamma, beta)
    slope = np.ones(a.shape[:2], a.dtype) if gamma is None else gamma
    shift = np.zeros_like(slope) if beta is None else beta
    taken = np.zeros_like(slope)
    if statistics is not None:
        taken = statistics.mean if center else taken
        slope = slope / np.sqrt(statistics.variance + eps) if scale else slope
    kernels.transform(a, taken, slope, shift)
    return a


def update_running(running: Statistics, batch: Statistics, momentum: Array, batch_size: int) -> None:
    """Move running statistics towards the batch's in place, as torch.nn.BatchNorm1d does: r ← r + m·(batch − r).

    The running variance uses the unbiased batch variance, σ²·B/(B − 1); ``momentum`` has shape [run]. Statistics of
    ghosts [run, unit, ghost] move it one after the other (Hoffer et al. 2017, Alg. 1); B is then a ghost's size.
    """
    if batch.mean.ndim == 3:
        for ghost in range(batch.mean.shape[-1]):
            update_running(
                running,
                Statistics(copied(batch.mean[..., ghost]), copied(batch.variance[..., ghost])),
                momentum,
                batch_size,
            )
        return
    move_towards(running.mean, momentum, batch.mean, 1.0)
    move_towards(running.variance, momentum, batch.variance, batch_size / (batch_size - 1))
