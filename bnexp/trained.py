"""Which numbers of a run are trained: ``train.only``, and what a norm learns.

all: weights, biases, and the γ, β that the norm learns. norm: these γ, β alone, at random features; norm+output: also
the last layer's weights and bias (Frankle, Schwab & Morcos 2021). random: as many weights as there are γ and β, drawn
without replacement among the entries of all weight matrices, the output's too, all else frozen: their control. What is
frozen keeps its initial value; running statistics follow as ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnexp.plan import Run, Structure
from bnexp.rng import stream


def trained_masks(structure: Structure, runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """For each parameter that some run does not train entirely: 1 where it is trained, else 0, run axis first.

    Shapes broadcast to the parameter: [run, 1(, 1)], or the parameter's own where single weights are chosen.
    """
    masks = {}
    for layer in range(1, structure.n_layers + 1):
        output = layer == structure.n_layers
        kinds = ["weight", "bias"] if output else ["weight", "bias", "gamma", "beta"]
        for kind in kinds:
            trained = [_is_trained(run, kind, output) for run in runs]
            if not all(trained):
                shape = (-1, 1, 1) if kind == "weight" else (-1, 1)
                masks[f"{kind}{layer}"] = np.array(trained, np.float64).reshape(shape)
    for index, run in enumerate(runs):
        if run.setting.train.only == "random":
            for layer, chosen in enumerate(chosen_weights(run), start=1):
                shape = (len(runs), *chosen.shape)
                mask = np.broadcast_to(masks[f"weight{layer}"], shape).copy()
                mask[index] = chosen
                masks[f"weight{layer}"] = mask
    return masks


def chosen_weights(run: Run) -> list[np.ndarray]:
    """Where ``random`` trains, one boolean matrix [out, in] per layer; a function of the seed and the widths."""
    structure = run.structure
    shapes = [(n_out, n_in) for n_in, n_out in zip(structure.widths, structure.widths[1:], strict=False)]
    total = sum(n_out * n_in for n_out, n_in in shapes)
    chosen = np.zeros(total, bool)
    chosen[stream(run.seed, "only").choice(total, structure.n_norm_parameters(run.switches), replace=False)] = True
    ends = np.cumsum([n_out * n_in for n_out, n_in in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(chosen, ends), shapes, strict=True)]


def _is_trained(run: Run, kind: str, output: bool) -> bool:
    """Whether a run trains a kind of parameter; single weights of ``random`` are added after."""
    only = run.setting.train.only
    if kind in ("gamma", "beta"):
        learned = run.switches.gamma if kind == "gamma" else run.switches.beta
        return learned and only != "random"
    return only == "all" or (only == "norm+output" and output)
