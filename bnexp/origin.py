"""Where numbers come from: data, versions, device, revision; what meta.json and commit.json say of it."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

import bnexp
from bnexp import kernels
from bnexp.data import Dataset
from bnexp.lazy_torch import torch
from bnexp.spec import DataFields
from bnexp.workers import blas_kernels

COMPUTED_BY = ("device", "bnexp", "torch", "numpy", "numba", "blas", "threads", "host")  # host: of a cluster


def checksums(datasets: Mapping[DataFields, Dataset]) -> list[dict[str, Any]]:
    """Of each data set: its name, the fields that make it, its SHA-256, its training rows."""
    return [
        {
            "name": fields.name,
            "fields": fields.identity,
            "sha256": dataset.sha256,
            "train_rows": len(dataset.train.features),
        }
        for fields, dataset in datasets.items()
    ]


def versions() -> dict[str, str]:
    """Of bnexp, Python, the libraries that compute, and the platform."""
    return {
        "bnexp": bnexp.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
        "numba": version("numba") if kernels.AVAILABLE else "none",
        "platform": f"{platform.system()} {platform.machine()}",
    }


def computed_by(device: str) -> dict[str, Any]:
    """What the bits of a run depend on besides the spec: a shard is finished by what began it."""
    return {
        "device": device_name(device),
        "bnexp": bnexp.__version__,
        "torch": version("torch"),
        "numpy": np.__version__,
        "numba": version("numba") if kernels.AVAILABLE else "none",
        "blas": blas_kernels(),
        "threads": 1,
    }


def computers(said: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What computed which shards, an entry for each kind. ``said``: by shard, what its commit.json says."""
    kinds: dict[str, dict[str, Any]] = {}
    for shard, words in sorted(said.items()):
        kind = {name: words[name] for name in COMPUTED_BY if name in words}
        kinds.setdefault(json.dumps(kind), {**kind, "shards": []})["shards"].append(shard)
    return list(kinds.values())


def device_name(device: str) -> str:
    """``cpu``, ``mps``, or ``cuda`` and which."""
    if device == "cuda":
        return f"cuda ({torch.cuda.get_device_name()})"
    return device


def git_state() -> dict[str, Any] | None:
    """Revision of the project in the current folder and whether it has changes; None outside a repository."""
    try:
        ask = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"]
        revision, status = (
            subprocess.run(words, capture_output=True, text=True, timeout=5, check=True).stdout.strip() for words in ask
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "dirty": bool(status)}
