"""The only birthplace of randomness: a stream is a function of (seed, purpose, index) and of nothing else.

It is drawn on the CPU by NumPy, so it does not depend on the device, on a run's place in a stack or on what was drawn
before. Runs of one seed therefore share initial weights and minibatches, whatever their settings.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np

Purpose = Literal["init", "order", "labels", "noise", "only", "data", "split", "subset", "signs"]


def stream(seed: int, purpose: Purpose, index: int = 0) -> np.random.Generator:
    """Return the random generator of a purpose.

    ``index`` is the layer for ``init``, the epoch for ``order``, the step for ``noise`` (each from 1), and 0 elsewhere.
    The generator is Philox, keyed by 128 bits of the SHA-256 of the three.
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
