"""NumPy computes on a CPU, torch elsewhere: one formula for both, and the few operations that they spell differently.

On a CPU, NumPy multiplies stacks of small matrices 2.5 times as fast as torch on AMD Zen 5 (OpenBLAS uses AVX-512,
torch's MKL does not), takes tanh 12 times as fast, and a call costs a third (tests/benchmarks/LOG.md). And a run then
has the same bits alone as in any stack: matrices of a stack are multiplied one after the other, each by its own call of
BLAS, and NumPy's elementwise loops treat the end of an array as its body.

An ``Array`` is a ``numpy.ndarray`` or a ``torch.Tensor``. Formulas use what both understand: operators, slices,
``swapaxes``, ``sum``, and by ``library`` the functions of one name: ``exp``, ``tanh``, ``sqrt``, ``where``, …
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np

from bnexp import kernels
from bnexp.lazy_torch import torch

Array: TypeAlias = Any  # np.ndarray | Tensor; no static type says what the two have in common
Kept = TypeVar("Kept")
Function = TypeVar("Function", bound=Callable[..., Any])


def library(x: Array) -> Any:
    """The module whose functions take x: ``numpy`` or ``torch``."""
    return np if isinstance(x, np.ndarray) else torch


def put(array: np.ndarray[Any, Any], device: str) -> Array:
    """The same numbers on a device: themselves on a CPU."""
    return array if device == "cpu" else torch.from_numpy(array).to(device)


def copied(x: Array) -> Array:
    """The same numbers in memory of their own."""
    return x.copy() if isinstance(x, np.ndarray) else x.clone()


def on_cpu(x: Array) -> np.ndarray[Any, Any]:
    """The same numbers as a NumPy array, a view if they are on a CPU already."""
    found: np.ndarray[Any, Any] = x if isinstance(x, np.ndarray) else x.detach().cpu().numpy()
    return found


def widened(x: Array) -> Array:
    """The same numbers in float64, contiguous."""
    if isinstance(x, np.ndarray):
        return np.ascontiguousarray(x, np.float64)
    return (x.cpu() if x.device.type == "mps" else x).double().contiguous()  # there is no float64 on MPS


def as_arrays(value: Kept) -> Kept:
    """The same nest of dicts, lists and tuples, with a NumPy view in place of each tensor on a CPU."""
    found: Kept = _mapped(lambda x: x.numpy() if isinstance(x, torch.Tensor) and x.device.type == "cpu" else x, value)
    return found


def as_tensors(value: Kept) -> Kept:
    """The same nest, with a tensor in place of each NumPy array; both share their memory."""
    found: Kept = _mapped(lambda x: torch.from_numpy(x) if isinstance(x, np.ndarray) else x, value)
    return found


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(change, item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(_mapped(change, item) for item in value)
    return change(value)


def computed_by_numpy(function: Function) -> Function:
    """Let a function of (parameters, …) hand tensors on a CPU to NumPy, and give tensors back.

    Left alone are arrays, other devices, and parameters that autograd follows. ``__wrapped__`` is the bare function.
    """

    @functools.wraps(function)
    def called(parameters: Mapping[str, Array], *arguments: Any, **options: Any) -> Any:
        sample = parameters["weight1"]
        if isinstance(sample, np.ndarray) or sample.device.type != "cpu" or sample.requires_grad:
            return function(parameters, *arguments, **options)
        with quiet():
            return as_tensors(function(as_arrays(parameters), *as_arrays(arguments), **as_arrays(options)))

    return called  # type: ignore[return-value]


def quiet() -> Any:
    """A context in which NumPy, like torch, gives inf and nan without a warning: a run that explodes is an outcome."""
    return np.errstate(all="ignore")


# --- sums -------------------------------------------------------------------------------------------------------------


def over_samples(x: Array) -> Array:
    """Σ over the last axis, [run, unit, sample] → [run, unit]."""
    # A product with ones: NumPy's own sum is six times slower on short rows.
    return x @ _ones(x.shape[-1], x.dtype) if isinstance(x, np.ndarray) else x.sum(-1)


def over_classes(x: Array) -> Array:
    """Σ over the middle axis, [run, class, sample] → [run, 1, sample]."""
    return _ones(x.shape[1], x.dtype)[None] @ x if isinstance(x, np.ndarray) else x.sum(1, keepdim=True)


@functools.lru_cache(maxsize=64)
def _ones(n: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return np.ones(n, dtype)


# --- products and picks -----------------------------------------------------------------------------------------------


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """A·B for every run: [run, m, k] × [group, k, n] → [run, m, n]; each group of consecutive runs shares its B."""
    groups, (runs, m, k) = len(b), a.shape
    if not isinstance(a, np.ndarray):
        return (a.reshape(groups, -1, k) @ b).reshape(runs, m, -1)
    if groups == runs:
        return np.matmul(a, b, out=out)
    # One call of BLAS per run, so that its bits do not depend on the group.
    of_groups = None if out is None else out.reshape(groups, -1, m, b.shape[-1])
    return np.matmul(a.reshape(groups, -1, m, k), b[:, None], out=of_groups).reshape(runs, m, -1)


def subtract_scaled(x: Array, rate: Array, step: Array) -> None:
    """x ← x − rate·step in place, x and step [run, …], rate [run]."""
    if isinstance(x, np.ndarray) and kernels.AVAILABLE:
        kernels.subtract_scaled(x.reshape(len(x), -1), rate, step.reshape(len(x), -1))
    elif isinstance(x, np.ndarray):
        x -= per_run(rate, x) * step
    else:
        x.addcmul_(per_run(rate, x), step, value=-1)


def move_towards(x: Array, share: Array, goal: Array, factor: float) -> None:
    """x ← x + share·(factor·goal − x) in place, x and goal [run, unit], share [run]."""
    if isinstance(x, np.ndarray) and kernels.AVAILABLE:
        kernels.move_towards(x, share, goal, x.dtype.type(factor))
    else:
        x += per_run(share, x) * (factor * goal - x)


def per_run(values: Array, x: Array) -> Array:
    """values [run] → [run, 1, …], to go with x."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def picked(x: Array, classes: Array) -> Array:
    """x [run, class, sample] at classes [run, sample] → [run, sample]."""
    if not isinstance(x, np.ndarray):
        return x.gather(1, classes[:, None]).squeeze(1)
    return x.reshape(-1)[classes * x.shape[2] + _offsets(*x.shape)]


def minus_one_at(x: Array, classes: Array) -> Array:
    """x with 1 subtracted at classes [run, sample], in place; x is contiguous."""
    if not isinstance(x, np.ndarray):
        return x.scatter_add_(1, classes[:, None], torch.full_like(x[:, :1], -1))
    flat = x.reshape(-1)
    flat[classes * x.shape[2] + _offsets(*x.shape)] -= 1
    return x


@functools.lru_cache(maxsize=64)
def _offsets(runs: int, n_classes: int, n: int) -> np.ndarray[Any, Any]:
    return np.arange(runs)[:, None] * (n_classes * n) + np.arange(n)


def rows_at(x: Array, index: Array) -> Array:
    """x[index] along the first axis."""
    return x.take(index, 0) if isinstance(x, np.ndarray) else x[index]
