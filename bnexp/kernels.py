"""Loops over the units of a stack, compiled by Numba: each reads its memory once, NumPy would for every operation.

Arrays are C-contiguous, whatever the number of runs: for another layout Numba compiles a loop anew, and may sum in
another order. Each row of samples is computed by itself, so a run's bits do not depend on its neighbours.
Nothing assumes that numbers are finite; sums may be reordered and products fused with sums, nothing else.
What these loops save stands in tests/benchmarks/LOG.md. Numba keeps what it compiled beside this file, or in the user's
cache folder, until this file changes: that is why all loops are in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

Loop = TypeVar("Loop", bound=Callable[..., Any])
Array = np.ndarray[Any, Any]

AVAILABLE = find_spec("numba") is not None  # there may be no Numba for this Python yet: nobody calls these loops then
SIGMOID, TANH, RELU, LINEAR = range(4)
KINDS = {"sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "linear": LINEAR}
_CAREFUL = {"reassoc", "contract", "nsz"}  # what the compiler may do to floating-point numbers
_waiting: list[tuple[dict[str, Any], Callable[..., Any], set[str]]] = []
_handed_over: list[str] = []


@contextmanager
def spared() -> Iterator[None]:
    """No loop is loaded in here, NumPy alone computes: for a few small products, before there is any thread."""
    global AVAILABLE
    before, AVAILABLE = AVAILABLE, False
    try:
        yield
    finally:
        AVAILABLE = before


def compiled(loop: Loop, flags: set[str] = _CAREFUL) -> Loop:
    """The loop, compiled for the kinds of numbers with which it is called.

    Numba is imported, and stands in for all loops in their modules, when the first of them is called.
    """

    @functools.wraps(loop)
    def first(*arguments: Any) -> Any:
        _hand_over_to_numba()
        return loop.__globals__[loop.__name__](*arguments)

    _waiting.append((loop.__globals__, loop, flags))
    return first  # type: ignore[return-value]


def compiled_for_numbers(loop: Loop) -> Loop:
    """The same, but the compiler may take it that nothing is NaN."""
    return compiled(loop, {*_CAREFUL, "nnan"})


def _hand_over_to_numba() -> None:
    import numba

    if not _handed_over:
        _choose_by_type()
    while _waiting:
        names, loop, flags = _waiting.pop(0)
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": flags}
        try:
            names[loop.__name__] = numba.njit(cache=True, **options)(loop)
        except RuntimeError:  # no folder to keep compiled loops in: every process compiles its own
            names[loop.__name__] = numba.njit(**options)(loop)
        _handed_over.append(loop.__name__)


def _choose_by_type() -> None:
    """Tell Numba what ``exp`` and ``tanh`` are for numbers of either size."""
    from numba import types
    from numba.extending import overload

    @overload(exp)
    def exp_of(x: Any) -> Any:
        return _exp32 if x == types.float32 else _exp64

    @overload(tanh)
    def tanh_of(x: Any) -> Any:
        return _tanh32 if x == types.float32 else _tanh64


# --- functions of one number that the compiler can apply to many at a time --------------------------------------------

LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)


def exp(x: Any) -> Any:
    """exp(x), in float32 to 3e-7 of itself for |x| ≤ 87 and as at the nearer end beyond; in compiled loops only.

    A sigmoid or a share of a softmax is then off by at most 2e-38.
    """
    raise NotImplementedError


def _exp32(x: Any) -> Any:
    # Cody & Waite 1980: x = k·ln 2 + r, exp(x) = 2ᵏ·exp(r); the polynomial is that of Cephes' expf.
    number = np.float32
    x = number(-87.0) if x < number(-87.0) else x
    x = number(88.0) if x > number(88.0) else x
    k = np.floor(x * LOG2_E + number(0.5))
    r = x - k * LN2_HIGH
    r = r - k * LN2_LOW
    p = number(1.9875691500e-4)
    p = p * r + number(1.3981999507e-3)
    p = p * r + number(8.3334519073e-3)
    p = p * r + number(4.1665795894e-2)
    p = p * r + number(1.6666665459e-1)
    p = p * r + number(5.0000001201e-1)
    power = (np.int32(k) + np.int32(127)) << np.int32(23)  # the bits of 2ᵏ
    return (p * r * r + r + number(1)) * np.int32(power).view(np.float32)


def _exp64(x: Any) -> Any:
    return math.exp(x)


def tanh(x: Any) -> Any:
    """tanh(x), in float32 to 6e-7 of itself; ±(1 − 2.4e-7) where |x| is large; in compiled loops only."""
    raise NotImplementedError


def _tanh32(x: Any) -> Any:
    # The odd rational function (degree 13 over 6) by which Eigen and XLA compute tanh.
    number = np.float32
    x = number(-7.90531110763549805) if x < number(-7.90531110763549805) else x
    x = number(7.90531110763549805) if x > number(7.90531110763549805) else x
    s = x * x
    p = number(-2.76076847742355e-16)
    p = p * s + number(2.00018790482477e-13)
    p = p * s + number(-8.60467152213735e-11)
    p = p * s + number(5.12229709037114e-08)
    p = p * s + number(1.48572235717979e-05)
    p = p * s + number(6.37261928875436e-04)
    p = p * s + number(4.89352455891786e-03)
    q = number(1.19825839466702e-06)
    q = q * s + number(1.18534705686654e-04)
    q = q * s + number(2.26843463243900e-03)
    q = q * s + number(4.89352518554385e-03)
    return x * p / q


def _tanh64(x: Any) -> Any:
    return math.tanh(x)


# --- norms ------------------------------------------------------------------------------------------------------------


@compiled
def normalize_units(
    a: Array, gamma: Array, beta: Array, center: Any, scale: bool, eps: Any, mean: Array, variance: Array, y: Array
) -> None:
    """``normalize`` for one run: without the first axis."""
    units, ghosts, n = a.shape
    zero, count = a.dtype.type(0), a.dtype.type(n)
    for unit in range(units):
        for ghost in range(ghosts):
            x, out = a[unit, ghost], y[unit, ghost]
            total, square = zero, zero
            for i in range(n):
                total += x[i]
            mu = total / count
            for i in range(n):
                deviation = x[i] - mu
                square += deviation * deviation
            mean[unit, ghost], variance[unit, ghost] = mu, square / count
            slope = gamma[unit]
            if scale:
                slope /= math.sqrt(square / count + eps)
            mu *= center
            shift = beta[unit]
            for i in range(n):
                out[i] = (x[i] - mu) * slope + shift


@compiled
def normalize(
    a: Array, gamma: Array, beta: Array, center: Any, scale: bool, eps: Any, mean: Array, variance: Array, y: Array
) -> None:
    """y = γ·(a − c·μ)·(1/sqrt(σ² + ε) or 1) + β, with the μ, σ² of each row: ``bnexp.norms`` in one go.

    a, y [run, unit, ghost, sample]; γ, β [run, unit]; mean, variance [run, unit, ghost]. c is 0 or 1.
    """
    for run in range(a.shape[0]):
        normalize_units(a[run], gamma[run], beta[run], center, scale, eps, mean[run], variance[run], y[run])


@compiled
def units_through_norm(
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
    """``through_norm`` for one run: without the first axis."""
    units, ghosts, n = a.shape
    zero, one, count = a.dtype.type(0), a.dtype.type(1), a.dtype.type(n)
    for unit in range(units):
        sum_beta, sum_gamma = zero, zero
        for ghost in range(ghosts):
            g, x, mu = slope[unit, ghost], a[unit, ghost], mean[unit, ghost]
            inverse = one
            if scale:
                inverse /= math.sqrt(variance[unit, ghost] + eps)
            total, pull = zero, zero
            taken = mu * center
            for i in range(n):
                total += g[i]
                pull += g[i] * (x[i] - taken)
            pull *= inverse
            sum_beta += total
            sum_gamma += pull
            factor = gamma[unit] * inverse
            total *= center / count
            pull = pull * inverse / count if scale else zero
            for i in range(n):
                g[i] = factor * (g[i] - total - (x[i] - mu) * pull)
        gamma_slope[unit], beta_slope[unit] = sum_gamma, sum_beta


@compiled
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
    for run in range(a.shape[0]):
        units_through_norm(
            slope[run],
            a[run],
            gamma[run],
            center,
            scale,
            eps,
            mean[run],
            variance[run],
            gamma_slope[run],
            beta_slope[run],
        )


# --- activations and sums ---------------------------------------------------------------------------------------------


@compiled
def activate(x: Array, out: Array, kind: int) -> None:
    """g(x), both flat: the functions of ``bnexp.network.ACTIVATIONS``."""
    n, zero, one = x.shape[0], x.dtype.type(0), x.dtype.type(1)
    if kind == SIGMOID:
        for i in range(n):
            out[i] = one / (one + exp(-x[i]))
    elif kind == TANH:
        for i in range(n):
            out[i] = tanh(x[i])
    elif kind == RELU:
        for i in range(n):
            out[i] = zero if x[i] <= zero else x[i]
    else:
        for i in range(n):
            out[i] = x[i]


@compiled
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


@compiled
def add_bias(a: Array, bias: Array) -> None:
    """a + b in place: a [run, unit, sample], b [run, unit]."""
    for run in range(a.shape[0]):
        add_to_units(a[run], bias[run])


@compiled
def transform(a: Array, taken: Array, slope: Array, shift: Array) -> None:
    """(a − taken)·slope + shift in place: a [run, unit, sample], the others [run, unit]."""
    runs, units, n = a.shape
    for run in range(runs):
        for unit in range(units):
            row, middle, factor, above = a[run, unit], taken[run, unit], slope[run, unit], shift[run, unit]
            for i in range(n):
                row[i] = (row[i] - middle) * factor + above


@compiled
def sum_samples(slope: Array, total: Array) -> None:
    """Σ over the last axis of [run, unit, sample] to [run, unit]."""
    for run in range(slope.shape[0]):
        sum_units(slope[run], total[run])


@compiled
def add_to_units(a: Array, bias: Array) -> None:
    """a + b in place: a [unit, sample], b [unit]."""
    units, n = a.shape
    for unit in range(units):
        for i in range(n):
            a[unit, i] += bias[unit]


@compiled
def sum_units(slope: Array, total: Array) -> None:
    """Σ over the samples of [unit, sample] to [unit]."""
    units, n = slope.shape
    for unit in range(units):
        row, found = slope[unit], slope.dtype.type(0)
        for i in range(n):
            found += row[i]
        total[unit] = found


# --- losses -----------------------------------------------------------------------------------------------------------


@compiled
def classify(logits: Array, targets: Array, slope: Array) -> tuple[Any, int]:
    """One run's mean cross-entropy and its correct predictions; slope becomes ∂(mean loss)/∂logits [class, sample]."""
    classes, n = logits.shape
    zero, one, count = logits.dtype.type(0), logits.dtype.type(1), logits.dtype.type(n)
    hits, summed, chosen = 0, zero, zero
    for i in range(n):
        best = 0
        for c in range(1, classes):
            if not logits[c, i] <= logits[best, i]:  # the first of equals; NaN is the largest
                best = c
        hits += best == targets[i]
        highest = logits[best, i]
        for c in range(classes):
            slope[c, i] = logits[c, i] - highest
        chosen += slope[targets[i], i]
    flat = slope.reshape(-1)
    for i in range(flat.shape[0]):
        flat[i] = exp(flat[i])
    for i in range(n):
        total = zero
        for c in range(classes):
            total += slope[c, i]
        summed += math.log(total)
        share = one / (total * count)
        for c in range(classes):
            slope[c, i] *= share
        slope[targets[i], i] -= one / count
    return (summed - chosen) / count, hits


@compiled
def regress(predictions: Array, targets: Array, slope: Array) -> Any:
    """One run's mean squared error; slope becomes its derivative by the predictions [1, sample]."""
    n = targets.shape[0]
    total, factor = slope.dtype.type(0), slope.dtype.type(2) / slope.dtype.type(n)
    # Two loops: one that sums and stores is compiled twice, for memory that may overlap and for memory that can not,
    # and the two sum in different orders.
    for i in range(n):
        error = predictions[0, i] - targets[i]
        total += error * error
    for i in range(n):
        slope[0, i] = (predictions[0, i] - targets[i]) * factor
    return total / slope.dtype.type(n)


@compiled
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


@compiled
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


@compiled
def subtract_scaled(x: Array, rate: Array, step: Array) -> None:
    """x ← x − rate·step in place; x, step [run, number], rate [run]."""
    runs, n = x.shape
    for run in range(runs):
        for i in range(n):
            x[run, i] -= rate[run] * step[run, i]


@compiled
def move_towards(x: Array, share: Array, goal: Array, factor: Any) -> None:
    """x ← x + share·(factor·goal − x) in place; x, goal [run, unit], share [run]."""
    runs, n = x.shape
    for run in range(runs):
        for i in range(n):
            x[run, i] += share[run] * (factor * goal[run, i] - x[run, i])


@compiled
def update(
    x: Array,
    slope: Array,
    velocity: Array,
    mask: Array,
    masked: bool,
    rate: Any,
    momentum: Any,
    decay: Any,
    nesterov: bool,
) -> None:
    """A step of ``bnexp.optimizers``' SGD on the numbers of one run, all flat."""
    n = x.shape[0]
    if not masked and momentum == 0 and decay == 0:
        for i in range(n):
            x[i] -= rate * slope[i]
        return
    for i in range(n):
        step = slope[i]
        if decay != 0:
            step += decay * x[i]
        if masked:
            step *= mask[i]
        if momentum != 0:
            velocity[i] = momentum * velocity[i] + step
            step = step + momentum * velocity[i] if nesterov else velocity[i]
        x[i] -= rate * step


# --- what measures sum up ---------------------------------------------------------------------------------------------


@compiled_for_numbers
def extremes(row: Array) -> tuple[Any, Any]:
    """Minimum and maximum, if no value is NaN."""
    low, high = row[0], row[0]
    for i in range(row.shape[0]):
        low, high = min(low, row[i]), max(high, row[i])
    return low, high


@compiled
def summarize(x: Array, near: Any, kind: int, level: Any, found: Array) -> None:
    """Mean, biased SD, share near 0, share saturated, minimum, maximum of each unit, to found [run, unit, 6], float64.

    x [run, unit, sample]. Saturated: ``kind`` SIGMOID: x(1 − x) < level; TANH: |x| > level; RELU: x = 0; LINEAR: none.
    """
    runs, units, n = x.shape
    zero, one = x.dtype.type(0), x.dtype.type(1)  # counts in the type of x: the compiler then counts many at a time
    for run in range(runs):
        for unit in range(units):
            row = x[run, unit]
            total, square, small, saturated, strange = 0.0, 0.0, zero, zero, zero
            for i in range(n):
                total += row[i]
            mean = total / n
            for i in range(n):
                square += (row[i] - mean) * (row[i] - mean)
            for i in range(n):
                small += one if abs(row[i]) <= near else zero
                strange += one if row[i] != row[i] else zero
            if kind == SIGMOID:
                for i in range(n):
                    saturated += one if row[i] * (one - row[i]) < level else zero
            elif kind == TANH:
                for i in range(n):
                    saturated += one if abs(row[i]) > level else zero
            elif kind == RELU:
                for i in range(n):
                    saturated += one if row[i] == 0 else zero
            low, high = extremes(row)
            found[run, unit, 0], found[run, unit, 1] = mean, math.sqrt(square / n)
            found[run, unit, 2], found[run, unit, 3] = np.float64(small) / n, np.float64(saturated) / n
            found[run, unit, 4] = math.nan if strange > 0 else low
            found[run, unit, 5] = math.nan if strange > 0 else high


@compiled
def step_sums(before: Array, gradient: Array, after: Array, found: Array) -> None:
    """Σw², Σg², Σwg, Σw′² and Σ(w′ − w)² of each row of weights, in float64, to found [run, row, 5].

    w before a step, w′ after it, g the gradient, each [run, row, in].
    """
    runs, rows, n = before.shape
    for run in range(runs):
        for row in range(rows):
            ww, gg, wg, vv, dd = 0.0, 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                w, g = np.float64(before[run, row, i]), np.float64(gradient[run, row, i])
                v = np.float64(after[run, row, i])
                ww += w * w
                gg += g * g
                wg += w * g
                vv += v * v
                dd += (v - w) * (v - w)
            found[run, row, 0], found[run, row, 1], found[run, row, 2] = ww, gg, wg
            found[run, row, 3], found[run, row, 4] = vv, dd


# --- descent: many steps, run after run -------------------------------------------------------------------------------

# Columns of the table of layers: widths; the first place of weight, bias, γ and β in a run's numbers (−1: none); the
# first unit of the layer among all.
OUT, IN, WEIGHT, BIAS, GAMMA, BETA, UNIT = range(7)


@compiled
def descend(
    first: int,
    last: int,
    classes: bool,
    data: Any,
    unit: Any,
    norm: Any,
    layers: Array,
    stack: Any,
    rates: Any,
    switches: Any,
    running: Any,
    gradient: Array,
    neutral: Any,
    moments: Any,
    batch: Any,
    places: Any,
    ends: Any,
    losses: Array,
    correct: Array,
) -> None:
    """Steps first … last − 1 of every run, one run after the other; ``bnexp.descent`` says what is in each tuple."""
    numbers, velocities, masks = stack
    lr, keep, momentum, weight_decay, norm_decay = rates
    masked, nesterov = switches
    logits, top = ends
    nowhere = lr.dtype.type(math.nan)
    for run in range(losses.shape[0]):
        own = numbers[run]
        for step in range(first, last):
            take_rows(run, step, classes, data, batch)
            forward(own, layers, unit, norm, batch[0], neutral, moments, places, logits)
            if classes:
                loss, correct[run, step - first] = classify(logits, batch[1], top)
            else:
                loss = regress(logits, batch[2], top)
            losses[run, step - first] = loss
            backward(own, layers, unit, norm, batch[0], neutral, moments, places, top, gradient)
            # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
            rate = lr[run] if math.isfinite(loss) else nowhere
            decays = weight_decay[run], norm_decay[run]
            take_step(own, gradient, velocities[run], masks[run], masked, layers, rate, momentum[run], decays, nesterov)
            if norm[1]:
                follow(running[0][run], running[1][run], moments, keep[run], norm[5])


@compiled
def take_rows(run: int, step: int, classes: bool, data: Any, batch: Any) -> None:
    """The rows and targets of a run's step, to their places."""
    x, labels, values, order, group_of_run = data
    rows, chosen, goals = batch
    n, features = rows.shape
    own = order[group_of_run[run]]
    own_labels = labels[run if labels.shape[0] > 1 else 0]
    own_values = values[run if values.shape[0] > 1 else 0]
    for i in range(n):
        row = own[step * n + i]
        source, target = x[row], rows[i]
        for j in range(features):
            target[j] = source[j]
        if classes:
            chosen[i] = own_labels[row]
        else:
            goals[i] = own_values[row]


@compiled
def weight_of(own: Array, layers: Array, layer: int) -> Array:
    """A layer's weight matrix [out, in]."""
    n_out, n_in, start = layers[layer, OUT], layers[layer, IN], layers[layer, WEIGHT]
    return own[start : start + n_out * n_in].reshape(n_out, n_in)


@compiled
def units_of(numbers: Array, layers: Array, layer: int, n: int) -> Array:
    """A hidden layer's part of numbers that are laid out unit by unit, [unit, n]."""
    first, count = layers[layer, UNIT], layers[layer, OUT]
    return numbers[first * n : (first + count) * n].reshape(count, n)


@compiled
def part_of(own: Array, start: int, layers: Array, layer: int, otherwise: Array) -> Array:
    """A layer's numbers [unit] from ``start`` on, or where that is −1 those of the layer's units in ``otherwise``."""
    count = layers[layer, OUT]
    if start >= 0:
        return own[start : start + count]
    first = layers[layer, UNIT]
    return otherwise[first : first + count]


@compiled
def forward(
    own: Array,
    layers: Array,
    unit: Any,
    norm: Any,
    rows: Array,
    neutral: Any,
    moments: Any,
    places: Any,
    logits: Array,
) -> None:
    """From a network's rows to its logits."""
    before, kind = unit
    transforms, _, center, scale, eps, _ = norm
    n, hidden = rows.shape[0], layers.shape[0] - 1
    for layer in range(hidden):
        a, between, output = (
            units_of(places[0], layers, layer, n),
            units_of(places[1], layers, layer, n),
            units_of(places[2], layers, layer, n),
        )
        if layer == 0:
            np.dot(weight_of(own, layers, 0), rows.T, a)
        else:
            np.dot(weight_of(own, layers, layer), units_of(places[2], layers, layer - 1, n), a)
        if layers[layer, BIAS] >= 0:
            add_to_units(a, part_of(own, layers[layer, BIAS], layers, layer, neutral[1]))
        if not before:
            activate(a.reshape(-1), between.reshape(-1), kind)
        source, target = (a, between) if before else (between, output)
        if transforms:
            units, ghosts = layers[layer, OUT], moments[0].shape[1]
            normalize_units(
                source.reshape(units, ghosts, n // ghosts),
                part_of(own, layers[layer, GAMMA], layers, layer, neutral[0]),
                part_of(own, layers[layer, BETA], layers, layer, neutral[1]),
                center,
                scale,
                eps,
                units_of(moments[0].reshape(-1), layers, layer, ghosts),
                units_of(moments[1].reshape(-1), layers, layer, ghosts),
                target.reshape(units, ghosts, n // ghosts),
            )
        elif not before:
            target[:] = source
        if before:
            activate((between if transforms else a).reshape(-1), output.reshape(-1), kind)
    np.dot(weight_of(own, layers, hidden), units_of(places[2], layers, hidden - 1, n), logits)
    add_to_units(logits, part_of(own, layers[hidden, BIAS], layers, hidden, neutral[1]))


@compiled
def backward(
    own: Array,
    layers: Array,
    unit: Any,
    norm: Any,
    rows: Array,
    neutral: Any,
    moments: Any,
    places: Any,
    top: Array,
    gradient: Array,
) -> None:
    """From ∂loss/∂logits to the gradient of everything, laid out as the numbers are."""
    before, kind = unit
    transforms, _, center, scale, eps, _ = norm
    n, hidden = rows.shape[0], layers.shape[0] - 1
    above = top
    for back in range(hidden + 1):
        layer = hidden - back
        if back > 0:
            above = units_of(places[3], layers, layer, n)
            np.dot(
                weight_of(own, layers, layer + 1).T,
                top if back == 1 else units_of(places[3], layers, layer + 1, n),
                above,
            )
            a, between, output = (
                units_of(places[0], layers, layer, n),
                units_of(places[1], layers, layer, n),
                units_of(places[2], layers, layer, n),
            )
            if before:
                through_activation(above.reshape(-1), output.reshape(-1), kind)
            if transforms:
                units, ghosts = layers[layer, OUT], moments[0].shape[1]
                units_through_norm(
                    above.reshape(units, ghosts, n // ghosts),
                    (a if before else between).reshape(units, ghosts, n // ghosts),
                    part_of(own, layers[layer, GAMMA], layers, layer, neutral[0]),
                    center,
                    scale,
                    eps,
                    units_of(moments[0].reshape(-1), layers, layer, ghosts),
                    units_of(moments[1].reshape(-1), layers, layer, ghosts),
                    part_of(gradient, layers[layer, GAMMA], layers, layer, neutral[2]),
                    part_of(gradient, layers[layer, BETA], layers, layer, neutral[2]),
                )
            if not before:
                through_activation(above.reshape(-1), between.reshape(-1), kind)
        if layer > 0:
            np.dot(above, units_of(places[2], layers, layer - 1, n).T, weight_of(gradient, layers, layer))
        else:
            np.dot(above, rows, weight_of(gradient, layers, 0))
        if layers[layer, BIAS] >= 0:
            sum_units(above, part_of(gradient, layers[layer, BIAS], layers, layer, neutral[2]))


@compiled
def take_step(
    own: Array,
    gradient: Array,
    velocity: Array,
    mask: Array,
    masked: bool,
    layers: Array,
    rate: Any,
    momentum: Any,
    decays: Any,
    nesterov: bool,
) -> None:
    """A network's step of SGD, as ``bnexp.optimizers`` has it."""
    for layer in range(layers.shape[0]):
        for kind in (WEIGHT, BIAS, GAMMA, BETA):
            start = layers[layer, kind]
            if start >= 0:
                end = start + layers[layer, OUT] * (layers[layer, IN] if kind == WEIGHT else 1)
                decay = decays[0] if kind == WEIGHT else (decays[1] if kind != BIAS else decays[0] * 0)
                update(
                    own[start:end],
                    gradient[start:end],
                    velocity[start:end],
                    mask[start:end],
                    masked or kind != WEIGHT,
                    rate,
                    momentum,
                    decay,
                    nesterov,
                )


@compiled
def follow(running_mean: Array, running_variance: Array, moments: Any, keep: Any, unbiased: Any) -> None:
    """A network's running statistics after a step: ``bnexp.norms.update_running``."""
    mean, variance = moments
    for unit in range(mean.shape[0]):
        for ghost in range(mean.shape[1]):
            running_mean[unit] += keep * (mean[unit, ghost] - running_mean[unit])
            running_variance[unit] += keep * (unbiased * variance[unit, ghost] - running_variance[unit])
