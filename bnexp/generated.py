"""Rows made up: spirals, blobs, xor, bump and teacher, each a function of (data_seed, samples) and its own fields.

Training rows are drawn from stream(data_seed, "data", 0), as many test rows from stream(data_seed, "data", 1). Features
are float32, and targets are computed from them after that rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bnexp.norms import NORMS, Switches
from bnexp.rng import stream
from bnexp.sources import Array, Raw
from bnexp.spec import DataFields, ModelFields

TRAIN, TEST = 0, 1  # index of the stream "data"; from 2 on, the teacher's layers
CLASSES = ("0", "1", "2")  # of spirals and blobs

BLOB_RADIUS = 2.0  # assumption: in SDs of a blob; neighbours stand 3.5 SDs apart and overlap a little
SPIRAL_TURNS = 0.75  # assumption: from the centre to the rim
SPIRAL_SD = 0.05  # assumption: the rim has radius 1
TEACHER_EPS = float(ModelFields.model_fields["eps"].default)  # so that a student of the same norm can be its teacher


def make_spirals(fields: DataFields) -> Raw:
    """Three spiral arms in 2-D: t(cos φ, sin φ) + N(0, .05²), t ~ U(0, 1), φ = 2π(class/3 + .75 t)."""

    def draw(generator: np.random.Generator, classes: Array) -> Array:
        t = generator.random(len(classes))
        angle = 2 * np.pi * (classes / 3 + SPIRAL_TURNS * t)
        arm: Array = t[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return arm + SPIRAL_SD * generator.standard_normal(arm.shape)

    return _three_classes(fields, draw)


def make_blobs(fields: DataFields) -> Raw:
    """Three Gaussian classes in 2-D, identity covariance, centres on a circle of radius 2 at 0°, 120°, 240°."""

    def draw(generator: np.random.Generator, classes: Array) -> Array:
        angle = 2 * np.pi * classes / 3
        centre: Array = BLOB_RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)
        return centre + generator.standard_normal(centre.shape)

    return _three_classes(fields, draw)


def _three_classes(fields: DataFields, draw: Callable[[np.random.Generator, Array], Array]) -> Raw:
    """Classes as equal in number as possible, in random order, so that evenly spaced rows see them all."""

    def part(index: int) -> tuple[Array, Array]:
        generator = stream(fields.data_seed, "data", index)
        classes = generator.permutation(np.arange(fields.n_samples, dtype=np.int64) % 3)
        return draw(generator, classes).astype(np.float32), classes

    return Raw(f"data {fields.name}", "classification", CLASSES, *part(TRAIN), *part(TEST))


def make_xor(fields: DataFields) -> Raw:
    """Rows x ~ N(0, 1) in 2-D, each with −x (row n−1−i is minus row i); the class is whether x₁x₂ > 0."""

    def part(index: int) -> tuple[Array, Array]:
        half = stream(fields.data_seed, "data", index).standard_normal((fields.n_samples // 2, 2)).astype(np.float32)
        rows = np.concatenate([half, -half[::-1]])
        # By signs, as the product of two small float32 can be 0.
        return rows, ((rows[:, 0] > 0) == (rows[:, 1] > 0)).astype(np.int64)

    classes = ("unlike signs", "like signs")
    return Raw("data xor", "classification", classes, *part(TRAIN), *part(TEST), mirrored=True)


def make_bump(fields: DataFields) -> Raw:
    """exp(−((x − .45)/.18)²) on an evenly spaced grid over [−1, 1], test rows midway between; nothing is random."""
    n = fields.n_samples
    steps = np.arange(1 - n, n, dtype=np.float64)  # −(n−1) … n−1: grid points and midpoints in turn
    x = (steps / (n - 1)).astype(np.float32)[:, None]
    y = np.exp(-(((x[:, 0].astype(np.float64) - 0.45) / 0.18) ** 2))
    return Raw("data bump", "regression", (), x[::2], y[::2], x[1::2], y[1::2], mirrored=True)


def make_teacher(fields: DataFields) -> Raw:
    """Rows N(0, 1) with ``inputs`` features; the target is what a random network answers (see ``_teach``)."""
    n = fields.n_samples
    parts = [stream(fields.data_seed, "data", index).standard_normal((n, fields.inputs)) for index in (TRAIN, TEST)]
    x = np.concatenate(parts).astype(np.float32)
    y = _teach(fields, x.astype(np.float64), n)
    return Raw("data teacher", "regression", (), x[:n], y[:n], x[n:], y[n:])


def _teach(fields: DataFields, rows: Array, n_train: int) -> Array:
    """The teacher's answer [n] to rows [n, inputs], in float64.

    Layer by layer a = Wx + b, then its norm, then its activation; the output is linear, without a bias, as standardized
    targets would not show one. Weights ~ N(0, 1/fan_in). What a layer draws does not depend on the teacher's norm.
    """
    switches, activation = NORMS[fields.teacher_norm], _ACTIVATIONS[fields.teacher_activation]
    for layer, width in enumerate(fields.teacher_hidden, 1):
        generator = stream(fields.data_seed, "data", TEST + layer)
        weights = generator.standard_normal((width, rows.shape[1])) / np.sqrt(rows.shape[1])
        # assumption: the spreads of b, γ and β; wide enough that leaving one out changes the function
        bias = generator.standard_normal(width)
        gamma, beta = generator.uniform(0.5, 2, width), generator.standard_normal(width)
        a = rows @ weights.T + (0 if switches.center else bias)
        rows = activation(_normalize(a, switches, gamma, beta, n_train))
    output = stream(fields.data_seed, "data", TEST + len(fields.teacher_hidden) + 1)
    answer: Array = rows @ output.standard_normal(rows.shape[1]) / np.sqrt(rows.shape[1])
    return answer


def _normalize(a: Array, switches: Switches, gamma: Array, beta: Array, n_train: int) -> Array:
    """The formula of ``bnexp.norms`` on a [sample, unit].

    μ and σ² are those of all training rows, for the test rows too: the teacher is one fixed function.
    """
    mean, variance = a[:n_train].mean(0), a[:n_train].var(0)
    if switches.center:
        a = a - mean
    if switches.scale:
        a = a / np.sqrt(variance + TEACHER_EPS)
    return a * (gamma if switches.gamma else 1) + (beta if switches.beta else 0)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda a: 0.5 * (1 + np.tanh(a / 2)),
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "linear": lambda a: a,
}

MAKERS: dict[str, Callable[[DataFields], Raw]] = {
    "spirals": make_spirals,
    "blobs": make_blobs,
    "xor": make_xor,
    "bump": make_bump,
    "teacher": make_teacher,
}
