"""What an experiment may say: every field, its default, its meaning, and what cannot go together.

Defaults live here and nowhere else. A *setting* is one value for each field; a Spec is the list of settings that the
axes and variants of a file span, with the seeds and the options that all runs share.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from bnexp.norms import NORMS

if TYPE_CHECKING:
    from bnexp.claim_grammar import Claim

IMAGES = ("mnist", "fashion-mnist")
SYNTHETIC = ("spirals", "blobs", "xor", "bump", "teacher")
FILES = ("csv", "npz")
REGRESSIONS = ("bump", "teacher")
MAX_LAYERS = 100  # assumption: bnexp is about two hidden layers
MAX_GENERATED = 2**21  # numbers in one layer of generated rows, or in one weight matrix of a teacher
SAMPLES, BUMP_SAMPLES = 1000, 64  # training rows of generated data, unless the spec says otherwise

DatasetName = Literal["digits", "mnist", "fashion-mnist", "csv", "npz", "spirals", "blobs", "xor", "bump", "teacher"]
NormName = Literal["none", "standardize", "full", "affine", "center", "scale", "gamma", "beta"]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NO_AXIS: dict[str, Any] = {"axis": False}


class Fields(BaseModel):
    """A frozen group of fields: strict types, finite numbers, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataFields(Fields):
    """Where the rows come from."""

    name: DatasetName = Field(description="data set")
    path: str | None = Field(
        None, description="file or folder, relative to the spec that names it", json_schema_extra=_NO_AXIS
    )
    task: Literal["auto", "classification", "regression"] = Field(
        "auto",
        description="auto: text, boolean or at most 20 distinct integers mean classification",
        json_schema_extra=_NO_AXIS,
    )
    target: str | None = Field(None, description="csv: the column to predict", json_schema_extra=_NO_AXIS)
    test: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="csv, npz: share of rows held out for testing")
    validation: Share = Field(0.1, description="share of the training rows held out for choosing; 0 for none")
    data_seed: int = Field(0, ge=0, description="seed of splits, subsets and generated data")
    subset: Positive | None = Field(None, description="keep the first n training rows of a seeded order")
    binarize: bool = Field(False, description="images: 1 where a pixel is above half its range, else 0")
    label_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="probability that a training label is redrawn uniformly over all classes"
    )
    feature_scale: Literal["auto", "range", "standardize", "none"] = Field(
        "auto",
        description="range: digits/16, images/255; standardize: by training rows; auto: images range, files the other",
    )
    samples: Positive | None = Field(
        None, description=f"generated data: training rows ({BUMP_SAMPLES} for bump, else {SAMPLES})"
    )
    inputs: Positive = Field(2, description="teacher: number of features")
    teacher_norm: NormName = Field("full", description="teacher: its norm, before the activation")
    teacher_hidden: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MAX_LAYERS)] = Field(
        (16, 16), description="teacher: its hidden widths"
    )
    teacher_activation: Literal["sigmoid", "tanh", "relu", "linear"] = Field(
        "sigmoid", description="teacher: its activation"
    )

    @property
    def n_samples(self) -> int:
        """Training rows of generated data before validation is taken out."""
        return self.samples or (BUMP_SAMPLES if self.name == "bump" else SAMPLES)

    @property
    def generated_sizes(self) -> tuple[int, ...]:
        """Numbers in the generated rows, in each layer that a teacher makes of them, and in each of its weights."""
        widths = (self.inputs, *self.teacher_hidden) if self.name == "teacher" else (2,)
        return (*(self.n_samples * width for width in widths), *(a * b for a, b in pairwise(widths)))

    @property
    def identity(self) -> str:
        """All fields but the path as one text: how meta.json names the data."""
        return json.dumps(self.model_dump(mode="json", exclude={"path"}), sort_keys=True)


class ModelFields(Fields):
    """What is trained."""

    hidden: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=MAX_LAYERS)] = Field(
        (64, 64), description="hidden widths"
    )
    activation: Literal["sigmoid", "tanh", "relu", "linear"] = Field("sigmoid", description="g")
    norm: NormName = Field("full", description="norm of every hidden layer")
    placement: Literal["pre", "post"] = Field("pre", description="norm before the activation (the paper) or after it")
    eps: Annotated[float, Field(ge=0)] = Field(1e-5, description="ε under the root, in squared units of a")
    statistics_momentum: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="share of the new batch in the running statistics (torch's convention)"
    )
    gamma_init: float | Literal["identity", "standardize"] = Field(1.0, description="γ at the start")
    beta_init: float | Literal["identity", "standardize"] = Field(0.0, description="β at the start")
    weight_init: Literal["linear", "glorot", "he", "gaussian"] = Field(
        "linear",
        description="linear: torch's Linear; glorot, he: with zero biases; gaussian: N(0, weight_sd²), zero biases",
    )
    weight_sd: Annotated[float, Field(gt=0)] | None = Field(None, description="gaussian: SD of the weights")
    noise: Literal["none", "santurkar"] = Field("none", description="noise after the norm")
    ghost_size: Annotated[int, Field(ge=0)] = Field(0, description="rows per ghost batch; 0 = off")


class TrainFields(Fields):
    """How it is trained."""

    epochs: Annotated[int, Field(ge=0)] = Field(
        30, description="passes over the training rows; 0 = initialisation only"
    )
    batch_size: Positive | Literal["full"] = Field(32, description="rows per step; full = all training rows")
    last_batch: Literal["drop", "keep"] = Field("drop", description="what to do with an incomplete last minibatch")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="update rule")
    lr: Annotated[float, Field(gt=0)] = Field(0.1, description="learning rate")
    momentum: Rate = Field(0.0, description="sgd: share of the old velocity")
    nesterov: bool = Field(False, description="sgd: look ahead along the velocity")
    adam_betas: tuple[Rate, Rate] = Field(
        (0.9, 0.999), description="adam: decay of the two moments", json_schema_extra=_NO_AXIS
    )
    adam_eps: Annotated[float, Field(gt=0)] = Field(1e-8, description="adam: added to the root")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 coefficient on weights")
    norm_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="L2 coefficient on γ and β")
    schedule: Literal["constant", "step", "cosine"] = Field("constant", description="learning rate over epochs")
    step_every: Positive = Field(10, description="step: epochs between drops")
    step_factor: Annotated[float, Field(gt=0)] = Field(0.1, description="step: factor at each drop")
    only: Literal["all", "norm", "norm+output", "random"] = Field("all", description="which parameters are trained")


class StudyFields(Fields):
    """What all runs of the study share."""

    evaluate: Annotated[tuple[Literal["running", "population", "batch"], ...], Field(min_length=1)] = Field(
        ("running",), description="statistics used by evaluations: running, population (Alg. 2) or the chunk's own"
    )
    evaluate_every: Annotated[int, Field(ge=0)] = Field(
        1, description="epochs between evaluations, and so between rows of curves.csv; 0 = first and last epoch"
    )
    fit_every: Annotated[int, Field(ge=0)] = Field(
        0, description="epochs between evaluations on all training rows; 0 = first and last epoch"
    )
    probe: Annotated[int, Field(ge=2)] = Field(128, description="rows on which the taps are read")
    track: Positive = Field(4, description="units per layer whose percentiles are recorded")
    learned_at: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="learned: this far from chance to 1 in training accuracy"
    )


class MeasureOptions(Fields):
    """What every measure can be told."""

    every: Annotated[int, Field(ge=0)] = Field(1, description="epochs between readings; 0 = first and last")


class ShiftOptions(MeasureOptions):
    """Options of ``shift``."""

    steps: Annotated[int, Field(ge=0)] = Field(
        0, description="also read the tracked units every so many steps (shift_steps.csv); 0 = never"
    )


class LandscapeOptions(MeasureOptions):
    """Options of ``landscape``."""

    relative: Annotated[float, Field(ge=0)] = Field(
        0.0, description="also walk in steps of [1/2, 4] times this share of the weights' norm; 0 = not"
    )


class FinalOptions(MeasureOptions):
    """Options of a measure that is read at the first and last epoch unless it is asked for more."""

    every: Annotated[int, Field(ge=0)] = Field(0, description="epochs between readings; 0 = first and last")


class PredictionsOptions(MeasureOptions):
    """Options of ``predictions``."""

    every: Annotated[int, Field(ge=0)] = Field(0, description="epochs between readings; 0 = the last")


MEASURES: dict[str, type[MeasureOptions]] = {
    "activations": MeasureOptions,
    "parameters": MeasureOptions,
    "shift": ShiftOptions,
    "ics": MeasureOptions,
    "landscape": LandscapeOptions,
    "identity": FinalOptions,
    "rank": MeasureOptions,
    "gradients": MeasureOptions,
    "predictions": PredictionsOptions,
}
SECTIONS: dict[str, type[Fields]] = {"data": DataFields, "model": ModelFields, "train": TrainFields}
DEFAULT_MEASURES = ("activations", "parameters")
DEFAULT_SEEDS = 10


def leaf(section: str, name: str) -> str:
    """The field's name in columns, run ids and claims: its own, but ``data`` for ``data.name``."""
    return "data" if (section, name) == ("data", "name") else name


@cache
def leaves() -> Mapping[str, tuple[str, str]]:
    """Every leaf name with its (section, field), in the order of columns and run ids."""
    return {leaf(section, name): (section, name) for section, name, _ in setting_fields()}


def setting_fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Every field of a setting as (section, name, info), in the order in which columns and ids show them."""
    for section, model in SECTIONS.items():
        for name, info in model.model_fields.items():
            yield section, name, info


def is_axis(info: FieldInfo) -> bool:
    """Whether a list of values is allowed for the field."""
    return info.json_schema_extra is not _NO_AXIS


@dataclass(frozen=True)
class Setting:
    """One value for every field but the seed."""

    data: DataFields
    model: ModelFields
    train: TrainFields

    def value(self, leaf_name: str) -> Any:
        """The value of a field by its leaf name."""
        section, name = leaves()[leaf_name]
        return getattr(getattr(self, section), name)

    def shown(self, leaf_name: str) -> str:
        """The value of a field as text, as in run ids and CSVs."""
        return show(self.value(leaf_name))

    @cached_property
    def key(self) -> str:
        """Canonical JSON of the fields that are not at their default (but ``path``: data are known by checksum).

        A field added later, at its default, renames nothing.
        """
        parts = {
            f"{section}.{name}": value
            for section, name, info in setting_fields()
            if name != "path" and (value := getattr(getattr(self, section), name)) != info.default
        }
        return json.dumps(parts, sort_keys=True)


def show(value: Any) -> str:
    """A field's value as text: 0.1, 64-64, full, true; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, tuple | list):
        return "-".join(show(item) for item in value)
    return str(value)


@dataclass(frozen=True)
class Spec:
    """A resolved experiment. ``document`` is the same as plain data, every default written out."""

    name: str
    question: str
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    study: StudyFields
    measure: Mapping[str, Mapping[str, Any]]
    claims: tuple[Claim, ...]
    document: Mapping[str, Any] = field(compare=False)
    locate: Any = field(compare=False, repr=False, default=None)  # (setting, path, message) -> Problem
    locate_claim: Any = field(compare=False, repr=False, default=None)  # (index, path in the claim, message) -> Problem

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Leaf names of the fields that differ between settings."""
        return tuple(name for name in leaves() if len({setting.shown(name) for setting in self.settings}) > 1)

    def shared_options(self) -> dict[str, Any]:
        """The options that decide what every run records; two folders agree only if these do."""
        measure = {name: dict(options) for name, options in self.measure.items()}
        return {**self.study.model_dump(mode="json"), "measure": measure}

    def study_sha256(self) -> str:
        """Checksum of everything that decides numbers: settings, seeds, shared options; not name, question, claims."""
        study = {
            "settings": [setting.key for setting in self.settings],
            "seeds": list(self.seeds),
            **self.shared_options(),
        }
        return hashlib.sha256(json.dumps(study, sort_keys=True).encode()).hexdigest()

    def claims_sha256(self) -> str:
        """Checksum of the claims, name and question, which may change without training again."""
        said = {"name": self.name, "question": self.question, "claims": [claim.model_dump() for claim in self.claims]}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def is_safe_name(name: str) -> bool:
    """Whether a name can be a folder under results/ on every system."""
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
    return bool(re.fullmatch(NAME, name)) and name.split(".")[0].lower() not in reserved and not name.endswith(".")


def contradictions(setting: Setting) -> Iterator[tuple[str, str]]:
    """What the fields of one setting, each valid alone, cannot be together: (path, message) pairs."""
    yield from _data_contradictions(setting.data)
    model, train = setting.model, setting.train
    switches = NORMS[model.norm]
    if switches.gamma or switches.beta:
        inits = {model.gamma_init, model.beta_init}
        if "identity" in inits and (inits != {"identity"} or model.norm != "full"):
            yield "model.gamma_init", "identity needs norm full and both gamma_init and beta_init: identity"
        if "standardize" in inits and (inits != {"standardize"} or model.norm != "affine"):
            yield "model.gamma_init", "standardize needs norm affine and both gamma_init and beta_init: standardize"
    if model.weight_init == "gaussian" and model.weight_sd is None:
        yield "model.weight_init", "gaussian needs model.weight_sd, the SD of the weights"
    if train.only != "all" and not (switches.gamma or switches.beta):
        yield "train.only", f"{train.only} needs a norm that learns γ or β; norm {model.norm} learns neither"
    if model.ghost_size == 1 and switches.uses_statistics:
        yield "model.ghost_size", f"1 row has no variance: norm {model.norm} needs at least 2"
    if model.ghost_size and isinstance(train.batch_size, int) and train.batch_size % model.ghost_size:
        yield "model.ghost_size", f"{model.ghost_size} does not divide the batch of {train.batch_size} rows"
    if model.ghost_size and train.last_batch == "keep":
        yield "model.ghost_size", "needs last_batch drop: an incomplete minibatch does not divide into ghosts"
    if train.nesterov and not (train.optimizer == "sgd" and train.momentum > 0):
        yield "train.nesterov", "needs optimizer sgd and momentum above 0"
    if train.momentum and train.optimizer != "sgd":
        yield "train.momentum", "is sgd's; adam has adam_betas"
    if train.batch_size == 1 and switches.uses_statistics:
        yield "train.batch_size", f"1 row has no variance: norm {model.norm} needs at least 2"


def _data_contradictions(data: DataFields) -> Iterator[tuple[str, str]]:
    own = {
        "path": (*IMAGES, *FILES),
        "target": ("csv",),
        "test": FILES,
        "binarize": ("digits", *IMAGES),
        "samples": SYNTHETIC,
        "inputs": ("teacher",),
        "teacher_norm": ("teacher",),
        "teacher_hidden": ("teacher",),
        "teacher_activation": ("teacher",),
    }
    for name, datasets in own.items():
        if data.name not in datasets and getattr(data, name) != DataFields.model_fields[name].default:
            yield f"data.{name}", f"has no meaning for data {data.name} (it is for {', '.join(datasets)})"
    if data.name in FILES and data.path is None:
        yield "data.path", f"data {data.name} needs the path of a file"
    if data.name == "csv" and data.target is None:
        yield "data.target", "data csv needs the name of the column to predict"
    if data.name not in FILES and data.task != "auto":
        natural = "regression" if data.name in REGRESSIONS else "classification"
        if data.task != natural:
            yield "data.task", f"data {data.name} is a {natural}"
    if data.name in REGRESSIONS and data.label_noise:
        yield "data.label_noise", f"is for classification; data {data.name} is a regression"
    if data.feature_scale == "range" and data.name not in ("digits", *IMAGES):
        yield "data.feature_scale", "range is for images, whose range is known"
    if data.samples is not None and data.name in ("xor", "bump") and data.samples % 2:
        yield "data.samples", f"data {data.name} comes in pairs x, −x: an even number"
    if data.subset is not None and data.name in ("xor", "bump") and data.subset % 2:
        yield "data.subset", f"data {data.name} comes in pairs x, −x: an even number"
    if data.name in SYNTHETIC and max(data.generated_sizes) > MAX_GENERATED:
        yield "data.samples", f"{max(data.generated_sizes)} numbers at once; at most {MAX_GENERATED} are generated"
    if data.samples is not None and data.samples < 4:
        yield "data.samples", "at least 4 rows"
