"""The story: spec → data → plan → stacks → epochs → results folder. Read this file first.

Everything that can be wrong with the input is found before the folder is touched.
"""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import bnexp
from bnexp import kernels, source, store
from bnexp.claim_checks import check_claims
from bnexp.commits import Commit
from bnexp.data import Dataset, load_dataset
from bnexp.errors import DeviceUnavailable, ResultsError, StorageError, UsageError
from bnexp.executors import (
    DEVICE_WORKERS,
    WORKER_SECONDS,
    Begun,
    Job,
    Message,
    Messages,
    estimated_seconds,
    make_stacks,
    run_stacks,
)
from bnexp.interruption import Interruption
from bnexp.layout import RUNS, SHARDS, SPEC, setting_columns
from bnexp.loading import load_spec
from bnexp.plan import DataShape, Run, Shard, Stack, make_plan, make_runs
from bnexp.recording import Options
from bnexp.shard_files import ShardFiles, load_arrays
from bnexp.spec import DataFields, Spec
from bnexp.tables import study_tables
from bnexp.workers import available_cores, blas_kernels

COMMIT_EVERY = 2.0  # seconds between commits of a stack, or
COMMIT_SHARE = 50  # so many times as long as the last one took


@dataclass(frozen=True)
class Request:
    """How to run a spec: what the command line adds to it. ``workers`` None means: as many as help."""

    out: Path | None = None
    device: str = "auto"
    workers: int | None = None
    extend: bool = False
    overwrite: bool = False
    restart_unfinished: bool = False
    fail_fast: bool = False
    command: str = ""


@dataclass(frozen=True)
class Outline:
    """What would run: for ``--dry-run``, for the progress line, and for the summary."""

    spec: Spec
    folder: Path
    device: str
    workers: int
    runs: tuple[Run, ...]
    done: int  # runs that were finished before
    stacks: tuple[Stack, ...]
    seconds: float  # a rough estimate on this many workers


class Observer(Protocol):
    """Who is told about progress."""

    def begin(self, outline: Outline) -> None:
        """Training starts."""

    def epoch(self, stack: Stack, message: Message) -> None:
        """A stack finished an epoch, or (with outcomes) its last one."""

    def end(self) -> None:
        """Training ended or was interrupted."""


@dataclass
class Summary:
    """What was done. ``failures`` maps shard names to the error that stopped them."""

    outline: Outline
    seconds: float = 0.0
    trained: int = 0
    exact_stack: bool | None = None  # None: not checked (nothing was trained, or not on a CPU)
    failures: dict[str, str] = field(default_factory=dict)
    lost: bool = False  # workers ended again and again


def run_experiment(spec: Spec, request: Request, observer: Observer, dry_run: bool = False) -> Summary:
    """Train what is missing of a spec in its results folder and put the top CSVs together."""
    datasets = load_datasets(spec)
    shapes = {fields: _shape(dataset) for fields, dataset in datasets.items()}
    runs = make_runs(spec, shapes)
    tasks = {fields: dataset.task for fields, dataset in datasets.items()}
    check_claims(spec, study_tables(spec, tasks.values()), tasks)
    device = resolve_device(request.device)
    folder = request.out or Path("results") / spec.name
    if dry_run:
        kept = _kept_shards(folder, spec, runs, request, datasets, device, locked=False)
        return Summary(_outline(spec, folder, device, runs, make_plan(spec, shapes, _ids(kept)), kept, request))
    with store.locked(folder):
        kept = _kept_shards(folder, spec, runs, request, datasets, device)
        if request.overwrite:
            store.clear(folder)
        store.tidy_up(folder, kept)
        shards = make_plan(spec, shapes, _ids(kept))
        outline = _outline(spec, folder, device, runs, shards, kept, request)
        study = _Study(outline, datasets, request, observer, kept)
        study.write_description()
        if outline.stacks or not study.is_assembled():
            study.train()
        return study.summary


def load_datasets(spec: Spec) -> dict[DataFields, Dataset]:
    """Each data set that the spec names, once: label noise is drawn later, per seed, so it does not make another."""
    clean: dict[DataFields, Dataset] = {}
    found = {}
    for fields in dict.fromkeys(setting.data for setting in spec.settings):
        key = fields.model_copy(update={"label_noise": 0.0})
        if key not in clean:
            clean[key] = load_dataset(key)
        found[fields] = clean[key]
    return found


def resolve_device(name: str) -> str:
    """``auto`` is CUDA where there is one, else the CPU; raise DeviceUnavailable for one that is not there."""
    if name == "cpu" or (name == "auto" and not _may_have_cuda()):
        return "cpu"
    import torch  # takes a second, so only where there may be a device

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return "cuda" if there["cuda"] else "cpu"
    if name not in there:
        raise UsageError(f"--device {name}: one of auto, {', '.join(there)} is expected")
    if not there[name]:
        raise DeviceUnavailable(f"--device {name}: not available to torch {torch.__version__} here; use --device cpu")
    return name


def _may_have_cuda() -> bool:
    """Whether a driver is there without which torch finds no device: CUDA's library, or ROCm's device file."""
    for library in ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return Path("/dev/kfd").exists()


class _Study:
    """One run of the coordinator over a locked folder."""

    def __init__(
        self,
        outline: Outline,
        datasets: Mapping[DataFields, Dataset],
        request: Request,
        observer: Observer,
        kept: Mapping[str, Commit],
    ) -> None:
        self.outline, self.datasets, self.request, self.observer = outline, datasets, request, observer
        self.spec, self.folder = outline.spec, outline.folder
        self.commits = dict(kept)
        self.writers: dict[str, ShardFiles] = {}
        self.next_commit: dict[int, float] = {}  # of a stack, when it is due
        self.tables = study_tables(self.spec, {dataset.task for dataset in datasets.values()})
        self.summary = Summary(outline)
        self.began = time.perf_counter()

    def is_assembled(self) -> bool:
        """Whether the top CSVs hold every committed shard already."""
        meta = store.read_meta(self.folder) or {}
        names = {*(f"{name}.csv" for name in self.tables), RUNS}
        there = store.top_files(self.folder, self.tables)
        as_written = names <= set(there) and there == meta.get("files", there)
        return meta.get("committed") in (self.epochs(), sorted(self.commits)) and as_written

    def epochs(self) -> dict[str, int]:
        """The committed epoch of each shard, by name."""
        return {name: commit.epoch for name, commit in sorted(self.commits.items())}

    def train(self) -> None:
        """Train the stacks, committing shard by shard; put the top CSVs together, also after an interruption."""
        job = Job(self.datasets, Options.of(self.spec), self.tables, self.outline.device)
        self.observer.begin(self.outline)
        self.writers = {
            shard.name: ShardFiles(self.shard_folder(shard), shard, self.tables, self.commits.get(shard.name))
            for stack in self.outline.stacks
            for shard in stack.shards
        }
        intact = True
        try:
            with Interruption() as stop:
                self.receive(run_stacks(self.outline.stacks, job, self.outline.workers, self.saved, stop.asked), stop)
        except StorageError:
            intact = False  # the disk takes no more, and what is committed is safe
            raise
        finally:
            self.observer.end()
            if intact:
                self.assemble()

    def receive(self, messages: Messages, stop: Interruption) -> None:
        """Keep what comes until there is no more."""
        with closing(messages):
            message = next(messages, None)
            while message is not None:
                stack = self.outline.stacks[message.stack]
                with stop.held():
                    wanted = self.keep(stack, message)
                self.observer.epoch(stack, message)
                if message.error and self.request.fail_fast:
                    return
                message = _answered(messages, wanted)

    def shard_folder(self, shard: Shard) -> Path:
        """Where a shard's files lie."""
        return self.folder / SHARDS / shard.name

    def saved(self, shard: Shard) -> Begun | None:
        """How far a shard is."""
        commit = self.commits.get(shard.name)
        if commit is None:
            return None
        return Begun(commit.epoch, None if commit.done else load_arrays(self.shard_folder(shard), commit))

    def keep(self, stack: Stack, message: Message) -> bool:
        """Keep what a message brings, and commit where it brings a checkpoint; whether one of the stack is wanted."""
        if message.exact is not None:
            self.summary.exact_stack = message.exact
        # A worker that is lost may have finished some of its stack's shards.
        shards = [stack.shards[place] for place in message.shards if stack.shards[place].name in self.writers]
        self.summary.lost |= message.lost
        if message.error:
            self.summary.failures.update(dict.fromkeys((shard.name for shard in shards), message.error))
        if message.error or message.again:
            for shard in shards:
                self.writers[shard.name].drop()
        for shard, rows in zip(shards, message.rows, strict=False):
            self.writers[shard.name].add(rows)
        begun = time.monotonic()
        if message.arrays is not None:
            self.commit(shards, message)
            now = time.monotonic()
            self.next_commit[message.stack] = now + max(COMMIT_EVERY, COMMIT_SHARE * (now - begun))
        return begun >= self.next_commit.setdefault(message.stack, begun + COMMIT_EVERY)

    def commit(self, shards: Sequence[Shard], message: Message) -> None:
        """Commit shards with the arrays that a message brings."""
        assert message.arrays is not None
        provenance = {
            **computed_by(self.outline.device),
            "stack_runs": sum(len(shard.runs) for shard in shards),
            "seconds": round(message.seconds, 3),
        }
        outcomes: Sequence[Sequence[Sequence[str]] | None] = message.outcomes or [None] * len(shards)
        for shard, values, arrays in zip(shards, outcomes, message.arrays, strict=True):
            said = self.writers[shard.name].commit(message.epoch, arrays, provenance, values)
            self.commits[shard.name] = said
            if said.done:
                self.summary.trained += len(shard.runs)
                del self.writers[shard.name]

    def write_description(self) -> None:
        """spec.yaml and a meta.json that knows the study; before training, so that an interruption leaves both."""
        # meta.json first: by it a folder is ours.
        self.write_meta(store.read_meta(self.folder) or {}, assembled=False)
        store.write_spec(self.folder, source.dump(dict(self.spec.document)))

    def assemble(self) -> None:
        """The top CSVs, and a meta.json that says which shards they hold."""
        axes = self.spec.axes
        columns = setting_columns(self.spec)
        store.assemble(self.folder, self.outline.runs, self.commits, self.tables, columns, axes)
        self.summary.seconds = time.perf_counter() - self.began
        self.write_meta(store.read_meta(self.folder) or {}, assembled=True)

    def write_meta(self, old: Mapping[str, Any], assembled: bool) -> None:
        """meta.json: identities, provenance, and the times at which claims and training changed it."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        claims = self.spec.claims_sha256()
        said = list(old.get("claims_sha256", ()))
        if not said or said[-1]["sha256"] != claims:
            said.append({"sha256": claims, "since": now})
        sessions = list(old.get("sessions", ()))
        if assembled:
            sessions.append(
                {
                    "ended": now,
                    "seconds": round(self.summary.seconds, 3),
                    "runs_trained": self.summary.trained,
                    "workers": self.outline.workers,
                    "command": self.request.command,
                }
            )
        store.write_meta(
            self.folder,
            {
                "study_sha256": self.spec.study_sha256(),
                "claims_sha256": said,
                "created": old.get("created", now),
                "sessions": sessions,
                "versions": _versions(),
                "device": _device_name(self.outline.device),
                "threads": 1,
                "exact_stack": old.get("exact_stack") if self.summary.exact_stack is None else self.summary.exact_stack,
                "git": _git(),
                "data": _checksums(self.datasets),
                "log_columns": {
                    table.name: logged
                    for table in self.tables.values()
                    if (logged := [column.name for column in table.columns if column.log])
                },
                "labels": {table.name: [label.name for label in table.labels] for table in self.tables.values()},
                "runs": [{"id": run.id, "key": run.key} for run in self.outline.runs],
                "committed": self.epochs() if assembled else old.get("committed", {}),
                "files": store.top_files(self.folder, self.tables) if assembled else old.get("files", {}),
                "failures": {name: text.strip().splitlines()[-1] for name, text in self.summary.failures.items()},
            },
        )


def _shape(dataset: Dataset) -> DataShape:
    return DataShape(dataset.task, len(dataset.train.features), dataset.n_inputs, dataset.n_outputs)


def _ids(commits: Mapping[str, Commit]) -> list[Mapping[str, str]]:
    return [commit.ids for commit in commits.values()]


def _answered(messages: Messages, answer: bool) -> Message | None:
    """The next message, after the last was answered; None if there is none."""
    try:
        return messages.send(answer)
    except StopIteration:
        return None


def _outline(
    spec: Spec,
    folder: Path,
    device: str,
    runs: tuple[Run, ...],
    shards: Sequence[Shard],
    kept: Mapping[str, Commit],
    request: Request,
) -> Outline:
    """Join the shards that are left into stacks and decide on workers."""
    left = [shard for shard in shards if shard.name not in kept or not kept[shard.name].done]
    workers = request.workers or (available_cores() if device == "cpu" else DEVICE_WORKERS if device == "cuda" else 1)
    reached = {name: commit.epoch for name, commit in kept.items()}
    stacks = make_stacks(left, workers, _room(device, workers), reached)
    seconds = sum(map(estimated_seconds, stacks))
    if request.workers is None and seconds < WORKER_SECONDS:
        workers = 1
    workers = max(1, min(workers, len(stacks)))
    done = sum(len(commit.ids) for commit in kept.values() if commit.done)
    return Outline(spec, folder, device, workers, runs, done, tuple(stacks), seconds / workers)


def _kept_shards(
    folder: Path,
    spec: Spec,
    runs: Sequence[Run],
    request: Request,
    datasets: Mapping[DataFields, Dataset],
    device: str,
    locked: bool = True,
) -> dict[str, Commit]:
    """The shards in the folder that were begun and belong to this study; raise ResultsError if it holds another."""
    if request.overwrite or not folder.exists():
        return {}
    meta = store.read_meta(folder)
    if meta is None:
        if not store.is_new(folder):
            raise ResultsError(f"{folder}: not a bnexp results folder and not empty; choose another with --out DIR")
        return {}
    # An unlocked look must not take a checkpoint that has just been replaced for damage.
    commits = store.committed_shards(folder, lambda c: locked and (c.done or not request.restart_unfinished))
    if not (folder / SHARDS).exists() and meta.get("committed"):
        raise ResultsError(f"{folder}: has no shards/, so it can be read but not resumed; use --out DIR or --overwrite")
    if meta.get("study_sha256") != spec.study_sha256():
        _check_extension(folder, spec, runs, request, meta)
    known = {entry["fields"]: entry["sha256"] for entry in meta.get("data", ())}
    for entry in _checksums(datasets):
        if known.get(entry["fields"], entry["sha256"]) != entry["sha256"]:
            raise ResultsError(
                f"{folder}: data {entry['name']} is not what this study was trained on (checksum differs); "
                "restore it, or use --out DIR for a new study"
            )
    if request.restart_unfinished:
        return {name: commit for name, commit in commits.items() if commit.done}
    for commit in commits.values():
        _check_goes_on(folder, commit, device)
    return commits


def _check_goes_on(folder: Path, commit: Commit, device: str) -> None:
    """A shard is finished by the kind of device and the versions that began it; raise UsageError if others are here."""
    here = computed_by(device)
    for name, now in {} if commit.done else here.items():
        before = commit.said.get(name)
        kinds = [str(value).split(" ")[0] for value in (before, now)]  # cuda (NVIDIA H200): any GPU
        if kinds[0] != kinds[1]:
            raise UsageError(
                f"{folder}: {len(commit.ids)} runs were begun with {name} {before}, here it is {now}; "
                "go on where they were begun, or let unfinished runs begin anew with --restart-unfinished"
            )


def _check_extension(folder: Path, spec: Spec, runs: Sequence[Run], request: Request, meta: Mapping[str, Any]) -> None:
    """Accept a study that only adds runs, and only with --extend; show the difference otherwise."""
    old = load_spec(folder / SPEC)
    missing = {entry["key"] for entry in meta["runs"]} - {run.key for run in runs}
    adds_only = not missing and old.shared_options() == spec.shared_options()
    if adds_only and request.extend:
        return
    before, after = _flatten(old.document), _flatten(spec.document)
    changed = [
        f"  {key}: {before.get(key, '(absent)')} → {after.get(key, '(absent)')}"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and key.split(".")[0] not in ("name", "question", "claims")
    ]
    what = "\n".join([f"{folder}: holds another study:", *changed])
    if adds_only:
        added = len(runs) - len(meta["runs"])
        raise ResultsError(f"{what}\nIt only adds {added} runs: use --extend to train these and keep the rest.")
    raise ResultsError(f"{what}\nUse --out DIR (or another name) for a new study, or --overwrite to replace this one.")


def _flatten(data: Any, path: str = "") -> dict[str, str]:
    if isinstance(data, Mapping):
        parts: dict[str, str] = {}
        for key, value in data.items():
            parts.update(_flatten(value, f"{path}.{key}" if path else str(key)))
        return parts
    return {path: json.dumps(data)}


def _checksums(datasets: Mapping[DataFields, Dataset]) -> list[dict[str, Any]]:
    return [
        {
            "name": fields.name,
            "fields": fields.identity,
            "sha256": dataset.sha256,
            "train_rows": len(dataset.train.features),
        }
        for fields, dataset in datasets.items()
    ]


def _versions() -> dict[str, str]:
    return {
        "bnexp": bnexp.__version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "numpy": np.__version__,
        "numba": version("numba") if kernels.AVAILABLE else "none",
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _room(device: str, workers: int) -> int | None:
    """Bytes of a device's memory for a stack: a worker's part of four fifths of what is free; None for a CPU."""
    if device != "cuda":
        return None
    import torch

    return int(0.8 * torch.cuda.mem_get_info()[0] / workers)


def computed_by(device: str) -> dict[str, Any]:
    """What the bits of a run depend on besides the spec: a shard is finished by what began it."""
    return {
        "device": _device_name(device),
        "bnexp": bnexp.__version__,
        "torch": version("torch"),
        "numpy": np.__version__,
        "numba": version("numba") if kernels.AVAILABLE else "none",
        "blas": blas_kernels(),
        "threads": 1,
    }


def _device_name(device: str) -> str:
    if device == "cuda":
        import torch

        return f"cuda ({torch.cuda.get_device_name()})"
    return device


def _git() -> dict[str, Any] | None:
    """Revision of the project in the current folder and whether it has changes; None outside a repository."""
    try:
        ask = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain"]
        revision, status = (
            subprocess.run(words, capture_output=True, text=True, timeout=5, check=True).stdout.strip() for words in ask
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"revision": revision, "dirty": bool(status)}


def command_line() -> str:
    """The command as typed, for meta.json."""
    return " ".join(["bnexp", *sys.argv[1:]])
