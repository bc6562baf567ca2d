"""From a spec to its data sets and runs, with all that is wrong told at once.

Told are mistakes of the spec, of its data files, where settings and data do not fit together, and of what claims ask
for. Left out is only what cannot be known yet: claims on settings that are wrong, or on data that cannot be read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import NamedTuple

from bnexp.claim_checks import claim_problems
from bnexp.data import Dataset, load_dataset
from bnexp.errors import DataError, Problem, SpecError, UsageError
from bnexp.plan import DataShape, Run, data_problems, make_runs
from bnexp.spec import FILES, SYNTHETIC, DataFields, Spec
from bnexp.tables import study_tables

MAX_DATASETS = 100  # assumption; they all lie in memory while a study trains
MAX_STUDY_GENERATED = 2**23


class Inputs(NamedTuple):
    """What a study trains on, and every run of it in plan order."""

    datasets: dict[DataFields, Dataset]
    runs: tuple[Run, ...]


def read_inputs(spec: Spec, max_runs: int) -> Inputs:
    """The data sets and runs of a spec.

    Raises UsageError for a study that nobody meant, else SpecError or DataError with every mistake.
    """
    _check_size(spec, max_runs)
    datasets, problems, faults = _examine(spec)
    if problems:
        raise SpecError(problems, faults)
    if faults:
        raise DataError(faults)
    return Inputs(datasets, make_runs(spec, {fields: _shape(dataset) for fields, dataset in datasets.items()}))


def with_other_mistakes(error: SpecError) -> SpecError:
    """The same with all else that is wrong, as far as it can be known.

    Where only claims are, that is everything, for the other claims too; else what is in the data files that the spec
    names rightly.
    """
    if error.sound is None:
        own = [fields for fields in error.data if fields.name in FILES]
        return SpecError(error.problems, load_datasets(own[:MAX_DATASETS])[1])
    try:
        _check_size(error.sound, sys.maxsize)
    except UsageError:  # it is told when the claims are right
        return error
    _, problems, faults = _examine(error.sound)
    return SpecError(_sorted([*error.problems, *problems]), faults)


def _examine(spec: Spec) -> tuple[dict[DataFields, Dataset], list[Problem], str]:
    """The data sets of a spec, what is wrong with it beside them, and what is wrong with its data files."""
    datasets, faults = load_datasets(setting.data for setting in spec.settings)
    problems = list(data_problems(spec, {fields: _shape(dataset) for fields, dataset in datasets.items()}))
    tasks = {fields: dataset.task for fields, dataset in datasets.items()}
    if datasets:
        problems += claim_problems(spec, study_tables(spec, tasks.values()), tasks)
    return datasets, _sorted(problems), faults


def _sorted(problems: Iterable[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: problem.position)


def load_datasets(named: Iterable[DataFields]) -> tuple[dict[DataFields, Dataset], str]:
    """Each data set once, and what is wrong with those that cannot be had.

    Label noise is drawn later, per seed, so it does not make another data set.
    """
    clean: dict[DataFields, Dataset] = {}
    faults: dict[DataFields, str] = {}
    found = {}
    for fields in dict.fromkeys(named):
        key = fields.model_copy(update={"label_noise": 0.0})
        try:
            if key not in clean and key not in faults:
                clean[key] = load_dataset(key)
        except DataError as error:
            faults[key] = str(error)
        if key in clean:
            found[fields] = clean[key]
    return found, "\n".join(dict.fromkeys(faults.values()))


def _check_size(spec: Spec, max_runs: int) -> None:
    """Raise UsageError for a study that nobody meant, before anything is made of it."""
    runs = len(spec.settings) * len(spec.seeds)
    if runs > max_runs:
        product = f"{len(spec.settings)} settings × {len(spec.seeds)} seeds"
        raise UsageError(f"{spec.name}: {product} = {runs} runs, more than --max-runs {max_runs}; lower or raise one")
    data = dict.fromkeys(setting.data for setting in spec.settings)
    generated = sum(fields.generated_sizes[0] for fields in data if fields.name in SYNTHETIC)
    if len(data) > MAX_DATASETS or generated > MAX_STUDY_GENERATED:
        raise UsageError(
            f"{spec.name}: {len(data)} data sets with {generated} generated numbers at once; at most {MAX_DATASETS} "
            f"and {MAX_STUDY_GENERATED} are possible; make several studies of it"
        )


def _shape(dataset: Dataset) -> DataShape:
    return DataShape(dataset.task, len(dataset.train.features), dataset.n_inputs, dataset.n_outputs)
