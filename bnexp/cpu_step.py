"""A training step on a CPU: what ``loss_and_gradients`` computes, in memory that is allocated once.

Of a small step's time, most goes into calls and into memory that is not in the cache. Here products are NumPy's, which
calls BLAS for each run; what lies between them is done by the loops of ``bnexp.kernels``, one pass each.
``bnexp.gradients`` is the slow, obvious twin; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bnexp import kernels
from bnexp.arrays import product
from bnexp.network import ACTIVATIONS, Batch, Gradients, Parameters
from bnexp.norms import Statistics
from bnexp.plan import Structure

_Array = np.ndarray[Any, Any]


class CpuStep:
    """Loss and gradients of a stack on minibatches of one size; a call overwrites what the call before returned.

    The parameters are read anew at each call. Noise is left to the twin.
    """

    def __init__(self, parameters: Mapping[str, _Array], structure: Structure, n: int) -> None:
        self.parameters, self.structure = parameters, structure
        weight = parameters["weight1"]
        self.gradients = {name: np.empty_like(array) for name, array in parameters.items()}
        self.hidden = [
            _Hidden(parameters, self.gradients, structure, layer, n) for layer in range(1, structure.n_layers)
        ]
        shape = (len(weight), structure.widths[-1], n)
        self.logits, self.shifted, self.slope = (np.empty(shape, weight.dtype) for _ in range(3))
        self.loss, self.correct = np.empty(len(weight), weight.dtype), np.zeros(len(weight), np.int64)

    def __call__(self, batch: Batch) -> Gradients:
        """Each run's mean loss on a batch, its logits, gradients and batch statistics."""
        last = self.structure.n_layers
        inputs = [batch.x]
        for layer in self.hidden:
            inputs.append(layer.forward(inputs[-1]))
        product(self.parameters[f"weight{last}"], inputs[-1], self.logits)
        kernels.add_bias(self.logits, self.parameters[f"bias{last}"])
        self._loss_and_slope(batch.targets)
        slope = self.slope
        for place in range(last, 0, -1):
            product(slope, inputs[place - 1].swapaxes(1, 2), self.gradients[f"weight{place}"])
            if f"bias{place}" in self.gradients:
                kernels.sum_samples(slope, self.gradients[f"bias{place}"])
            if place > 1:
                slope = self.hidden[place - 2].backward(self.parameters[f"weight{place}"], slope)
        correct = self.correct if self.structure.shape.task == "classification" else None
        statistics = [layer.statistics for layer in self.hidden] if self.structure.normalizes else []
        return Gradients(self.loss, self.logits, dict(self.gradients), statistics, correct)

    def _loss_and_slope(self, targets: _Array) -> None:
        """Mean loss [run], correct predictions [run], and ∂(mean loss)/∂logits, to their places."""
        if self.structure.shape.task == "classification":
            kernels.shift_logits(self.logits, targets, self.shifted, self.correct)
            np.exp(self.shifted, out=self.slope)
            kernels.cross_entropy(self.shifted, targets, self.slope, self.loss)
            return
        n = targets.shape[1]
        np.subtract(self.logits, targets[:, None], out=self.shifted)
        np.multiply(self.shifted, 2 / n, out=self.slope)
        self.shifted *= self.shifted
        kernels.sum_samples(self.shifted, self.loss[:, None])
        self.loss /= n


class _Hidden:
    """A hidden layer: where its numbers are, its step forward and its step back."""

    def __init__(
        self, parameters: Mapping[str, _Array], gradients: Parameters, structure: Structure, layer: int, n: int
    ) -> None:
        self.structure, self.kind = structure, kernels.KINDS[structure.activation]
        self.weight, self.bias = parameters[f"weight{layer}"], parameters.get(f"bias{layer}")
        (runs, units), self.dtype = self.weight.shape[:2], self.weight.dtype
        self.transforms = structure.normalizes or f"gamma{layer}" in parameters
        one, zero = np.ones((runs, units), self.dtype), np.zeros((runs, units), self.dtype)
        self.gamma, self.beta = parameters.get(f"gamma{layer}", one), parameters.get(f"beta{layer}", zero)
        spare = np.empty_like(one)
        self.gamma_slope, self.beta_slope = gradients.get(f"gamma{layer}", spare), gradients.get(f"beta{layer}", spare)
        self.preactivation, self.transformed, self.activation, self.slope = (
            np.empty((runs, units, n), self.dtype) for _ in range(4)
        )
        ghosts = n // structure.ghost_size if structure.ghost_size else 1
        self.of_ghosts = (runs, units, ghosts, n // ghosts)
        self.mean, self.variance = (np.empty(self.of_ghosts[:3], self.dtype) for _ in range(2))
        shape = self.of_ghosts[:3] if structure.ghost_size else self.of_ghosts[:2]
        self.statistics = Statistics(self.mean.reshape(shape), self.variance.reshape(shape))
        self.center, self.eps = self.dtype.type(structure.center), self.dtype.type(structure.eps)

    def forward(self, x: _Array) -> _Array:
        """What the layer hands to the next [run, unit, sample], from what it is handed [group, in, sample]."""
        product(self.weight, x, self.preactivation)
        if self.bias is not None:
            kernels.add_bias(self.preactivation, self.bias)
        if self.structure.placement == "pre":
            return self._activate(self._transform(self.preactivation))
        return self._transform(self._activate(self.preactivation))

    def backward(self, weight: _Array, slope: _Array) -> _Array:
        """∂loss/∂preactivation, from the next layer's weight and ∂loss/∂(its preactivation)."""
        product(weight.swapaxes(1, 2), slope, self.slope)
        if self.structure.placement == "pre":
            self._through_activation()
            self._through_transform(self.preactivation)
        else:
            self._through_transform(self.activation)
            self._through_activation()
        return self.slope

    def _transform(self, a: _Array) -> _Array:
        """Norm and affine transform, as far as there are any."""
        if not self.transforms:
            return a
        kernels.normalize(
            a.reshape(self.of_ghosts),
            self.gamma,
            self.beta,
            self.center,
            self.structure.scale,
            self.eps,
            self.mean,
            self.variance,
            self.transformed.reshape(self.of_ghosts),
        )
        return self.transformed

    def _through_transform(self, a: _Array) -> None:
        """∂loss/∂(what ``_transform`` gave) → ∂loss/∂a, in place, and the gradients of γ and β."""
        if self.transforms:
            kernels.through_norm(
                self.slope.reshape(self.of_ghosts),
                a.reshape(self.of_ghosts),
                self.gamma,
                self.center,
                self.structure.scale,
                self.eps,
                self.mean,
                self.variance,
                self.gamma_slope,
                self.beta_slope,
            )

    def _activate(self, x: _Array) -> _Array:
        """g(x)."""
        found: _Array = ACTIVATIONS[self.structure.activation](x, self.activation)
        return found

    def _through_activation(self) -> None:
        """∂loss/∂g(x) → ∂loss/∂x, in place."""
        kernels.through_activation(self.slope.reshape(-1), self.activation.reshape(-1), self.kind)
