"""How far a norm is from returning its input, and the same network under another norm.

Table ``identity``, for each hidden layer of a norm that centres and scales. By Ioffe & Szegedy 2015, sec. 3, γ = SD and
β = mean "could recover the original activations". a [unit, row] is the norm's input on at most 4096 evenly spaced
training rows, passed as one full batch, by its own statistics, through the layers below; μ, var (biased), SD =
sqrt(var) and the kurtosis κ = E(a − μ)⁴/var² are per unit over these rows. A residual is the RMS over rows of y − a in
units of the unit's SD, averaged over the units that vary; y = γâ + β is computed as the network does it, in float32:

- exact: γ = sqrt(var + ε), β = μ: rounding alone;
- naive: γ = SD, β = μ: 1 − SD/sqrt(var + ε) per unit;
- minibatch: γ, β as in exact, â by the statistics of minibatches of B rows, B the batch size (ghost size, where there
  are ghosts; all rows, if they are fewer): the rows in the order of this epoch (at epoch 0 of the first), cut into
  minibatches, an incomplete one dropped;
- minibatch_expected: sqrt((κ + 3)/(4B)) per unit, what minibatch tends to for large B and many more rows than B:
  E(μ_B − μ)² = var/B, E(SD_B/SD − 1)² = (κ − 1)/(4B).

γ and β as they are, RMS over all units, only those that the run learns: gamma_from_one γ − 1, gamma_from_root
γ − sqrt(var + ε), beta_from_zero β, beta_from_mean β − μ.

Table ``conversions``: the run rewritten by ``bnexp.conversion``, in float64, where that is possible: ``full`` from a
norm without statistics, with those of the probe set; ``standardize`` from a norm whose γ, β can be folded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnexp.arrays import as_tensors
from bnexp.conversion import Network, folds, to_full, to_standardize
from bnexp.evaluation import probe_rows
from bnexp.layout import Column, Table
from bnexp.lazy_torch import torch
from bnexp.measures.base import LAYER, Measure, Reading, Record, where_they_exist
from bnexp.network import forward, one_run
from bnexp.norms import Statistics, affine_transform, as_ghosts, normalize_by_batch
from bnexp.plan import Run, Structure

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 4096  # assumption: at most so many rows; the residuals' sampling error is then about 1 %

_RESIDUAL = "RMS over rows of γâ + β − a in SDs of the unit, mean over units that vary"
TABLE = Table(
    "identity",
    (LAYER,),
    (
        Column("exact", "SD", f"{_RESIDUAL}; γ = sqrt(var + ε), β = mean: rounding alone", log=True),
        Column("naive", "SD", f"{_RESIDUAL}; γ = SD, β = mean: 1 − SD/sqrt(var + ε)", log=True),
        Column("minibatch", "SD", f"{_RESIDUAL}; γ, β as in exact, â by minibatches of the batch size", log=True),
        Column(
            "minibatch_expected",
            "SD",
            "mean over units of sqrt((κ + 3)/(4B)), κ the kurtosis, B the batch size",
            log=True,
        ),
        Column("gamma_from_one", "1", "RMS over units of γ − 1, where γ is learned"),
        Column("gamma_from_root", "activation", "RMS over units of γ − sqrt(var + ε), where γ is learned", log=True),
        Column("beta_from_zero", "activation", "RMS over units of β, where β is learned"),
        Column(
            "beta_from_mean",
            "activation",
            "RMS over units of β − mean of the norm's input, where β is learned",
            log=True,
        ),
    ),
    hidden_only=True,
)
_DIFFERENCE = "greatest |difference of outputs| to the run itself over the probe set, in float64"
CONVERSIONS = Table(
    "conversions",
    (
        Column(
            "conversion",
            "",
            "the norm that the run is rewritten as: full or standardize",
            values=("full", "standardize"),
        ),
    ),
    (
        Column(
            "max_difference", "output", f"{_DIFFERENCE}, by running statistics (full: by the probe set's)", log=True
        ),
        Column(
            "max_difference_batch",
            "output",
            f"{_DIFFERENCE}, by the probe set's own statistics; not for full",
            log=True,
        ),
        Column(
            "output_sd",
            "output",
            "SD of an output over the probe set, by running statistics, mean over outputs",
            log=True,
        ),
    ),
)


def read(reading: Reading) -> Iterator[Record]:
    """Yield one row per hidden layer where the norm centres and scales, and one per run with a conversion."""
    if reading.structure.center and reading.structure.scale:
        yield from identities(reading)
    yield from conversions(reading)


def _norm_input(taps: Mapping[str, Tensor], structure: Structure) -> Tensor:
    return taps["preactivation" if structure.placement == "pre" else "activation"]


# --- the identity -----------------------------------------------------------------------------------------------------


def identities(reading: Reading) -> Iterator[Record]:
    """Yield one row per hidden layer; runs that differ in what they learn come in separate records."""
    orders = reading.rows.orders(max(reading.epoch, 1))
    seeds = reading.rows.seed_of_run.tolist()
    per_run = [_layers(reading, index, orders[seed]) for index, seed in enumerate(seeds)]  # each alone: bounds memory
    missing = [_missing(run) for run in reading.runs]
    for layer, of_runs in enumerate(zip(*per_run, strict=True), start=1):
        found = {name: torch.cat([own[name] for own in of_runs]) for name in of_runs[0]}
        yield from where_they_exist("identity", (str(layer),), found, missing)


def _layers(reading: Reading, index: int, order: np.ndarray[Any, Any]) -> list[dict[str, Tensor]]:
    """The columns, each [1], of a run's hidden layers; ``order``: of all training rows, in this epoch."""
    structure, own = reading.structure, one_run(reading.parameters, index)
    chosen = probe_rows(structure.shape.n_train, ROWS)
    taps = forward(own, as_tensors(reading.rows.train_x)[chosen].T[None], structure, with_taps=True).taps
    place = np.argsort(np.argsort(order)[chosen])  # of the chosen rows, in the epoch's order
    size = min(structure.ghost_size or structure.batch_size, len(chosen))
    kept = torch.from_numpy(place[: len(chosen) // size * size])
    layers = []
    for layer in range(1, structure.n_layers):
        a = _norm_input(taps[layer - 1], structure)
        mean = a.double().mean(-1)
        deviation = a.double() - mean[:, :, None]
        variance = (deviation * deviation).mean(-1)
        columns = residuals(a, Statistics(mean, variance), structure.eps, kept.to(a.device), size)
        if f"gamma{layer}" in own:
            gamma, beta = own[f"gamma{layer}"].double(), own[f"beta{layer}"].double()
            columns["gamma_from_one"] = _rms(gamma - 1)
            columns["gamma_from_root"] = _rms(gamma - torch.sqrt(variance + structure.eps))
            columns["beta_from_zero"], columns["beta_from_mean"] = _rms(beta), _rms(beta - mean)
        layers.append(columns)
    return layers


def residuals(a: Tensor, statistics: Statistics, eps: float, kept: Tensor, size: int) -> dict[str, Tensor]:
    """The columns exact to minibatch_expected, each [run], of a [run, unit, row] with its statistics in float64.

    ``kept``: the rows of the minibatches one after the other, ``size`` rows each.
    """
    mean, variance = statistics
    sd, root = variance.sqrt(), torch.sqrt(variance + eps)
    varies = a.amax(-1) > a.amin(-1)

    def residual(x: Tensor, gamma: Tensor, ghost_size: int) -> Tensor:
        normalized = normalize_by_batch(as_ghosts(x, ghost_size), True, True, eps)[0].view(x.shape)
        y = affine_transform(normalized, gamma.to(x), mean.to(x))
        return _mean_where(_rms(y.double() - x.double()) / sd, varies)

    deviation = a.double() - mean[:, :, None]
    square = deviation * deviation
    kurtosis = (square * square).mean(-1) / (variance * variance)
    return {
        "exact": residual(a, root, 0),
        "naive": residual(a, sd, 0),
        "minibatch": residual(a[:, :, kept], root, size),
        "minibatch_expected": _mean_where(torch.sqrt((kurtosis + 3) / (4 * size)), varies),
    }


def _mean_where(values: Tensor, there: Tensor) -> Tensor:
    """Mean over the units that are there; nan if there are none."""
    return torch.where(there, values, 0).sum(-1) / there.sum(-1)


def _rms(x: Tensor) -> Tensor:
    return (x * x).mean(-1).sqrt()


def _missing(run: Run) -> frozenset[str]:
    """Columns that do not exist for a run."""
    learned = {
        "gamma_from_one": run.switches.gamma,
        "gamma_from_root": run.switches.gamma,
        "beta_from_zero": run.switches.beta,
        "beta_from_mean": run.switches.beta,
    }
    return frozenset(name for name, there in learned.items() if not there)


# --- conversions ------------------------------------------------------------------------------------------------------


def conversions(reading: Reading) -> Iterator[Record]:
    """Yield one row per run that has a conversion, all of one kind: the runs of a stack share c and s."""
    structure = reading.structure
    if not structure.normalizes:
        values = torch.cat([_as_full(*_in_float64(reading, index)) for index in range(len(reading.runs))])
        yield Record("conversions", ("full",), ("max_difference", "output_sd"), values)
    present = [folds(structure, run.switches) for run in reading.runs]
    if any(present):
        nothing = reading.probe.x.new_zeros(1, len(CONVERSIONS.names), dtype=torch.float64)
        found = [
            _as_standardize(*_in_float64(reading, index), run) if there else nothing
            for index, (run, there) in enumerate(zip(reading.runs, present, strict=True))
        ]
        yield Record("conversions", ("standardize",), CONVERSIONS.names, torch.cat(found), present)


def _in_float64(reading: Reading, index: int) -> tuple[Network, Tensor]:
    """A run and the probe set [1, in, row]."""
    parameters = {name: tensor.double() for name, tensor in one_run(reading.parameters, index).items()}
    running = [Statistics(*(t[index : index + 1].double() for t in statistics)) for statistics in reading.running]
    return Network(parameters, running, reading.structure), reading.probe.x.double()


def _as_full(network: Network, x: Tensor) -> Tensor:
    """max_difference, output_sd, [1, 2]."""
    result = forward(network.parameters, x, network.structure, with_taps=True)
    inputs = [_norm_input(taps, network.structure) for taps in result.taps[:-1]]
    full = to_full(network, [Statistics(a.mean(-1), a.var(-1, correction=0)) for a in inputs])
    return torch.stack([_largest(_outputs(full, x) - result.logits), _output_sd(result.logits)], 1)


def _as_standardize(network: Network, x: Tensor, run: Run) -> Tensor:
    """max_difference, max_difference_batch, output_sd, [1, 3]."""
    plain, outputs = to_standardize(network, run.switches), _outputs(network, x)
    by_batch = forward(plain.parameters, x, plain.structure).logits
    by_own_batch = forward(network.parameters, x, network.structure).logits
    differences = [_largest(_outputs(plain, x) - outputs), _largest(by_batch - by_own_batch)]
    return torch.stack([*differences, _output_sd(outputs)], 1)


def _outputs(network: Network, x: Tensor) -> Tensor:
    """By running statistics."""
    logits: Tensor = forward(network.parameters, x, network.structure, network.running).logits
    return logits


def _largest(difference: Tensor) -> Tensor:
    return difference.abs().flatten(1).amax(-1)


def _output_sd(logits: Tensor) -> Tensor:
    return logits.std(-1, correction=0).mean(-1)


IDENTITY = Measure("identity", (TABLE, CONVERSIONS), read)
