"""Loops over the units of a stack, compiled by Numba: each reads its memory once, NumPy would for every operation.

Arrays are C-contiguous, whatever the number of runs: Numba compiles a loop anew for another memory layout, and its sums
may then be in another order. Each row of samples is computed by itself, so a run's bits do not depend on its neighbours.
Nothing assumes that numbers are finite; sums may be reordered and products fused with sums, nothing else.
What these loops save stands in tests/benchmarks/LOG.md. Numba keeps what it compiled (about two seconds) beside this
file, or in the user's cache folder.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

Loop = TypeVar("Loop", bound=Callable[..., None])
Array = np.ndarray[Any, Any]

AVAILABLE = find_spec("numba") is not None  # there may be no Numba for this Python yet: nobody calls these loops then
SIGMOID, TANH, RELU, LINEAR = range(4)


def _compiled(loop: Loop) -> Loop:
    """The loop, compiled for the kinds of numbers with which it is called; Numba is imported at the first call."""

    @functools.wraps(loop)
    def first(*arguments: Any) -> None:
        import numba

        compile_ = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
        compiled = globals()[loop.__name__] = compile_(loop)
        compiled(*arguments)

    return first  # type: ignore[return-value]


@_compiled
def normalize(
    a: Array, gamma: Array, beta: Array, center: Any, scale: bool, eps: Any, mean: Array, variance: Array, y: Array
) -> None:
    """y = γ·(a − c·μ)·(1/sqrt(σ² + ε) or 1) + β, with the μ, σ² of each row: ``bnexp.norms`` in one go.

    a, y [run, unit, ghost, sample]; γ, β [run, unit]; mean, variance [run, unit, ghost]. c is 0 or 1.
    """
    runs, units, ghosts, n = a.shape
    zero, count = a.dtype.type(0), a.dtype.type(n)
    for run in range(runs):
        for unit in range(units):
            for ghost in range(ghosts):
                x, out = a[run, unit, ghost], y[run, unit, ghost]
                total, square = zero, zero
                for i in range(n):
                    total += x[i]
                mu = total / count
                for i in range(n):
                    deviation = x[i] - mu
                    square += deviation * deviation
                mean[run, unit, ghost], variance[run, unit, ghost] = mu, square / count
                slope = gamma[run, unit]
                if scale:
                    slope /= math.sqrt(square / count + eps)
                mu *= center
                shift = beta[run, unit]
                for i in range(n):
                    out[i] = (x[i] - mu) * slope + shift


@_compiled
def through_norm(
    slope: Array,
    a: Array,
    gamma: Array,
    center: Any,
    scale: bool,
    eps: Any,
    mean: Array,
    variance: Array,
    gamma_slope: Array,
    beta_slope: Array,
) -> None:
    """∂loss/∂y → ∂loss/∂a in place, and ∂loss/∂γ, ∂loss/∂β [run, unit]: ``gradient_by_batch`` in one go.

    With g = ∂loss/∂y, r = 1/sqrt(σ² + ε) or 1: γ·r·(g − c·mean(g) − s·(a − μ)·r·mean(g·â)).
    """
    runs, units, ghosts, n = a.shape
    zero, one, count = a.dtype.type(0), a.dtype.type(1), a.dtype.type(n)
    for run in range(runs):
        for unit in range(units):
            sum_beta, sum_gamma = zero, zero
            for ghost in range(ghosts):
                g, x, mu = slope[run, unit, ghost], a[run, unit, ghost], mean[run, unit, ghost]
                inverse = one
                if scale:
                    inverse /= math.sqrt(variance[run, unit, ghost] + eps)
                total, pull = zero, zero
                taken = mu * center
                for i in range(n):
                    total += g[i]
                    pull += g[i] * (x[i] - taken)
                pull *= inverse
                sum_beta += total
                sum_gamma += pull
                factor = gamma[run, unit] * inverse
                total *= center / count
                pull = pull * inverse / count if scale else zero
                for i in range(n):
                    g[i] = factor * (g[i] - total - (x[i] - mu) * pull)
            gamma_slope[run, unit], beta_slope[run, unit] = sum_gamma, sum_beta


@_compiled
def through_activation(slope: Array, output: Array, kind: int) -> None:
    """∂loss/∂g(x) → ∂loss/∂x in place, from g(x); both flat."""
    n, one = slope.shape[0], slope.dtype.type(1)
    if kind == SIGMOID:
        for i in range(n):
            slope[i] *= output[i] * (one - output[i])
    elif kind == TANH:
        for i in range(n):
            slope[i] *= one - output[i] * output[i]
    elif kind == RELU:
        for i in range(n):
            slope[i] *= output[i] > 0


@_compiled
def add_bias(a: Array, bias: Array) -> None:
    """a + b in place: a [run, unit, sample], b [run, unit]."""
    runs, units, n = a.shape
    for run in range(runs):
        for unit in range(units):
            for i in range(n):
                a[run, unit, i] += bias[run, unit]


@_compiled
def transform(a: Array, taken: Array, slope: Array, shift: Array) -> None:
    """(a − taken)·slope + shift in place: a [run, unit, sample], the others [run, unit]."""
    runs, units, n = a.shape
    for run in range(runs):
        for unit in range(units):
            row, middle, factor, above = a[run, unit], taken[run, unit], slope[run, unit], shift[run, unit]
            for i in range(n):
                row[i] = (row[i] - middle) * factor + above


@_compiled
def sum_samples(slope: Array, total: Array) -> None:
    """Σ over the last axis of [run, unit, sample] to [run, unit]."""
    runs, units, n = slope.shape
    for run in range(runs):
        for unit in range(units):
            row, found = slope[run, unit], slope.dtype.type(0)
            for i in range(n):
                found += row[i]
            total[run, unit] = found


@_compiled
def shift_logits(logits: Array, targets: Array, shifted: Array, correct: Array) -> None:
    """z − max z over classes, [run, class, sample]; the number of samples [run] whose largest logit is the target's."""
    runs, classes, n = logits.shape
    for run in range(runs):
        hits = 0
        for i in range(n):
            best = 0
            for c in range(1, classes):
                if not logits[run, c, i] <= logits[run, best, i]:  # the first of equals; NaN is the largest
                    best = c
            hits += best == targets[run, i]
            highest = logits[run, best, i]
            for c in range(classes):
                shifted[run, c, i] = logits[run, c, i] - highest
        correct[run] = hits


@_compiled
def cross_entropy(shifted: Array, targets: Array, slope: Array, loss: Array) -> None:
    """Mean cross-entropy [run]; slope holds exp(shifted) and becomes ∂(mean loss)/∂logits, [run, class, sample]."""
    runs, classes, n = shifted.shape
    zero, one, count = shifted.dtype.type(0), shifted.dtype.type(1), shifted.dtype.type(n)
    for run in range(runs):
        summed = zero
        for i in range(n):
            total = zero
            for c in range(classes):
                total += slope[run, c, i]
            summed += math.log(total) - shifted[run, targets[run, i], i]
            share = one / (total * count)
            for c in range(classes):
                slope[run, c, i] *= share
            slope[run, targets[run, i], i] -= one / count
        loss[run] = summed / count


@_compiled
def subtract_scaled(x: Array, rate: Array, step: Array) -> None:
    """x ← x − rate·step in place; x, step [run, number], rate [run]."""
    runs, n = x.shape
    for run in range(runs):
        for i in range(n):
            x[run, i] -= rate[run] * step[run, i]


@_compiled
def move_towards(x: Array, share: Array, goal: Array, factor: Any) -> None:
    """x ← x + share·(factor·goal − x) in place; x, goal [run, unit], share [run]."""
    runs, n = x.shape
    for run in range(runs):
        for i in range(n):
            x[run, i] += share[run] * (factor * goal[run, i] - x[run, i])


# --- what measures sum up ---------------------------------------------------------------------------------------------


@_compiled
def summarize(x: Array, near: Any, kind: int, level: Any, found: Array) -> None:
    """Mean, biased SD, share near 0, share saturated, minimum, maximum of each unit, to found [run, unit, 6], float64.

    x [run, unit, sample]. Saturated: ``kind`` SIGMOID: x(1 − x) < level; TANH: |x| > level; RELU: x = 0; LINEAR: none.
    """
    runs, units, n = x.shape
    one = x.dtype.type(1)
    for run in range(runs):
        for unit in range(units):
            row = x[run, unit]
            total, square, small, saturated, strange = 0.0, 0.0, 0, 0, 0
            for i in range(n):
                total += row[i]
            mean = total / n
            for i in range(n):
                square += (row[i] - mean) * (row[i] - mean)
            for i in range(n):
                small += abs(row[i]) <= near
                strange += row[i] != row[i]
            if kind == SIGMOID:
                for i in range(n):
                    saturated += row[i] * (one - row[i]) < level
            elif kind == TANH:
                for i in range(n):
                    saturated += abs(row[i]) > level
            elif kind == RELU:
                for i in range(n):
                    saturated += row[i] == 0
            low, high = row[0], row[0]
            for i in range(n):
                low = row[i] if row[i] < low else low
                high = row[i] if row[i] > high else high
            found[run, unit, 0], found[run, unit, 1] = mean, math.sqrt(square / n)
            found[run, unit, 2], found[run, unit, 3] = small / n, saturated / n
            found[run, unit, 4] = math.nan if strange else low
            found[run, unit, 5] = math.nan if strange else high


@_compiled
def step_sums(before: Array, gradient: Array, after: Array, found: Array) -> None:
    """Σw², Σg², Σwg, Σw′² and Σ(w′ − w)² of each row of weights, in float64, to found [run, row, 5].

    w before a step, w′ after it, g the gradient, each [run, row, in].
    """
    runs, rows, n = before.shape
    for run in range(runs):
        for row in range(rows):
            ww, gg, wg, vv, dd = 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                w, g, v = float(before[run, row, i]), float(gradient[run, row, i]), float(after[run, row, i])
                ww += w * w
                gg += g * g
                wg += w * g
                vv += v * v
                dd += (v - w) * (v - w)
            found[run, row, 0], found[run, row, 1], found[run, row, 2] = ww, gg, wg
            found[run, row, 3], found[run, row, 4] = vv, dd
