"""A trained run as an ordinary ``torch.nn.Sequential``, in evaluation mode: what it answers by running statistics.

A norm that standardizes is a ``BatchNorm1d``, which can be trained on; center, scale and affine, which torch has not,
are the affine map per unit that they are when evaluated.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexp.errors import ResultsError
from bnexp.layout import SHARDS
from bnexp.lazy_torch import torch
from bnexp.norms import NORMS
from bnexp.shard_files import check, load_arrays
from bnexp.spec import Setting
from bnexp.store import committed_shards

if TYPE_CHECKING:
    from torch import nn

Arrays = dict[str, np.ndarray[Any, Any]]


def module_of(folder: Path, setting: Setting, key: str) -> nn.Sequential:
    """The network of a finished run, float32, on the CPU, from features as bnexp scales them to outputs.

    Layers are named linear1, norm1, activation1, …; the last is the output. Raises ResultsError where its weights are
    not there: it was not trained to its end, or the folder came without shards/.
    """
    return _sequential(setting, _weights(folder, key))


def state_of(module: nn.Sequential) -> Arrays:
    """The module's ``state_dict`` as NumPy arrays."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def _weights(folder: Path, key: str) -> Arrays:
    for name, commit in committed_shards(folder, lambda commit: False).items():
        if commit.done and key in commit.ids:
            check(folder / SHARDS / name, commit)
            arrays = load_arrays(folder / SHARDS / name, commit)
            place = list(commit.ids).index(key)
            return {name: array[place] for name, array in arrays.items()}
    raise ResultsError(f"{folder}: has no weights of this run: it is not finished, or the folder came without shards/")


def _sequential(setting: Setting, arrays: Arrays) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    depth = len(setting.model.hidden) + 1
    for layer in range(1, depth + 1):
        layers[f"linear{layer}"] = _linear(arrays[f"weight{layer}"], arrays.get(f"bias{layer}"))
        if layer == depth:
            break
        parts = {f"activation{layer}": _activation(setting.model.activation)}
        if setting.model.norm != "none":
            norm = {f"norm{layer}": _norm(setting, arrays, layer)}
            parts = norm | parts if setting.model.placement == "pre" else parts | norm
        layers.update(parts)
    return torch.nn.Sequential(layers).train(False)


def _linear(weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None) -> nn.Module:
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(module, weight=weight, **({} if bias is None else {"bias": bias}))
    return module


def _activation(name: str) -> nn.Module:
    modules = {"sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "linear": torch.nn.Identity}
    return modules[name]()


def _norm(setting: Setting, arrays: Arrays, layer: int) -> nn.Module:
    model, switches = setting.model, NORMS[setting.model.norm]
    units = model.hidden[layer - 1]
    gamma = arrays.get(f"gamma{layer}", np.ones(units, np.float32)) if switches.gamma else np.ones(units, np.float32)
    beta = arrays.get(f"beta{layer}", np.zeros(units, np.float32)) if switches.beta else np.zeros(units, np.float32)
    mean = arrays.get(f"running_mean{layer}", np.zeros(units, np.float32))
    variance = arrays.get(f"running_variance{layer}", np.ones(units, np.float32))
    if switches.center and switches.scale:
        learned = switches.gamma or switches.beta
        module = torch.nn.BatchNorm1d(units, eps=model.eps, momentum=model.statistics_momentum, affine=learned)
        _fill(module, running_mean=mean, running_var=variance, **({"weight": gamma, "bias": beta} if learned else {}))
        return module
    factor = gamma / np.sqrt(variance + model.eps) if switches.scale else gamma
    return _unit_affine(factor, beta - factor * mean if switches.center else beta)


def _unit_affine(factor: np.ndarray[Any, Any], shift: np.ndarray[Any, Any]) -> nn.Module:
    """y = factor·a + shift per unit: a ``BatchNorm1d`` whose statistics are 0 and 1, and stay so."""
    module = torch.nn.BatchNorm1d(len(factor), eps=0.0, momentum=0.0)
    _fill(module, weight=factor, bias=shift)
    return module


def _fill(module: nn.Module, **values: np.ndarray[Any, Any]) -> None:
    """Put arrays into a module's parameters and buffers."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(value, np.float32)))
