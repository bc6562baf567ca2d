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

Activations are laid out [run, unit, sample], so that a norm over the batch is a layer norm over the last axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


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

    mean: Tensor
    variance: Tensor


def normalize_by_batch(a: Tensor, center: bool, scale: bool, eps: float) -> tuple[Tensor, Statistics]:
    """Return â = (a − c·μ)(s/sqrt(σ²+ε) + 1 − s) by the batch's own statistics, and these, detached.

    ``a`` has shape [run, unit, sample]. Gradients flow through μ and σ² as in Ioffe & Szegedy's sec. 3.
    """
    import torch  # the plan reads the table above without loading torch

    if center and scale:
        # Batch norm in this layout is torch's fused layer norm; the variance comes back as 1/sqrt(σ² + ε).
        normalized, mean, inverse = torch.native_layer_norm(a, [a.shape[-1]], None, None, eps)
        variance = (inverse.detach().squeeze(-1) ** -2 - eps).clamp_min(0)
        return normalized, Statistics(mean.detach().squeeze(-1), variance)
    mean = a.mean(-1, keepdim=True)
    centered = a - mean
    variance = (centered * centered).mean(-1, keepdim=True)
    statistics = Statistics(mean.detach().squeeze(-1), variance.detach().squeeze(-1))
    if scale:
        return a / torch.sqrt(variance + eps), statistics
    return (centered if center else a), statistics


def as_ghosts(a: Tensor, ghost_size: int) -> Tensor:
    """[run, unit, sample] → [run, unit × ghost, ghost_size]: each ghost batch a unit of its own (Hoffer et al. 2017).

    The same tensor if ``ghost_size`` is 0; it divides the number of samples.
    """
    return a.reshape(a.shape[0], -1, ghost_size) if ghost_size else a


def gradient_by_batch(
    gradient: Tensor, a: Tensor, statistics: Statistics, center: bool, scale: bool, eps: float
) -> Tensor:
    """∂loss/∂a from ∂loss/∂â, through the batch's own μ and σ² (Ioffe & Szegedy's sec. 3); shapes as above.

    With r = 1/sqrt(σ² + ε) and means over samples: both: r(g − mean(g) − â·mean(g·â)); centre: g − mean(g);
    scale: r·g − r³(a − μ)·mean(g·a).
    """
    import torch

    if center and scale:
        mean, inverse = statistics.mean[:, :, None], torch.rsqrt(statistics.variance + eps)[:, :, None]
        backward = torch.ops.aten.native_layer_norm_backward
        found: Tensor = backward(gradient, a, [a.shape[-1]], mean, inverse, None, None, [True, False, False])[0]
        return found
    if center:
        return gradient - gradient.mean(-1, keepdim=True)
    inverse = 1 / torch.sqrt(statistics.variance + eps)[:, :, None]
    pull = inverse * inverse * inverse * (gradient * a).mean(-1, keepdim=True)
    return gradient * inverse - (a - statistics.mean[:, :, None]) * pull


def normalize_by_statistics(a: Tensor, statistics: Statistics, center: bool, scale: bool, eps: float) -> Tensor:
    """Return â by given statistics, as ``model.eval()`` does with the running ones; shapes as above."""
    import torch

    if center:
        a = a - statistics.mean[:, :, None]
    if scale:
        a = a / torch.sqrt(statistics.variance[:, :, None] + eps)
    return a


def affine_transform(normalized: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Return y = γ·â + β, γ and β of shape [run, unit]."""
    import torch

    return torch.addcmul(beta[:, :, None], normalized, gamma[:, :, None])


def update_running(running: Statistics, batch: Statistics, momentum: Tensor, batch_size: int) -> Statistics:
    """Move running statistics towards the batch's as torch.nn.BatchNorm1d does: r ← (1 − m)·r + m·batch.

    The running variance uses the unbiased batch variance, σ²·B/(B − 1); ``momentum`` has shape [run, 1]. Statistics of
    ghosts [run, unit, ghost] move it one after the other (Hoffer et al. 2017, Alg. 1); B is then a ghost's size.
    """
    if batch.mean.dim() == 3:
        for ghost in range(batch.mean.shape[-1]):
            one = Statistics(batch.mean[..., ghost], batch.variance[..., ghost])
            running = update_running(running, one, momentum, batch_size)
        return running
    unbiased = batch.variance * (batch_size / (batch_size - 1))
    return Statistics(
        running.mean + momentum * (batch.mean - running.mean),
        running.variance + momentum * (unbiased - running.variance),
    )
