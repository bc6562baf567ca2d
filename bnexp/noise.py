"""Noise after the norm, drawn anew at every step: Santurkar et al. 2018, Alg. 1 ("noisy" batch norm).

For each hidden unit j and step: μ_j ~ U(−.5, .5), σ_j ~ U(1, 1.25). For each sample i of the minibatch:
m_ij ~ U(μ_j − .1, μ_j + .1), s_ij ~ N(σ_j, .1²). The norm's output y becomes

    y′ = s·y + m                        where the norm scales, as in the paper
    y′ = mean + s·(y − mean) + m·SD     elsewhere: the same noise in units of each unit's SD over the minibatch

Before γ and β are learned the two are the same noise. As γ grows, m weighs less against y: a norm with γ can outgrow
its noise, one without can not. Mean and SD are not differentiated, so ∂y′/∂y = s in both. Only training is noisy. The
draws are a function of (seed, noise, step), the widths and the number of rows: runs of one seed share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnexp.arrays import Array, library, over_samples
from bnexp.rng import stream

MEAN_RANGE = 0.5  # n_μ of the paper
SCALE_RANGE = 1.25  # n_σ
MEAN_SPREAD = 0.1  # r_μ
SCALE_SD = 0.1  # r_σ


class Noise(NamedTuple):
    """Noise of one hidden layer: ``scale`` s and ``shift`` m, each [run, unit, sample]."""

    scale: Array
    shift: Array


def draw_noise(seed: int, step: int, hidden: Sequence[int], n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(s, m) of each hidden layer, float64 [unit, sample]; ``step`` counts the optimizer's steps from 1."""
    generator = stream(seed, "noise", step)
    drawn = []
    for width in hidden:
        mean = generator.uniform(-MEAN_RANGE, MEAN_RANGE, (width, 1))
        center = generator.uniform(1, SCALE_RANGE, (width, 1))
        shift = mean + generator.uniform(-MEAN_SPREAD, MEAN_SPREAD, (width, n))
        drawn.append((center + SCALE_SD * generator.standard_normal((width, n)), shift))
    return drawn


def apply_noise(y: Array, noise: Noise, in_own_units: bool) -> Array:
    """Return y′ of y [run, unit, sample]; ``in_own_units``: the norm scales, so y is in units of its SD already."""
    if in_own_units:
        return y * noise.scale + noise.shift
    fixed = y if isinstance(y, np.ndarray) else y.detach()
    mean = (over_samples(fixed) / y.shape[-1])[:, :, None]
    deviation = fixed - mean
    sd = library(y).sqrt(over_samples(deviation * deviation) / y.shape[-1])[:, :, None]
    return mean + noise.scale * (y - mean) + noise.shift * sd
