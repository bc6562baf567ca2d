"""Which devices there are to train on, and how much memory one has to give."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from bnexp.errors import DeviceUnavailable, UsageError


def resolve_device(name: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU; raise DeviceUnavailable for one that is not there."""
    if name == "cpu" or (name == "auto" and not _may_have_cuda()):
        return "cpu"
    import torch  # takes a second, so only where there may be a device

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if name not in there:
        raise UsageError(f"--device {name}: one of auto, {', '.join(there)} is expected")
    if not there[name]:
        raise DeviceUnavailable(f"--device {name}: not available to torch {torch.__version__} here; use --device cpu")
    return name


def device_names() -> list[str]:
    """The devices that can be trained on here, the CPU first."""
    import torch

    others = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, there in others.items() if there)]


def room_for_stacks(device: str, share: float) -> int | None:
    """Bytes for a stack: its share of four fifths of a device's memory that is free; None for a CPU."""
    if device != "cuda":
        return None
    import torch

    return int(0.8 * torch.cuda.mem_get_info()[0] * min(1.0, share))


def _may_have_cuda() -> bool:
    """Whether a driver is there without which torch finds no device: CUDA's library, or ROCm's device file."""
    for library in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return Path("/dev/kfd").exists()
