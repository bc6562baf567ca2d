"""How gradients grow towards the first layer (Yang et al. 2019, A mean field theory of batch normalization).

δ [unit, sample] = ∂(mean loss)/∂a of a layer's preactivation a = Wx + b, on the probe set with its own batch statistics
and the labels trained on. With a loss that is a mean over n samples the squares fall as 1/n; the ratios do not.

- gradient_square: mean over units u of Σ δ_u² over samples;
- weighted_square: mean over units of σ_u²·Σ δ_u², σ_u² the biased variance of a_u over the probe set: the square of
  the gradient with a in units of its own SD. A norm makes δ ∝ 1/σ where it stands before the activation, so it does not
  change with the length of the weights; a unit that is constant adds 0;
- ratio, weighted_ratio: of layer l over layer l + 1, both hidden. The output is not compared with: it has no norm.

Means over units, not sums: Yang's statement is for equal widths, where both agree. For independent weights of variance
w²/width, norm standardize before the activation g, B probe rows and large equal widths: σ²_{l+1} = w²·Var g(z), z ~
N(0, 1), and w²·E g′(z)² of the square comes back, so weighted_ratio is E g′(z)²/Var g(z): for relu π/(π − 1), for
linear 1, with B rows (B − 2)/(B − 3). ratio is that times σ²_{l+1}/σ²_l, which is 1 between layers whose inputs are
alike: from the second layer on, but not from layer 1 to 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bnexp.gradients import preactivation_gradients
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, Measure, Reading, Record

if TYPE_CHECKING:
    from torch import Tensor

_LAST = "empty for the last hidden layer and the output"
TABLE = Table(
    "gradients",
    (LAYER,),
    (
        Column(
            "gradient_square",
            "(loss/activation)²",
            "mean over units of Σ(∂mean loss/∂preactivation)² over probe rows",
            log=True,
        ),
        Column(
            "weighted_square",
            "loss²",
            "the same, each unit times its preactivation's variance over the probe rows",
            log=True,
        ),
        Column("ratio", "1", f"gradient_square over that of the next layer; {_LAST}", log=True),
        Column("weighted_ratio", "1", f"weighted_square over that of the next layer; {_LAST}", log=True),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per layer."""
    gradients = preactivation_gradients(dict(reading.parameters), reading.probe, reading.structure)
    squares = [
        torch.stack(layer_squares(taps["preactivation"].double(), gradient.double()), 1)
        for taps, gradient in zip(reading.taps, gradients, strict=True)
    ]
    for layer, here in enumerate(squares, start=1):
        if layer < reading.structure.n_layers - 1:
            values = torch.cat([here, here / squares[layer]], 1)
            yield Record("gradients", (str(layer),), TABLE.names, values)
        else:
            yield Record("gradients", (str(layer),), TABLE.names[:2], here)


def layer_squares(a: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """gradient_square and weighted_square, each [run], of a layer's a and ∂loss/∂a [run, unit, sample]."""
    deviation = a - a.mean(-1, keepdim=True)
    square = (gradient * gradient).sum(-1)
    return square.mean(-1), ((deviation * deviation).mean(-1) * square).mean(-1)


GRADIENTS = Measure("gradients", (TABLE,), read)
