"""Results folders to DataFrames: the hinge between training and everything that looks at it. No torch here.

A folder is read from its top CSVs if ``meta.json`` records exactly the shards that are committed, or if it has no
``shards/`` at all (a showcase, a mail); otherwise from the committed shards, so that a study that is still training can
be read at any time. Settings come from ``spec.yaml``; a CSV only adds outcomes.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from bnexp.commits import Commit, Content, content_of, read_commit, read_meta, refuse_links, run_ids
from bnexp.errors import DamagedResults, ResultsError, SpecError, UsageError
from bnexp.layout import COMMIT, META, OUTCOMES, RUNS, SHARDS, SPEC, STATUSES, setting_columns
from bnexp.loading import load_spec
from bnexp.plan import count_steps, run_id
from bnexp.spec import Setting, Spec, leaves, show

if TYPE_CHECKING:
    from torch import nn

ROOT = Path("results")
_TEXT = ("run", "status", "learned", "init_id", "order_id", "tap")  # never numbers, even where all are empty
_WITHOUT_RUNS = ("items",)  # tables whose rows are not runs and epochs
_R2 = re.compile(r"((?:train|fit|val|test)_)r2((?:_\w+)?)")


@dataclass(frozen=True)
class Part:
    """A folder that holds CSVs; ``ids`` maps each run id written there to the run id of the plan.

    ``whole``: its runs.csv must have a row for each of them, as that of a finished shard does. Where it is not
    ``done`` there is no runs.csv yet. ``said``: how each CSV begins by its commit; of what is not named, all counts.
    """

    folder: Path
    ids: Mapping[str, str]
    whole: bool
    done: bool = True
    said: Mapping[str, Content] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """One results folder. ``runs`` has one row per run in plan order, runs that are not finished included."""

    folder: Path
    spec: Spec
    meta: dict[str, Any]
    runs: DataFrame
    parts: tuple[Part, ...] = field(repr=False, default=())
    edited: tuple[str, ...] = ()  # top CSVs that are not what training wrote
    _read: dict[str, DataFrame | None] = field(init=False, repr=False, default_factory=dict)

    def __repr__(self) -> str:
        return f"<Results {self.name}: {len(self.runs)} runs in {self.folder}>"

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.spec.name

    @property
    def versions(self) -> str:
        """What trained it: ``bnexp 0.1.0, torch 2.13.0+cpu, python 3.11.9``; empty if meta.json does not say."""
        found = self.meta.get("versions")
        known = found if isinstance(found, dict) else {}
        return ", ".join(f"{name} {known[name]}" for name in ("bnexp", "torch", "python") if name in known)

    def log_columns(self, table: str) -> tuple[str, ...]:
        """The columns of a table that are compared as ratios, as training wrote them down in meta.json."""
        found = self.meta.get("log_columns")
        columns = found.get(table) if isinstance(found, dict) else None
        return tuple(map(str, columns)) if isinstance(columns, list) else ()

    def labels(self, table: str) -> tuple[str, ...] | None:
        """The label columns of a table, as training wrote them down in meta.json; None where it did not."""
        found = self.meta.get("labels")
        columns = found.get(table) if isinstance(found, dict) else None
        return tuple(map(str, columns)) if isinstance(columns, list) else None

    def steps_per_epoch(self) -> dict[str, int]:
        """Run id -> minibatches in an epoch; empty unless meta.json counts the training rows of every data set."""
        rows = {
            one["fields"]: one["train_rows"]
            for one in self.meta.get("data") or ()
            if isinstance(one, dict) and isinstance(one.get("train_rows"), int) and isinstance(one.get("fields"), str)
        }
        found = {}
        for run, (setting, _) in planned_runs(self.spec).items():
            n_train = rows.get(setting.data.identity)
            if n_train is None:
                return {}
            found[run] = count_steps(n_train, setting.train.batch_size, setting.train.last_batch)
        return found

    @property
    def tables(self) -> tuple[str, ...]:
        """The recorded tables with rows per run and epoch, by name."""
        names = {path.stem for part in self.parts for path in part.folder.glob("*.csv")}
        return tuple(sorted(names - {Path(RUNS).stem, *_WITHOUT_RUNS}))

    def table(self, name: str) -> DataFrame | None:
        """The rows of one tidy CSV (curves, activations, units, parameters, items, …); None if it was not recorded."""
        if name == "runs":
            return self.runs
        if name not in self._read:
            self._read[name] = _read_table(self.parts, name, list(self.runs["run"]))
        return self._read[name]

    def module(self, run: str) -> nn.Sequential:
        """The trained network of a run, by its id, as an ordinary torch module; see ``bnexp.as_module``.

        Raises UsageError for a run that the study has not, and ResultsError where its weights are not there.
        """
        from bnexp.as_module import module_of

        planned = planned_runs(self.spec)
        if run not in planned:
            raise UsageError(f"{self.folder}: no run {run!r}; bnexp ls {self.folder} lists them")
        key_of = {id_: key for key, id_ in run_ids(self.folder / META, self.meta).items()}
        return module_of(self.folder, planned[run][0], key_of[run])


def load_results(folders: Sequence[Path] = ()) -> tuple[Results, ...]:
    """Read results folders; none given means every folder under ``results/`` that has a spec, by name."""
    return tuple(_load(Path(folder)) for folder in folders or folders_of())


def labels_of(results: Sequence[Results]) -> list[str]:
    """What to call each of several studies: by name, or by folder where two have one name."""
    names = [one.name for one in results]
    return [one.name if names.count(one.name) == 1 else str(one.folder) for one in results]


def with_derived(frame: DataFrame) -> DataFrame:
    """Add derived metrics as columns: ``<split>_unexplained`` = 1 − ``<split>_r2``, a share of variance."""
    matches = [match for name in frame.columns if (match := _R2.fullmatch(str(name)))]
    return frame.assign(**{f"{match[1]}unexplained{match[2]}": 1.0 - frame[match[0]] for match in matches})


def planned_runs(spec: Spec) -> dict[str, tuple[Setting, int]]:
    """Readable run id -> (setting, seed), for every run of the spec."""
    axes = spec.axes
    return {run_id(setting, axes, seed): (setting, seed) for setting in spec.settings for seed in spec.seeds}


# --- folders ----------------------------------------------------------------------------------------------------------


def folders_of() -> list[Path]:
    """The results folders under ``results/``, by name; raise ResultsError if there is none."""
    folders = sorted(path.parent for path in ROOT.glob(f"*/{SPEC}"))
    if not folders:
        raise ResultsError(f"no results under {ROOT}/; train an experiment first: bnexp train CONFIG")
    return folders


def _load(folder: Path) -> Results:
    _check_is_results(folder)
    refuse_links(folder)
    meta = read_meta(folder / META)
    spec = _read_spec(folder)
    if meta.get("study_sha256", spec.study_sha256()) != spec.study_sha256():
        raise DamagedResults(f"{folder / SPEC}: not the study that was trained; the train command writes it anew")
    planned = planned_runs(spec)
    order = _plan_order(folder, meta, planned)
    parts = _parts(folder, meta, order)
    frames = [_read_outcomes(part) for part in parts]
    runs = _with_failed(_join(spec, planned, order, frames, folder), meta, order)
    return Results(folder, spec, meta, runs, parts, _edited(folder, meta, parts))


def _edited(folder: Path, meta: Mapping[str, Any], parts: Sequence[Part]) -> tuple[str, ...]:
    """The top CSVs, where they are read, that are not as meta.json says training left them."""
    written = meta.get("files")
    if not isinstance(written, dict) or [part.folder for part in parts] != [folder]:
        return ()
    return tuple(
        name
        for name in sorted(map(str, written))
        if not (folder / name).is_file() or content_of(folder / name)._asdict() != written[name]
    )


def _check_is_results(folder: Path) -> None:
    if not folder.is_dir():
        there = "is not a folder" if folder.exists() else "there is no such folder"
        raise ResultsError(f"{folder}: {there}; bnexp train CONFIG makes a results folder")
    if (folder / SPEC).exists():
        return
    if any((folder / name).exists() for name in (META, RUNS, SHARDS)):
        raise DamagedResults(f"{folder / SPEC}: missing; without it nobody knows what the rows of {folder} mean")
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SPEC}"))
    hint = f"name a folder inside it: {', '.join(inside[:5])}" if inside else "bnexp train CONFIG makes one"
    raise ResultsError(f"{folder}: not a results folder, it has no {SPEC}; {hint}")


def _read_spec(folder: Path) -> Spec:
    try:
        return load_spec(folder / SPEC)
    except SpecError as error:
        raise DamagedResults(f"{folder / SPEC}: cannot be read:\n{error}") from None


def _plan_order(folder: Path, meta: Mapping[str, Any], planned: Mapping[str, object]) -> dict[str, str]:
    """Stable key -> readable id in plan order; what meta.json lists must be what spec.yaml says."""
    order = run_ids(folder / META, meta)
    odd = sorted(set(order.values()) ^ set(planned))
    if odd:
        raise DamagedResults(f"{folder / META}: does not list the runs of {SPEC}; run {odd[0]} is in one of them only")
    return order


def _parts(folder: Path, meta: Mapping[str, Any], order: Mapping[str, str]) -> tuple[Part, ...]:
    """Where the rows lie: the folder itself, or its committed shards in plan order."""
    top = Part(folder, {name: name for name in order.values()}, whole=False)
    recorded = meta.get("committed", {})
    if isinstance(recorded, list):  # schema 1
        recorded = {str(name): 0 for name in recorded}
    if not isinstance(recorded, dict):
        raise DamagedResults(f"{folder / META}: committed does not say which epoch of each shard there is")
    if not (folder / SHARDS).is_dir():
        waiting = not recorded and not (folder / RUNS).exists()  # training is about to begin
        return () if waiting else (top,)
    begun = [path for path in sorted((folder / SHARDS).glob(f"*/{COMMIT}")) if path.parent.suffix != ".tmp"]
    commits = {path.parent: read_commit(path) for path in begun}
    now = {shard.name: commit.epoch for shard, commit in commits.items()}
    if commits and recorded == now and _is_current(top):
        return (top,)
    parts = [_shard(shard, commit, order) for shard, commit in commits.items()]
    position = {name: index for index, name in enumerate(order.values())}
    return tuple(sorted(parts, key=lambda part: min((position[i] for i in part.ids.values()), default=0)))


def _is_current(top: Part) -> bool:
    """Whether the top CSVs use the plan's ids: an extended study renames runs before it writes them again."""
    frame = _read_csv(top.folder / RUNS, ("run",))
    return set(frame["run"]) <= set(top.ids)


def _shard(folder: Path, commit: Commit, order: Mapping[str, str]) -> Part:
    for name, said in commit.files.items():
        file = folder / name
        length = file.stat().st_size if file.is_file() else -1
        # A shard in training may have rows beyond its commit; one that was cut off at a line's end shows nowhere else.
        if file.suffix == ".csv" and (length < said.length or (commit.done and length != said.length)):
            raise DamagedResults(f"{file}: missing, or not as long as when it was committed")
    for key, name in commit.ids.items():
        if key not in order:
            raise DamagedResults(f"{folder / COMMIT}: holds run {name}, which is not in the plan")
    return Part(folder, {name: order[key] for key, name in commit.ids.items()}, True, commit.done, commit.files)


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_csv(path: Path, required: Sequence[str], said: Content | None = None) -> DataFrame:
    """Read a CSV as bnexp writes it: empty and ``nan`` are NaN in columns of numbers, text stays as it is written.

    ``said``: what it must begin with; the rest is not read.
    """
    try:
        raw = path.read_bytes()[: said.length if said else None]
        if said and said.sha256 is not None and hashlib.sha256(raw).hexdigest() != said.sha256:
            raise ValueError("it is not what was committed")
        if not raw.endswith(b"\n"):
            raise ValueError("its last line is cut off")
        frame = pd.read_csv(io.BytesIO(raw), keep_default_na=False, na_values=["", "nan"], low_memory=False)
        text = [name for name in frame.columns if name in _TEXT or not _is_number(frame[name])]
        if text:
            frame[text] = pd.read_csv(io.BytesIO(raw), usecols=text, dtype=str, na_filter=False)[text]
    except FileNotFoundError:
        raise DamagedResults(f"{path}: missing") from None
    except (OSError, ValueError) as error:  # pandas' parser errors and bad UTF-8 are ValueErrors
        raise DamagedResults(f"{path}: cannot be read: {error}") from None
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise DamagedResults(f"{path}: no column {', '.join(missing)}")
    # pandas takes surplus fields for an index instead of refusing them
    if len(frame) and (frame.index[0] != 0 or frame.index[-1] != len(frame) - 1):
        raise DamagedResults(f"{path}: its rows have more fields than its head")
    return frame


def _is_number(column: Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _named_by_plan(frame: DataFrame, part: Part, path: Path) -> DataFrame:
    """Replace the run ids written in the file by those of the plan."""
    unknown = set(frame["run"]) - set(part.ids)
    if unknown:
        raise DamagedResults(f"{path}: run {min(unknown)} does not belong there")
    return frame.assign(run=frame["run"].map(dict(part.ids)))


def _read_table(parts: Sequence[Part], name: str, order: Sequence[str]) -> DataFrame | None:
    """The rows of all parts run by run in plan order, as the top CSVs have them; shards have them epoch by epoch."""
    frames = []
    for part in parts:
        path = part.folder / f"{name}.csv"
        if not path.is_file():
            continue
        if name in _WITHOUT_RUNS:
            frames.append(_read_csv(path, ()))
        else:
            frames.append(_named_by_plan(_read_csv(path, ("run", "epoch"), part.said.get(path.name)), part, path))
    if not frames:
        return None
    joined = _concatenated(frames)
    if name in _WITHOUT_RUNS:
        return joined
    position = {run: index for index, run in enumerate(order)}
    return joined.sort_values("run", key=lambda run: run.map(position), kind="stable", ignore_index=True)


def _concatenated(frames: Sequence[DataFrame]) -> DataFrame:
    """All rows, with the union of the columns (a classification and a regression have different ones)."""
    filled = [frame for frame in frames if len(frame)] or list(frames[:1])
    joined = pd.concat(filled, ignore_index=True)
    for name in joined.columns:
        if not _is_number(joined[name]):
            joined[name] = joined[name].fillna("")
    return joined


def _read_outcomes(part: Part) -> DataFrame:
    """The outcome columns of one runs.csv, checked, with the plan's run ids."""
    path = part.folder / RUNS
    if not part.done:
        return DataFrame({"run": list(part.ids.values()), "status": "running"}).reindex(columns=["run", *OUTCOMES])
    frame = _named_by_plan(_read_csv(path, ("run", *OUTCOMES), part.said.get(RUNS)), part, path)
    if frame["run"].duplicated().any():
        raise DamagedResults(f"{path}: run {frame['run'][frame['run'].duplicated()].iloc[0]} stands there twice")
    absent = set(part.ids.values()) - set(frame["run"]) if part.whole else ()
    if absent:
        raise DamagedResults(f"{path}: no row for run {min(absent)}")
    bad = frame[~frame["status"].isin(STATUSES)]
    if len(bad):
        raise DamagedResults(f"{path}: run {bad['run'].iloc[0]} has status {bad['status'].iloc[0]!r}")
    unclear = frame[
        ~frame["learned"].isin(["true", "false", ""]) | ((frame["status"] == "done") & (frame["learned"] == ""))
    ]
    if len(unclear):
        raise DamagedResults(f"{path}: run {unclear['run'].iloc[0]} does not say whether it learned (true or false)")
    return frame


def _join(
    spec: Spec,
    planned: Mapping[str, tuple[Setting, int]],
    order: Mapping[str, str],
    frames: Sequence[DataFrame],
    folder: Path,
) -> DataFrame:
    """One row per run of the plan: its setting, and its outcome where there is one; else status pending."""
    settings = _setting_frame(spec, planned, list(order.values()))
    found = _concatenated(frames) if frames else DataFrame({"run": Series(dtype=str)})
    if found["run"].duplicated().any():
        raise DamagedResults(f"{folder}: run {found['run'][found['run'].duplicated()].iloc[0]} is in two shards")
    metrics = [name for name in found.columns if name not in (*settings.columns, *OUTCOMES)]
    outcomes = found.reindex(columns=["run", *OUTCOMES, *metrics])
    runs = settings.merge(outcomes, on="run", how="left", validate="one_to_one")
    runs["status"] = runs["status"].astype(object).fillna("pending").astype(str)
    for name in ("init_id", "order_id"):
        runs[name] = runs[name].astype(object).fillna("").astype(str)
    runs["learned"] = runs["learned"].astype(object).map({"true": True, "false": False}).astype("boolean")
    return runs


def _with_failed(runs: DataFrame, meta: Mapping[str, Any], order: Mapping[str, str]) -> DataFrame:
    """While a study trains, only meta.json knows which of its runs failed; those that failed before wait again."""
    if "failed_runs" in meta:
        failed = runs["run"].isin([order[key] for key in meta["failed_runs"] if isinstance(key, str) and key in order])
        runs.loc[~failed & (runs["status"] == "failed"), "status"] = "pending"
        runs.loc[failed & runs["status"].isin(["pending", "running"]), "status"] = "failed"
    return runs


def _setting_frame(spec: Spec, planned: Mapping[str, tuple[Setting, int]], order: Sequence[str]) -> DataFrame:
    """The columns that say what each run is."""
    columns: dict[str, Any] = {"run": list(order), "seed": [planned[name][1] for name in order]}
    settings = [planned[name][0] for name in order]
    fields = leaves()
    for leaf in setting_columns(spec):
        section, name = fields[leaf]
        columns[leaf] = _numbers_or_text([getattr(getattr(setting, section), name) for setting in settings])
    return DataFrame(columns)


def _numbers_or_text(values: Sequence[Any]) -> list[Any]:
    """Values of one field as a column: numbers where all are (none is NaN), else the text of run ids."""
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        return [np.nan if value is None else value for value in values]
    return [show(value) for value in values]
