"""bnexp measures what batch norm does. The command line is ``bnexp``; see README.md.

In Python: ``bnexp.train(spec, overrides)``, ``bnexp.load(folder)``, ``bnexp.compare(folder)``, ``bnexp.report(folder)``
and ``bnexp.chart(folder)``. They are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnexp.api import chart, compare, load, report, train

__version__ = "0.1.0"
__all__ = ["chart", "compare", "load", "report", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("bnexp.api"), name)
    raise AttributeError(f"module 'bnexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
