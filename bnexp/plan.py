"""Spec to shards: which runs there are, in which order, and which of them share a tensor program. No torch here.

Plan order: structure by structure (as they first appear in the grid); inside a structure seed by seed, settings within
a seed. A shard is the next few runs of that order: the unit of storage, resume and scheduling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from bnexp.errors import Problem, Problems, SpecError
from bnexp.norms import NORMS, Switches
from bnexp.spec import DataFields, Setting, Spec

SHARD_RUNS = 8
MAX_PARAMETERS = 2**27  # assumption: half a gibibyte a run, and as much again for its gradient; more is a mistake
SHARD_BYTES = 64 * 2**20  # parameters and optimizer state of one shard, float32


class DataShape(NamedTuple):
    """What the plan needs to know of a data set: rows after the validation split, features, classes (1: regression)."""

    task: Literal["classification", "regression"]
    n_train: int
    n_inputs: int
    n_outputs: int


@dataclass(frozen=True)
class Structure:
    """What decides the tensor program; runs that differ only in numbers (knobs) share it."""

    data: DataFields
    shape: DataShape
    hidden: tuple[int, ...]
    activation: str
    placement: str
    center: bool
    scale: bool
    eps: float
    epochs: int
    batch_size: int
    full_batch: bool
    last_batch: str
    optimizer: str
    nesterov: bool
    adam_betas: tuple[float, float]
    schedule: str
    step_every: int
    noise: str
    ghost_size: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Input, hidden and output widths."""
        return (self.shape.n_inputs, *self.hidden, self.shape.n_outputs)

    @property
    def n_layers(self) -> int:
        """Weight layers: hidden layers and the output; layers count from 1."""
        return len(self.hidden) + 1

    @property
    def normalizes(self) -> bool:
        """Whether the norm uses batch statistics."""
        return self.center or self.scale

    def has_bias(self, layer: int) -> bool:
        """Whether a layer adds a bias: not where a centring norm follows with nothing or something linear between."""
        cancels = self.center and (self.placement == "pre" or self.activation == "linear")
        return layer == self.n_layers or not cancels

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch."""
        return count_steps(self.shape.n_train, self.batch_size, self.last_batch)

    def n_norm_parameters(self, switches: Switches) -> int:
        """How many γ and β the norm learns."""
        return sum(self.hidden) * (switches.gamma + switches.beta)

    def n_parameters(self, switches: Switches, only: str = "all") -> int:
        """Trained numbers of one run: weights, biases, and γ, β where they are learned; fewer by ``train.only``."""
        sizes = [
            n_in * n_out + (n_out if self.has_bias(layer) else 0)
            for layer, (n_in, n_out) in enumerate(zip(self.widths, self.widths[1:], strict=False), start=1)
        ]
        linear = {"all": sum(sizes), "norm+output": sizes[-1], "norm": 0, "random": 0}[only]
        return linear + self.n_norm_parameters(switches)


@dataclass(frozen=True)
class Run:
    """One network: a setting and a seed. ``id`` is for people, ``key`` for ever (it leaves out defaults)."""

    id: str
    key: str
    setting: Setting
    seed: int
    structure: Structure

    @property
    def switches(self) -> Switches:
        """The norm's four switches."""
        return NORMS[self.setting.model.norm]


@dataclass(frozen=True)
class Shard:
    """A few runs of one structure; ``name`` is the checksum of its runs' keys."""

    name: str
    structure: Structure
    runs: tuple[Run, ...]

    @property
    def norms(self) -> list[Switches]:
        """The switches of its runs."""
        return [run.switches for run in self.runs]


@dataclass(frozen=True)
class Stack:
    """One or more whole shards of one structure, trained in lockstep as one tensor program, from after ``epoch`` on."""

    structure: Structure
    shards: tuple[Shard, ...]
    epoch: int | None = None  # the last that is committed; None: not even the initialisation

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, shard by shard."""
        return tuple(run for shard in self.shards for run in shard.runs)


def make_runs(spec: Spec, shapes: Mapping[DataFields, DataShape]) -> tuple[Run, ...]:
    """Every run of the spec in plan order; raise SpecError where settings and data do not fit together."""
    if problems := data_problems(spec, shapes):
        raise SpecError(problems)
    groups: dict[Structure, list[Setting]] = {}
    for setting in spec.settings:
        groups.setdefault(structure_of(setting, shapes[setting.data]), []).append(setting)
    axes = spec.axes
    return tuple(
        Run(run_id(setting, axes, seed), _digest(f"{setting.key}/{seed}"), setting, seed, structure)
        for structure, settings in groups.items()
        for seed in spec.seeds
        for setting in settings
    )


def make_plan(runs: Sequence[Run], kept: Sequence[Mapping[str, str]] = ()) -> tuple[Shard, ...]:
    """Cut the runs of a spec into shards.

    ``kept``: key → id of the runs of each shard that exists already (the study may have been extended since): these
    stay as they are, under the ids they began with; the remaining runs are cut afresh in plan order.
    """
    by_key = {run.key: run for run in runs}
    shards = [_shard([replace(by_key[key], id=id_) for key, id_ in ids.items()]) for ids in kept]
    taken = {key for ids in kept for key in ids}
    waiting: dict[Structure, list[Run]] = {}
    for run in runs:
        if run.key not in taken:
            waiting.setdefault(run.structure, []).append(run)
    for structure, left in waiting.items():
        size = runs_per_shard(structure)
        shards += [_shard(left[start : start + size]) for start in range(0, len(left), size)]
    return tuple(shards)


def part_of(runs: Sequence[Run], part: int, parts: int) -> set[str]:
    """The names of the shards of one of several parts (from 1) of a study: every ``parts``-th of a fresh plan.

    It depends on the study alone, so that parts which are trained apart are disjoint, and together are all of it.
    """
    return {shard.name for index, shard in enumerate(make_plan(runs)) if index % parts == part - 1}


def runs_per_shard(structure: Structure) -> int:
    """Eight, or fewer where float32 parameters and optimizer state of eight would pass 64 MiB."""
    state_tensors = {"sgd": 2, "adam": 3}[structure.optimizer]
    per_run = 4 * state_tensors * structure.n_parameters(NORMS["affine"])
    return max(1, min(SHARD_RUNS, SHARD_BYTES // per_run))


def structure_of(setting: Setting, shape: DataShape) -> Structure:
    """The tensor program that a setting needs."""
    model, train = setting.model, setting.train
    switches = NORMS[model.norm]
    full_batch = train.batch_size == "full"
    return Structure(
        data=setting.data,
        shape=shape,
        hidden=model.hidden,
        activation=model.activation,
        placement=model.placement,
        center=switches.center,
        scale=switches.scale,
        eps=model.eps,
        epochs=train.epochs,
        batch_size=shape.n_train if isinstance(train.batch_size, str) else train.batch_size,
        full_batch=full_batch,
        last_batch=train.last_batch,
        optimizer=train.optimizer,
        nesterov=train.nesterov,
        adam_betas=train.adam_betas,
        schedule=train.schedule,
        step_every=train.step_every,
        noise=model.noise,
        ghost_size=model.ghost_size if switches.uses_statistics else 0,
    )


def count_steps(n_train: int, batch_size: int | str, last_batch: str) -> int:
    """Optimizer steps in one epoch over ``n_train`` rows; batch size ``full`` is one step."""
    whole, rest = divmod(n_train, n_train if isinstance(batch_size, str) else batch_size)
    return whole + (1 if rest and last_batch == "keep" else 0)


def run_id(setting: Setting, axes: Sequence[str], seed: int) -> str:
    """The readable id: ``norm=full,lr=0.1,seed=3``."""
    return ",".join([*(f"{axis}={setting.shown(axis)}" for axis in axes), f"seed={seed}"])


def setting_id(setting: Setting, axes: Sequence[str]) -> str:
    """The readable id without the seed; ``all`` where nothing varies."""
    return ",".join(f"{axis}={setting.shown(axis)}" for axis in axes) or "all"


SHARD_NAME = r"x[0-9a-f]{15}"


def shard_name(keys: Sequence[str]) -> str:
    """What a shard of runs with these keys is called, and so its folder."""
    return _digest("/".join(keys))


def _shard(runs: Sequence[Run]) -> Shard:
    return Shard(shard_name([run.key for run in runs]), runs[0].structure, tuple(runs))


def _digest(text: str) -> str:
    # The letter keeps spreadsheets and pandas from reading a name as a number.
    return "x" + hashlib.sha256(text.encode()).hexdigest()[:15]


def data_problems(spec: Spec, shapes: Mapping[DataFields, DataShape]) -> Problems:
    """Every way in which a setting asks more of its data than they have, where their shape is known."""
    problems = Problems()
    for setting in spec.settings:
        if setting.data not in shapes:
            continue
        shape, train = shapes[setting.data], setting.train
        if shape.task == "regression" and setting.data.label_noise:
            problems.append(spec.locate(setting, "data.label_noise", "is for classification; this is a regression"))
        size = shape.n_train if isinstance(train.batch_size, str) else train.batch_size
        if size > shape.n_train:
            message = (
                f"{size} rows per step, but only {shape.n_train} training rows (after test, validation and subset)"
            )
            problems.append(spec.locate(setting, "train.batch_size", message))
        elif train.last_batch == "keep" and shape.n_train % size == 1 and NORMS[setting.model.norm].uses_statistics:
            message = f"the last minibatch would hold 1 of {shape.n_train} rows, and one row has no variance; use drop"
            problems.append(spec.locate(setting, "train.last_batch", message))
        problems += _ghost_and_random(spec, setting, shape, size)
        count = structure_of(setting, shape).n_parameters(NORMS[setting.model.norm])
        if count > MAX_PARAMETERS:
            message = f"a network of {count} parameters; at most {MAX_PARAMETERS} are possible"
            problems.append(spec.locate(setting, "model.hidden", message))
        if "predictions" in spec.measure and shape.n_inputs > 2:
            message = f"draws inputs of one or two features; data {setting.data.name} has {shape.n_inputs}"
            problems.append(spec.locate(setting, "measure", f"predictions {message}"))
    return problems


def _ghost_and_random(spec: Spec, setting: Setting, shape: DataShape, size: int) -> list[Problem]:
    """Problems of a ghost size with the whole data as its batch, and of more random weights than there are."""
    problems: list[Problem] = []
    model, switches = setting.model, NORMS[setting.model.norm]
    if setting.train.batch_size == "full" and model.ghost_size and size % model.ghost_size:
        message = f"{model.ghost_size} does not divide the batch of all {size} training rows"
        problems.append(spec.locate(setting, "model.ghost_size", message))
    structure = structure_of(setting, shape)
    weights = sum(n_in * n_out for n_in, n_out in zip(structure.widths, structure.widths[1:], strict=False))
    if setting.train.only == "random" and structure.n_norm_parameters(switches) > weights:
        message = (
            f"random: the norm has {structure.n_norm_parameters(switches)} γ and β, but there are {weights} weights"
        )
        problems.append(spec.locate(setting, "train.only", message))
    return problems
