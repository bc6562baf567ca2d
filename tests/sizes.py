"""How much is tried: little by little in CI, much where BNEXP_SIZE=full."""

from __future__ import annotations

import os


def by_size(quick: int, full: int) -> int:
    """How often to try something."""
    return full if os.environ.get("BNEXP_SIZE") == "full" else quick
