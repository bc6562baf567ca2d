"""``torch``, imported when something is first asked of it: the import takes a second, more than a small study.

On a CPU that is by a measure that needs torch, or never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch
else:

    class _Torch:
        def __getattr__(self, name: str) -> Any:
            import torch

            return getattr(torch, name)

    torch = _Torch()
