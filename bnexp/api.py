"""The commands as functions, for notebooks and scripts: the same code and the same files.

``bnexp.train``, ``load``, ``compare``, ``report`` and ``chart``; ``import bnexp`` loads none of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from bnexp import source
from bnexp.comparison import claim_records, compare_runs, effect_records, list_claims, speed_records, to_records
from bnexp.errors import DeviceLost, SpecError, TrainingFailed, UsageError, did_you_mean
from bnexp.experiment import Request, run_experiment
from bnexp.inputs import with_other_mistakes
from bnexp.loading import load_spec, resolve
from bnexp.progress import Progress
from bnexp.results import Results, load_results
from bnexp.spec import Spec

if TYPE_CHECKING:
    import altair

Folder = str | Path | Results
Where = Mapping[str, str | float | Sequence[str | float]]


def train(
    spec: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    out: str | Path | None = None,
    *,
    device: str = "auto",
    workers: int | None = None,
    extend: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Results:
    """Train every run of a spec, as ``bnexp train`` does, and read what came out.

    ``spec``: a YAML file, or the same as a dict. ``overrides``: ``["train.lr=0.1,1", "seeds=20"]``. Raises BnexpError:
    a SpecError has every mistake at once; TrainingFailed or DeviceLost where some shards failed, the others are kept.
    """
    found = _spec(spec, [overrides] if isinstance(overrides, str) else overrides)
    request = Request(Path(out) if out else None, device, workers, extend, overwrite, command="bnexp.train")
    summary = run_experiment(found, request, Progress(silent=not progress))
    if summary.failures:
        kind = DeviceLost if summary.lost else TrainingFailed
        raise kind(f"{len(summary.failures)} shards failed:\n{next(iter(summary.failures.values()))}")
    return load(summary.outline.folder)


def _spec(spec: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> Spec:
    try:
        return _read_spec(spec, overrides)
    except SpecError as error:
        raise with_other_mistakes(error) from None


def _read_spec(spec: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> Spec:
    if not isinstance(spec, Mapping):
        return load_spec(spec, overrides)
    try:
        text = json.dumps(spec, indent=1, ensure_ascii=False)  # JSON is YAML, and has lines for messages to name
    except TypeError as error:
        raise UsageError(f"the spec holds what YAML cannot say: {error}") from None
    return resolve(source.parse(text, "spec"), overrides, "experiment", Path())


def load(folder: str | Path) -> Results:
    """A results folder: ``.runs`` and ``.table(name)`` are DataFrames, ``.module(run)`` the trained network."""
    return load_results([Path(folder)])[0]


def compare(
    folder: Folder,
    metric: str | None = None,
    baseline: Mapping[str, str] | None = None,
    where: Where | None = None,
    by: Sequence[str] = (),
    tune: str = "lr",
    until: str | None = None,
) -> DataFrame:
    """What ``bnexp compare`` prints, as it writes it to CSV: a row per setting, effect, speed and side of a claim.

    The column ``table`` tells them apart. Claims are judged where neither ``where`` nor ``metric`` is given.
    """
    results = _results(folder)
    for name, given in (("where", where), ("baseline", baseline)):
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(f"{name}={given!r}: a dict is expected, such as {{'norm': 'full'}}")
    chosen = {key: _texts(value) for key, value in (where or {}).items()}
    found = compare_runs(results, dict(baseline) if baseline else None, metric, chosen, list(by), tune, until)
    records = [record for one in found for record in to_records(one)]
    if not chosen and metric is None:
        records += [record for row in list_claims(results) for record in claim_records(row)]
    for make in (effect_records, speed_records):
        records += [record for one in found for record in make(one)]
    return DataFrame(records)


def _texts(value: str | float | Sequence[str | float]) -> list[str]:
    values = [value] if isinstance(value, str | int | float) else value
    return [one if isinstance(one, str) else f"{one:.12g}" for one in values]


def report(
    folders: Folder | Sequence[Folder], output: str | Path = "report.html", figures: Sequence[str] = ()
) -> list[Path]:
    """Write the page of one or several results folders, as ``bnexp report`` does; return what was written."""
    from bnexp.page import write_report

    several = [folders] if isinstance(folders, str | Path | Results) else list(folders)
    return write_report([_results(one) for one in several], Path(output), list(figures))


def chart(folder: Folder, name: str | None = None) -> altair.Chart:
    """One figure of the report in its first view; the first figure, or the one of this name (``learning-curves``)."""
    from bnexp.charts import to_chart
    from bnexp.figures import figures_of

    results = _results(folder)
    figures = [figure for comparison in compare_runs(results) for figure in figures_of(results, comparison)[0]]
    by_name = {figure.name: figure for figure in reversed(figures)}
    if not figures or (name is not None and name not in by_name):
        hint = did_you_mean(name or "", by_name) or f"; there are {', '.join(sorted(by_name)) or 'none'}"
        raise UsageError(f"{results.folder}: no figure {name!r}{hint}")
    return to_chart((figures[0] if name is None else by_name[name]).first.spec)


def _results(folder: Folder) -> Results:
    return folder if isinstance(folder, Results) else load(folder)
