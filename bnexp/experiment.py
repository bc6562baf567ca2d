"""The story: spec → data → plan → stacks → epochs → results folder. Read this file first.

Everything that can be wrong with the input is found before the folder is touched.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from bnexp import kernels, source, store
from bnexp.commits import Commit, Content
from bnexp.continuation import kept_shards
from bnexp.data import Dataset
from bnexp.devices import resolve_device, room_for_stacks
from bnexp.errors import Problem, StorageError
from bnexp.estimate import study_seconds, work_of
from bnexp.executors import Begun, Job, Message, Messages, answered, run_stacks
from bnexp.inputs import read_inputs
from bnexp.interruption import Interruption
from bnexp.layout import RUNS, SHARDS, SPEC, setting_columns
from bnexp.on_ray import Cluster, Place, connected, run_on_ray
from bnexp.origin import checksums, computed_by, computers, device_name, git_state, versions
from bnexp.plan import Run, Shard, Stack, Structure, make_plan, part_of
from bnexp.recording import Options
from bnexp.shard_files import ShardFiles, load_arrays
from bnexp.spec import DataFields, Spec
from bnexp.stacks import DEVICE_WORKERS, WORKER_SECONDS, estimated_seconds, make_stacks
from bnexp.tables import study_tables
from bnexp.traps import Flat, flat_units
from bnexp.workers import available_cores, one_thread

MOST_WARNINGS = 5
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
    max_runs: int = 100_000
    cluster: Cluster | None = None  # None: this machine
    part: tuple[int, int] | None = None  # (k, n): the k-th, from 1, of n parts
    assemble_only: bool = False  # train nothing, put the top CSVs together
    command: str = ""


@dataclass(frozen=True)
class Outline:
    """What would run: for ``--dry-run``, for the progress line, and for the summary."""

    spec: Spec
    folder: Path
    device: str
    device_name: str  # and which, where there are several
    workers: int
    runs: tuple[Run, ...]
    done: int  # runs that were finished before
    stacks: tuple[Stack, ...]
    work: tuple[float, ...]  # of each stack, seconds of one core, roughly
    seconds: float | None  # a rough estimate on this many workers; None where there is none, on a GPU


class Observer(Protocol):
    """Who is told about progress."""

    def begin(self, outline: Outline) -> None:
        """Training starts."""

    def warn(self, problem: Problem) -> None:
        """Something is allowed and probably not meant."""

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
    stack_difference: float | None = None  # see ``training.stacking_difference``; None: nothing was trained
    warnings: list[Problem] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    lost: bool = False  # workers ended again and again, or memory did not suffice


def run_experiment(spec: Spec, request: Request, observer: Observer, dry_run: bool = False) -> Summary:
    """Train what is missing of a spec in its results folder and put the top CSVs together."""
    datasets, runs = read_inputs(spec, request.max_runs)
    device = "cpu" if request.cluster else resolve_device(request.device)
    return _run(spec, request, observer, datasets, runs, device, dry_run)


def _run(
    spec: Spec,
    request: Request,
    observer: Observer,
    datasets: Mapping[DataFields, Dataset],
    runs: tuple[Run, ...],
    device: str,
    dry_run: bool,
) -> Summary:
    folder = request.out or Path("results") / (spec.name + part_suffix(request.part))
    store.check_place(folder)
    if dry_run:
        kept = kept_shards(folder, spec, runs, request, datasets, device, locked=False)
        outline = _outline(spec, folder, device, runs, make_plan(runs, _ids(kept)), kept, request, datasets)
        waiting = [run for stack in outline.stacks if stack.epoch is None for run in stack.runs]
        with one_thread(), kernels.spared():
            flat = flat_units(waiting, datasets)
        summary = Summary(outline)
        _warn(flat, summary, observer)
        return summary
    with store.locked(folder) as still_there:
        kept = kept_shards(folder, spec, runs, request, datasets, device)
        if request.overwrite:
            store.clear(folder)
        store.tidy_up(folder, kept)
        shards = make_plan(runs, _ids(kept))
        with _joined(request, shards, kept, observer) as place:
            if place and request.cluster:
                device = "cuda" if request.cluster.gpus_per_task else "cpu"
                request = replace(request, workers=place.slots)
            outline = _outline(spec, folder, device, runs, shards, kept, request, datasets, place)
            study = _Study(outline, datasets, request, observer, kept, still_there, place)
            study.write_description()
            if outline.stacks or not study.is_assembled():
                study.train()
            return study.summary


def _joined(
    request: Request, shards: Sequence[Shard], kept: Mapping[str, Commit], observer: Observer
) -> AbstractContextManager[Place | None]:
    """The cluster that trains what is left, if one is to."""
    left = [shard for shard in shards if shard.name not in kept or not kept[shard.name].done]
    if request.cluster is None or not left:
        return nullcontext()

    def warn(message: str) -> None:
        observer.warn(Problem("--executor ray", "", message, kind="warning"))

    return connected(request.cluster, request.workers, len(left), warn)


def part_suffix(part: tuple[int, int] | None) -> str:
    """What the folder of a part is called beside the study's name: ``-part-3-of-16``."""
    return f"-part-{part[0]}-of-{part[1]}" if part else ""


def _warn(flat: Sequence[Flat], summary: Summary, observer: Observer) -> None:
    """Tell of units without variance, of the first kinds of networks only: nobody reads a hundred."""
    for one in flat:
        problem = one.warning(summary.outline.spec)
        if len(summary.warnings) == MOST_WARNINGS:
            problem = replace(problem, message="other networks have such units, too", line=None)
        if len(summary.warnings) <= MOST_WARNINGS:
            summary.warnings.append(problem)
            observer.warn(problem)


class _Study:
    """One run of the coordinator over a locked folder."""

    def __init__(
        self,
        outline: Outline,
        datasets: Mapping[DataFields, Dataset],
        request: Request,
        observer: Observer,
        kept: Mapping[str, Commit],
        still_there: Callable[[], None],
        place: Place | None,
    ) -> None:
        self.still_there, self.place = still_there, place
        self.outline, self.datasets, self.request, self.observer = outline, datasets, request, observer
        self.spec, self.folder = outline.spec, outline.folder
        self.commits = dict(kept)
        self.writers: dict[str, ShardFiles] = {}
        self.next_commit: dict[int, float] = {}  # of a stack, when it is due
        self.told_failures, self.next_telling = 0, 0.0
        self.warned: set[Structure] = set()  # of units that a norm makes constant
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
                self.receive(self.messages(job, stop), stop)
        except StorageError:
            intact = False  # the disk takes no more, and what is committed is safe
            raise
        finally:
            self.observer.end()
            if intact:
                self.assemble()

    def messages(self, job: Job, stop: Interruption) -> Messages:
        """What comes from where the stacks are trained."""
        stacks = self.outline.stacks
        if self.place is None:
            return run_stacks(stacks, job, self.outline.workers, self.saved, stop.asked)
        return run_on_ray(stacks, job, self.place, self.saved, stop.asked)

    def receive(self, messages: Messages, stop: Interruption) -> None:
        """Keep what comes until there is no more."""
        with closing(messages):
            message = next(messages, None)
            while message is not None:
                stack = self.outline.stacks[message.stack]
                with stop.held():
                    wanted = self.keep(stack, message)
                    self.tell_failures()
                self.observer.epoch(stack, message)
                if message.error and self.request.fail_fast:
                    return
                message = answered(messages, wanted)

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
        flat = [one for one in message.flat if one.run.structure not in self.warned]
        self.warned |= {one.run.structure for one in flat}
        _warn(flat, self.summary, self.observer)
        if message.difference is not None:
            self.summary.stack_difference = message.difference
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
        self.still_there()
        provenance = {
            **(message.computed_by or computed_by(self.outline.device)),
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
        text = source.dump(dict(self.spec.document))
        old = store.read_meta(self.folder) or {}
        if SPEC in old.get("files", {}):
            old["files"][SPEC] = Content.of(text.encode())._asdict()
        self.write_meta(old, assembled=False)
        store.write_spec(self.folder, text)

    def assemble(self) -> None:
        """The top CSVs, and a meta.json that says which shards they hold."""
        self.still_there()
        axes = self.spec.axes
        columns = setting_columns(self.spec)
        store.assemble(self.folder, self.outline.runs, self.commits, self.tables, columns, axes, self.failed_runs())
        self.summary.seconds = time.perf_counter() - self.began
        self.write_meta(store.read_meta(self.folder) or {}, assembled=True)

    def failed_runs(self) -> set[str]:
        """Keys of the runs whose shard failed."""
        shards = [shard for stack in self.outline.stacks for shard in stack.shards]
        return {run.key for shard in shards if shard.name in self.summary.failures for run in shard.runs}

    def tell_failures(self) -> None:
        """Let meta.json say now which runs failed, if it is time to; at the end it says so anyway."""
        begun = time.monotonic()
        if self.told_failures != len(self.summary.failures) and begun >= self.next_telling:
            self.told_failures = len(self.summary.failures)
            self.write_meta(store.read_meta(self.folder) or {}, assembled=False)
            now = time.monotonic()
            self.next_telling = now + max(COMMIT_EVERY, COMMIT_SHARE * (now - begun))

    def stacking(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """Whether a run in a stack had the bits of the same run alone; and how far off it was, null: not finite."""
        share = self.summary.stack_difference
        if share is None:
            return {key: old.get(key) for key in ("exact_stack", "stack_difference")}
        return {"exact_stack": share == 0, "stack_difference": share if math.isfinite(share) else None}

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
                "versions": versions(),
                "device": self.outline.device_name if self.outline.stacks else old.get("device", "cpu"),
                "threads": 1,
                **self.stacking(old),
                "git": git_state(),
                "data": checksums(self.datasets),
                "log_columns": {
                    table.name: logged
                    for table in self.tables.values()
                    if (logged := [column.name for column in table.columns if column.log])
                },
                "labels": {table.name: [label.name for label in table.labels] for table in self.tables.values()},
                "runs": [{"id": run.id, "key": run.key} for run in self.outline.runs],
                "committed": self.epochs() if assembled else old.get("committed", {}),
                "files": store.top_files(self.folder, self.tables) if assembled else old.get("files", {}),
                "computed_by": computers({name: commit.said for name, commit in self.commits.items()}),
                "failures": {name: text.strip().splitlines()[-1] for name, text in self.summary.failures.items()},
                "failed_runs": sorted(self.failed_runs()),
            },
        )


def _ids(commits: Mapping[str, Commit]) -> list[Mapping[str, str]]:
    return [commit.ids for commit in commits.values()]


def _outline(
    spec: Spec,
    folder: Path,
    device: str,
    runs: tuple[Run, ...],
    shards: Sequence[Shard],
    kept: Mapping[str, Commit],
    request: Request,
    datasets: Mapping[DataFields, Dataset],
    place: Place | None = None,
) -> Outline:
    """Join the shards that are left into stacks and decide on workers."""
    left = [shard for shard in shards if shard.name not in kept or not kept[shard.name].done]
    if request.assemble_only:
        left = []
    elif request.part:
        names = part_of(runs, *request.part)
        left = [shard for shard in left if shard.name in names]
    workers = request.workers or (available_cores() if device == "cpu" else DEVICE_WORKERS if device == "cuda" else 1)
    reached = {name: commit.epoch for name, commit in kept.items()}
    stacks = make_stacks(left, workers, place.room if place else room_for_stacks(device, 1 / workers), reached)
    if request.workers is None and sum(map(estimated_seconds, stacks)) < WORKER_SECONDS:
        workers = 1
    workers = max(1, min(workers, len(stacks)))
    done = sum(len(commit.ids) for commit in kept.values() if commit.done)
    work = work_of(stacks, Options.of(spec), datasets)
    seconds = study_seconds(work, workers) if device == "cpu" else None
    where = place.device if place else device_name(device)
    return Outline(spec, folder, device, where, workers, runs, done, tuple(stacks), work, seconds)


def command_line() -> str:
    """The command as typed, for meta.json."""
    return " ".join(["bnexp", *sys.argv[1:]])
