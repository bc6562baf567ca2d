"""``kernels.descend`` on a GPU, in Triton: one program trains one network, step after step, and asks nobody.

Runs are independent, so there is nothing to wait for between two steps of one: no launch, no neighbour, no host. A
network's numbers stay in the second-level cache from step to step. A program computes by tiles, units × samples, with
the whole minibatch in a tile, so that a norm sees it all; what one phase writes and the next reads goes through memory,
with a barrier between the two. As every run has a program of its own, its steps give the same bits alone as in any
stack.

Layers are unrolled: ``WIDTHS`` and where a layer's numbers begin are compiled in, so each structure has its kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIGMOID, TANH, RELU, LINEAR = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
KINDS = {"sigmoid": 0, "tanh": 1, "relu": 2, "linear": 3}


@triton.jit
def activated(x, KIND: tl.constexpr):
    """g(x); tanh by the same rational function as ``bnexp.kernels``."""
    if KIND == SIGMOID:
        x = 1 / (1 + tl.exp(-x))
    elif KIND == TANH:
        x = tl.minimum(tl.maximum(x, -7.90531110763549805), 7.90531110763549805)
        s = x * x
        p = s * -2.76076847742355e-16 + 2.00018790482477e-13
        p = p * s - 8.60467152213735e-11
        p = p * s + 5.12229709037114e-08
        p = p * s + 1.48572235717979e-05
        p = p * s + 6.37261928875436e-04
        p = p * s + 4.89352455891786e-03
        q = s * 1.19825839466702e-06 + 1.18534705686654e-04
        q = q * s + 2.26843463243900e-03
        q = q * s + 4.89352518554385e-03
        x = x * p / q
    elif KIND == RELU:
        x = tl.where(x < 0, 0.0, x)
    return x


@triton.jit
def through_activation(slope, output, KIND: tl.constexpr):
    """∂loss/∂x from ∂loss/∂g(x) and g(x)."""
    if KIND == SIGMOID:
        slope = slope * (output * (1 - output))
    elif KIND == TANH:
        slope = slope * (1 - output * output)
    elif KIND == RELU:
        slope = tl.where(output > 0, slope, 0.0)
    return slope


@triton.jit
def update(numbers, velocities, masks, at, there, gradient, lr, momentum, decay, MOMENTUM: tl.constexpr, NESTEROV:
           tl.constexpr, DECAY: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """A step of SGD as ``bnexp.optimizers`` has it, on the numbers ``at`` some places, where they are ``there``."""
    old = tl.load(numbers + at, mask=there, other=0.0)
    step = gradient
    if DECAY:
        step += decay * old
    if MASKED:
        step *= tl.load(masks + at, mask=there, other=0.0)
    if MOMENTUM:
        velocity = momentum * tl.load(velocities + at, mask=there, other=0.0) + step
        tl.store(velocities + at, velocity, mask=there)
        if NESTEROV:
            step += momentum * velocity
        else:
            step = velocity
    tl.store(numbers + at, old - lr * step, mask=there)


@triton.jit
def not_yet(nothing):
    """0, read anew. What is computed from it is computed here: otherwise the addresses of all phases, which no step
    changes, would be found before the first and held in registers, of which there are not enough."""
    return tl.multiple_of(tl.load(nothing, volatile=True), 128)


@triton.jit
def product(left, LEFT_ROW: tl.constexpr, LEFT_INNER: tl.constexpr, unit, there, right, RIGHT_INNER: tl.constexpr,
            valid, N_INNER: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Σₖ left[unit, k] · right[k, sample], a tile [unit, sample]: ``right`` points at k = 0 of each sample.

    Strides: LEFT_ROW from unit to unit, LEFT_INNER and RIGHT_INNER from k to k.
    """
    found = tl.zeros((unit.shape[0], right.shape[0]), tl.float32)
    for start in range(0, N_INNER, INNER):
        k = start + tl.arange(0, INNER)
        inside = k < N_INNER
        a = tl.load(left + unit[:, None] * LEFT_ROW + k[None, :] * LEFT_INNER,
                    mask=there[:, None] & inside[None, :], other=0.0)  # fmt: skip
        b = tl.load(right[None, :] + k[:, None] * RIGHT_INNER, mask=valid[None, :] & inside[:, None], other=0.0)
        found = tl.dot(a, b, found, input_precision=PRECISION)
    return found


@triton.jit
def forward(nothing, numbers, source, SOURCE_INNER: tl.constexpr, places, running_mean, running_variance, keep, eps,
            unbiased, N_IN: tl.constexpr, N_OUT: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, GAMMA:
            tl.constexpr, BETA: tl.constexpr, UNIT: tl.constexpr, ALL: tl.constexpr, BATCH: tl.constexpr, SAMPLES:
            tl.constexpr, UNITS: tl.constexpr, INNER: tl.constexpr, PRE: tl.constexpr, KIND: tl.constexpr, NORMALIZES:
            tl.constexpr, CENTER: tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """A hidden layer, from what it is handed, ``source``, to what it hands on; its running statistics."""
    reads, hands, moments = places, places + ALL * SAMPLES, places + 3 * ALL * SAMPLES
    sample = tl.arange(0, SAMPLES)
    valid = sample < BATCH
    zero = not_yet(nothing)
    for tile in range(0, N_OUT, UNITS):
        unit = zero + tile + tl.arange(0, UNITS)
        there = unit < N_OUT
        a = product(numbers + WEIGHT, N_IN, 1, unit, there, source, SOURCE_INNER, valid, N_IN, INNER, PRECISION)
        if BIAS >= 0:
            a += tl.load(numbers + BIAS + unit, mask=there, other=0.0)[:, None]
        if not PRE:
            a = activated(a, KIND)
        place = (UNIT + unit)[:, None] * SAMPLES + sample[None, :]
        if NORMALIZES or GAMMA >= 0 or not PRE:
            tl.store(reads + place, a, mask=there[:, None])
        if NORMALIZES:
            mean = tl.sum(tl.where(valid[None, :], a, 0.0), 1) / BATCH
            centered = tl.where(valid[None, :], a - mean[:, None], 0.0)
            variance = tl.sum(centered * centered, 1) / BATCH
            inverse = 1 / tl.sqrt_rn(variance + eps)
            if CENTER:
                a = centered
            if SCALE:
                a *= inverse[:, None]
            at = UNIT + unit
            tl.store(moments + at, mean, mask=there)
            tl.store(moments + ALL + at, inverse, mask=there)
            old = tl.load(running_mean + at, mask=there, other=0.0)
            tl.store(running_mean + at, old + keep * (mean - old), mask=there)
            old = tl.load(running_variance + at, mask=there, other=0.0)
            tl.store(running_variance + at, old + keep * (unbiased * variance - old), mask=there)
        if GAMMA >= 0:
            gamma = tl.load(numbers + GAMMA + unit, mask=there, other=0.0)
            a = a * gamma[:, None] + tl.load(numbers + BETA + unit, mask=there, other=0.0)[:, None]
        if PRE:
            a = activated(a, KIND)
        tl.store(hands + place, a, mask=there[:, None])


@triton.jit
def loss_and_slope(z, goal, valid, output, N_OUT: tl.constexpr, BATCH: tl.constexpr, CLASSES: tl.constexpr):
    """Mean loss of logits z [output, sample], how many are correct, and ∂(mean loss)/∂z."""
    real = valid[None, :] & (output < N_OUT)[:, None]
    hits = 0
    if CLASSES:
        hit = output[:, None] == goal[None, :].to(tl.int32)
        z = tl.where((output < N_OUT)[:, None], z, float("-inf"))
        hits = tl.sum((valid & (tl.argmax(z, 0) == goal.to(tl.int32))).to(tl.int32), 0)
        z -= tl.max(z, 0)[None, :]
        power = tl.exp(z)
        total = tl.sum(power, 0)
        log_share = tl.sum(tl.where(hit, z, 0.0), 0) - tl.log(total)
        loss = -tl.sum(tl.where(valid, log_share, 0.0), 0) / BATCH
        slope = (power / total[None, :] - tl.where(hit, 1.0, 0.0)) / BATCH
    else:
        error = tl.where(real, z - goal[None, :], 0.0)
        loss = tl.sum(tl.sum(error * error, 1), 0) / BATCH
        slope = error * (2 / BATCH)
    return loss, hits, tl.where(real, slope, 0.0)


@triton.jit
def judge(nothing, numbers, source, targets, row, top_slopes, correct, N_IN: tl.constexpr, N_OUT: tl.constexpr,
          WEIGHT: tl.constexpr, BIAS: tl.constexpr, BATCH: tl.constexpr, SAMPLES: tl.constexpr, INNER: tl.constexpr,
          TOP: tl.constexpr, CLASSES: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """The output layer: the mean loss of what it makes of ``source``; ∂loss/∂logits and the correct ones are stored."""
    sample = tl.arange(0, SAMPLES)
    valid = sample < BATCH
    output = not_yet(nothing) + tl.arange(0, TOP)
    there = output < N_OUT
    z = product(numbers + WEIGHT, N_IN, 1, output, there, source, SAMPLES, valid, N_IN, INNER, PRECISION)
    z += tl.load(numbers + BIAS + output, mask=there, other=0.0)[:, None]
    goal = tl.load(targets + row, mask=valid, other=0)
    loss, hits, slope = loss_and_slope(z, goal, valid, output, N_OUT, BATCH, CLASSES)
    tl.store(correct, hits)
    tl.store(top_slopes + output[:, None] * SAMPLES + sample[None, :], slope, mask=there[:, None])
    return loss


@triton.jit
def backward(nothing, numbers, above, places, ABOVE: tl.constexpr, N_OUT: tl.constexpr, N_IN: tl.constexpr, GAMMA:
             tl.constexpr, UNIT: tl.constexpr, ALL: tl.constexpr, BATCH: tl.constexpr, SAMPLES: tl.constexpr, UNITS:
             tl.constexpr, INNER: tl.constexpr, PRE: tl.constexpr, KIND: tl.constexpr, NORMALIZES: tl.constexpr, CENTER:
             tl.constexpr, SCALE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """From ``above``, ∂loss/∂preactivation of the layer whose weights begin at ABOVE, to that of the layer below it.

    N_OUT and N_IN are that layer's widths; GAMMA and UNIT say where γ and the units of the layer below begin.
    """
    reads, hands, slopes, moments = (
        places, places + ALL * SAMPLES, places + 2 * ALL * SAMPLES, places + 3 * ALL * SAMPLES)  # fmt: skip
    sample = tl.arange(0, SAMPLES)
    valid = sample < BATCH
    zero = not_yet(nothing)
    for tile in range(0, N_IN, UNITS):
        unit = zero + tile + tl.arange(0, UNITS)
        there = unit < N_IN
        at = UNIT + unit
        place = at[:, None] * SAMPLES + sample[None, :]
        g = product(numbers + ABOVE, 1, N_IN, unit, there, above + sample, SAMPLES, valid, N_OUT, INNER, PRECISION)
        if PRE:
            g = through_activation(g, tl.load(hands + place, mask=there[:, None], other=0.0), KIND)
            g = tl.where(valid[None, :], g, 0.0)
        if NORMALIZES or GAMMA >= 0 or not PRE:
            a = tl.load(reads + place, mask=there[:, None] & valid[None, :], other=0.0)
        if NORMALIZES or GAMMA >= 0:
            normalized = a
            if NORMALIZES:
                mean = tl.load(moments + at, mask=there, other=0.0)
                inverse = tl.load(moments + ALL + at, mask=there, other=0.0)
                if CENTER:
                    normalized = a - mean[:, None]
                if SCALE:
                    normalized *= inverse[:, None]
            total, pull = tl.sum(g, 1), tl.sum(g * normalized, 1)
            if NORMALIZES:
                if SCALE and CENTER:
                    g = (g - normalized * (pull / BATCH)[:, None] - (total / BATCH)[:, None]) * inverse[:, None]
                elif SCALE:
                    g = (g - (a - mean[:, None]) * (inverse * pull / BATCH)[:, None]) * inverse[:, None]
                else:
                    g -= (total / BATCH)[:, None]
            if GAMMA >= 0:
                g *= tl.load(numbers + GAMMA + unit, mask=there, other=0.0)[:, None]
                tl.store(moments + 2 * ALL + at, pull, mask=there)
                tl.store(moments + 3 * ALL + at, total, mask=there)
        if not PRE:
            g = through_activation(g, a, KIND)
        tl.store(slopes + place, tl.where(valid[None, :], g, 0.0), mask=there[:, None])


@triton.jit
def learn(nothing, numbers, velocities, masks, slope, source, SOURCE_INNER: tl.constexpr, moments, lr, momentum,
          weight_decay, norm_decay, N_IN: tl.constexpr, N_OUT: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
          GAMMA: tl.constexpr, BETA: tl.constexpr, UNIT: tl.constexpr, ALL: tl.constexpr, BATCH: tl.constexpr, SAMPLES:
          tl.constexpr, UNITS: tl.constexpr, COLUMNS: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr,
          WEIGHT_DECAY: tl.constexpr, NORM_DECAY: tl.constexpr, MASKED: tl.constexpr, WEIGHTS_MASKED: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """Update a layer's weights, by slope · sourceᵀ, and its bias, γ and β."""
    sample = tl.arange(0, SAMPLES)
    valid = sample < BATCH
    zero = not_yet(nothing)
    for tile in range(0, N_OUT, UNITS):
        unit = zero + tile + tl.arange(0, UNITS)
        there = unit < N_OUT
        g = tl.load(slope + unit[:, None] * SAMPLES + sample[None, :], mask=there[:, None], other=0.0)
        if BIAS >= 0:
            update(numbers, velocities, masks, BIAS + unit, there, tl.sum(g, 1), lr, momentum, 0.0, MOMENTUM, NESTEROV,
                   False, MASKED)  # fmt: skip
        if GAMMA >= 0:
            pull = tl.load(moments + 2 * ALL + UNIT + unit, mask=there, other=0.0)
            total = tl.load(moments + 3 * ALL + UNIT + unit, mask=there, other=0.0)
            update(numbers, velocities, masks, GAMMA + unit, there, pull, lr, momentum, norm_decay, MOMENTUM, NESTEROV,
                   NORM_DECAY, MASKED)  # fmt: skip
            update(numbers, velocities, masks, BETA + unit, there, total, lr, momentum, norm_decay, MOMENTUM, NESTEROV,
                   NORM_DECAY, MASKED)  # fmt: skip
        for start in range(0, N_IN, COLUMNS):
            feature = start + tl.arange(0, COLUMNS)
            inside = feature < N_IN
            x = tl.load(source[:, None] + feature[None, :] * SOURCE_INNER, mask=valid[:, None] & inside[None, :],
                        other=0.0)  # fmt: skip
            gradient = tl.dot(g, x, input_precision=PRECISION)
            update(numbers, velocities, masks, WEIGHT + unit[:, None] * N_IN + feature[None, :], there[:, None] &
                   inside[None, :], gradient, lr, momentum, weight_decay, MOMENTUM, NESTEROV, WEIGHT_DECAY,
                   WEIGHTS_MASKED)  # fmt: skip


# Numbers that change from call to call must not be compiled in.
@triton.jit(
    do_not_specialize=["first", "last", "first_step", "first_run", "targets_stride", "order_stride", "found_stride"]
)
def descend(
    first, last, first_run,
    numbers, velocities, masks,  # [run, SIZE]
    running_mean, running_variance,  # [run, hidden unit]
    rates, keeps, momenta, weight_decays, norm_decays,  # [run]
    x, targets, targets_stride,  # [row, in]; [run or 1, row]
    order, order_stride, group_of_run,  # [group, row]; [run]
    scratch,  # [run, SCRATCH]
    nothing,  # a zero
    losses, correct, first_step, found_stride,  # [run, step from first_step on]
    eps, unbiased,
    WIDTHS: tl.constexpr, UNITS_BEFORE: tl.constexpr, WEIGHTS: tl.constexpr, BIASES: tl.constexpr,
    GAMMAS: tl.constexpr, BETAS: tl.constexpr, SIZE: tl.constexpr, SCRATCH: tl.constexpr,
    BATCH: tl.constexpr, SAMPLES: tl.constexpr, UNITS: tl.constexpr, INNER: tl.constexpr, COLUMNS: tl.constexpr,
    TOP: tl.constexpr,
    CLASSES: tl.constexpr, PRE: tl.constexpr, KIND: tl.constexpr, NORMALIZES: tl.constexpr, CENTER: tl.constexpr,
    SCALE: tl.constexpr, MOMENTUM: tl.constexpr, NESTEROV: tl.constexpr, WEIGHT_DECAY: tl.constexpr,
    NORM_DECAY: tl.constexpr, MASKED: tl.constexpr, WEIGHTS_MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Steps first … last − 1 of runs first_run, …, a program each: rows, forward, loss, backward, update, running
    statistics.

    ``WIDTHS``: of the input, the hidden layers and the output; ``UNITS_BEFORE``: how many hidden units there are before
    each hidden layer, and in all. ``WEIGHTS``, ``BIASES``, ``GAMMAS``, ``BETAS``: where a layer's begin in a run's
    numbers, −1 where it has none. Tiles: ``SAMPLES`` ≥ BATCH and ``TOP`` ≥ outputs are a whole axis; ``UNITS``,
    ``INNER`` and ``COLUMNS`` cut theirs.

    In ``scratch`` lie, for the hidden units of all layers: per sample what the norm reads, what the layer hands on, and
    ∂loss/∂preactivation; then per unit mean, 1/sqrt(variance + ε), and the gradients of γ and β; at last ∂loss/∂logits.
    """
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    ALL: tl.constexpr = UNITS_BEFORE[HIDDEN]
    run = (first_run + tl.program_id(0)).to(tl.int64)
    numbers, velocities, masks = numbers + run * SIZE, velocities + run * SIZE, masks + run * SIZE
    running_mean, running_variance = running_mean + run * ALL, running_variance + run * ALL
    rate, keep, momentum = tl.load(rates + run), tl.load(keeps + run), tl.load(momenta + run)
    weight_decay, norm_decay = tl.load(weight_decays + run), tl.load(norm_decays + run)
    order += tl.load(group_of_run + run) * order_stride
    targets += run * targets_stride
    losses, correct = losses + run * found_stride, correct + run * found_stride
    places = scratch + run * SCRATCH
    hands, slopes, moments = places + ALL * SAMPLES, places + 2 * ALL * SAMPLES, places + 3 * ALL * SAMPLES
    top_slopes = moments + 4 * ALL
    sample = tl.arange(0, SAMPLES)
    valid = sample < BATCH
    for step in range(first, last):
        row = tl.load(order + step * BATCH + sample, mask=valid, other=0).to(tl.int64)
        rows = x + row * WIDTHS[0]
        source = rows
        for layer in tl.static_range(HIDDEN):
            forward(nothing, numbers, source, 1 if layer == 0 else SAMPLES, places, running_mean, running_variance,
                    keep, eps, unbiased, WIDTHS[layer], WIDTHS[layer + 1], WEIGHTS[layer], BIASES[layer], GAMMAS[layer],
                    BETAS[layer], UNITS_BEFORE[layer], ALL, BATCH, SAMPLES, UNITS, INNER, PRE, KIND, NORMALIZES,
                    CENTER, SCALE, PRECISION)  # fmt: skip
            tl.debug_barrier()
            source = hands + UNITS_BEFORE[layer] * SAMPLES + sample
        loss = judge(nothing, numbers, source, targets, row, top_slopes, correct + step - first_step,
                     WIDTHS[HIDDEN], WIDTHS[HIDDEN + 1], WEIGHTS[HIDDEN], BIASES[HIDDEN],
                     BATCH, SAMPLES, INNER, TOP, CLASSES, PRECISION)  # fmt: skip
        tl.store(losses + step - first_step, loss)
        # A learning rate of NaN stops a run whose loss is no number: every parameter becomes NaN.
        lr = tl.where(loss - loss == 0, rate, float("nan"))
        tl.debug_barrier()

        for layer in tl.static_range(HIDDEN, -1, -1):
            own = top_slopes if layer == HIDDEN else slopes + UNITS_BEFORE[layer] * SAMPLES
            source = rows
            if layer > 0:
                source = hands + UNITS_BEFORE[layer - 1] * SAMPLES + sample
                backward(nothing, numbers, own, places, WEIGHTS[layer], WIDTHS[layer + 1], WIDTHS[layer],
                         GAMMAS[layer - 1], UNITS_BEFORE[layer - 1], ALL, BATCH, SAMPLES, UNITS, INNER, PRE, KIND,
                         NORMALIZES, CENTER, SCALE, PRECISION)  # fmt: skip
                tl.debug_barrier()
            learn(nothing, numbers, velocities, masks, own, source, 1 if layer == 0 else SAMPLES, moments, lr, momentum,
                  weight_decay, norm_decay, WIDTHS[layer], WIDTHS[layer + 1], WEIGHTS[layer], BIASES[layer],
                  GAMMAS[layer], BETAS[layer], 0 if layer == HIDDEN else UNITS_BEFORE[layer], ALL, BATCH, SAMPLES,
                  UNITS, COLUMNS, MOMENTUM, NESTEROV, WEIGHT_DECAY, NORM_DECAY, MASKED, WEIGHTS_MASKED,
                  PRECISION)  # fmt: skip
        tl.debug_barrier()
