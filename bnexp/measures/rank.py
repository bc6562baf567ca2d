"""How many directions the activations of a layer use, as Daneshmand et al. 2020 ask of random deep networks (Batch
normalization provably avoids rank collapse for randomly initialised deep networks).

H [unit, sample] are a tap's values on the probe set, M = HHᵀ/samples with eigenvalues λ:

- effective_rank = tr(M)²/‖M‖_F² = (Σλ)²/Σλ²;
- stable_rank = tr(M)/λ_max = ‖H‖_F²/‖H‖₂².

Both lie between 1 and the rank of H. As in the paper H is not centred; units that are never negative (sigmoid, relu)
then share one large direction, their means. ``…_centered``: the same after each unit's mean over the probe set is taken
off. H = 0 has no such number: nan. Computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, TAP, Measure, Reading, Record, learns_affine

if TYPE_CHECKING:
    from torch import Tensor

TABLE = Table(
    "rank",
    (LAYER, TAP),
    (
        Column("effective_rank", "1", "(Σλ)²/Σλ² of the eigenvalues λ of HHᵀ, H the probe set's values [unit, sample]"),
        Column("stable_rank", "1", "Σλ/λ_max of the same"),
        Column("effective_rank_centered", "1", "effective_rank with each unit's mean over the probe set taken off"),
        Column("stable_rank_centered", "1", "stable_rank with each unit's mean over the probe set taken off"),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per layer and tap."""
    affine = learns_affine(reading.runs)
    for layer, taps in enumerate(reading.taps, start=1):
        for tap, x in taps.items():
            h = x.double()
            columns = [*ranks(h), *ranks(h - h.mean(-1, keepdim=True))]
            present = affine if tap == "affine" else None
            yield Record("rank", (str(layer), tap), TABLE.names, torch.stack(columns, 1), present)


def ranks(h: Tensor) -> tuple[Tensor, Tensor]:
    """Effective and stable rank, each [run], of h [run, unit, sample]."""
    # Zeros up to multiples of four add eigenvalues 0, and every run's matrix starts on 64 bytes: the solver rounds
    # differently where it does not, so a run's numbers would depend on its place in the stack.
    h = torch.nn.functional.pad(h, (0, -h.shape[2] % 4, 0, -h.shape[1] % 4))
    if h.shape[1] > h.shape[2]:  # HᵀH has the same eigenvalues but for zeros
        h = h.transpose(1, 2)
    gram = torch.bmm(h, h.transpose(1, 2))
    # The solver refuses a whole stack for one run that has diverged; as 0 its ranks are nan.
    gram = torch.where(gram.flatten(1).isfinite().all(1)[:, None, None], gram, 0.0)
    eigenvalues = torch.linalg.eigvalsh(gram)
    total = eigenvalues.sum(-1)
    return total * total / (eigenvalues * eigenvalues).sum(-1), total / eigenvalues.amax(-1)


RANK = Measure("rank", (TABLE,), read)
