"""Join results folders of one study that were trained apart: parts of a job array, machines without a common disk.

Only finished shards are taken, each checked against its commit; what is unfinished stays where it is. Shards are copied
with their commit.json last, so an interrupted merge is gone on with by the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnexp import files, store
from bnexp.commits import Commit, refuse_links
from bnexp.continuation import differences
from bnexp.errors import DamagedResults, ResultsError, UsageError
from bnexp.experiment import Observer, Request, Summary, run_experiment
from bnexp.layout import COMMIT, META, SHARDS, SPEC
from bnexp.loading import load_spec
from bnexp.spec import Spec


@dataclass
class Merged:
    """What was joined: runs taken, and those of unfinished shards, which were not, by folder."""

    summary: Summary
    taken: int = 0
    unfinished: dict[Path, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    folder: Path
    spec: Spec
    meta: dict[str, Any]
    commits: dict[str, Commit]


def merge(folders: Sequence[Path], into: Path, observer: Observer, command: str = "") -> Merged:
    """Join folders into a new one, or one of the same study.

    Raises ResultsError where folders hold different studies, or the same run with different bytes, and DamagedResults.
    Question and claims are those of the first folder.
    """
    sources = [_read(folder) for folder in folders]
    first = sources[0]
    for other in sources[1:]:
        if other.spec.study_sha256() != first.spec.study_sha256():
            changed = differences(first.spec.document, other.spec.document)
            raise ResultsError("\n".join([f"{first.folder} and {other.folder} hold different studies:", *changed]))
    if into.resolve() in [folder.resolve() for folder in folders]:
        raise UsageError(f"{into}: is one of the folders to be merged; name a new one with --into DIR")
    with store.locked(into):
        there = _there(into, first)
        chosen = _choose([*([there] if there else []), *sources])
        held = [one for one in (there, *sources) if one]
        sessions: list[Any] = []
        for session in (session for one in held for session in one.meta.get("sessions", ())):
            if session not in sessions:  # merged before
                sessions.append(session)
        store.write_meta(into, {**held[0].meta, "sessions": sessions, "committed": {}, "files": {}})
        for name, (source, commit) in chosen.items():
            if source is not there:
                _copy(source.folder / SHARDS / name, into / SHARDS / name, commit)
    unfinished = {
        one.folder: sum(len(commit.ids) for name, commit in one.commits.items() if name not in chosen)
        for one in sources
    }
    request = Request(into, "cpu", 1, assemble_only=True, command=command)
    summary = run_experiment(load_spec(first.folder / SPEC), request, observer)
    taken = sum(len(commit.ids) for source, commit in chosen.values() if source is not there)
    return Merged(summary, taken, {folder: runs for folder, runs in unfinished.items() if runs})


def _there(into: Path, first: _Source) -> _Source | None:
    """What the folder to merge into holds of the study, if it is not new; an interrupted merge has left no spec yet."""
    meta = store.read_meta(into)
    if meta is None:
        if not store.is_new(into):
            raise ResultsError(f"{into}: not a bnexp results folder and not empty; name another with --into DIR")
        return None
    if meta.get("study_sha256") != first.spec.study_sha256():
        raise ResultsError(f"{into}: holds another study; name another with --into DIR")
    return _Source(into, first.spec, meta, store.committed_shards(into, lambda commit: commit.done))


def _read(folder: Path) -> _Source:
    """A results folder with its shards, the finished ones checked against their commits."""
    if not (folder / SPEC).is_file() or not (folder / META).is_file():
        raise ResultsError(f"{folder}: not a results folder")
    refuse_links(folder)
    meta = store.read_meta(folder) or {}
    spec = load_spec(folder / SPEC)
    if meta.get("study_sha256") != spec.study_sha256():
        raise DamagedResults(f"{folder / SPEC}: not the study that was trained; the train command writes it anew")
    if not (folder / SHARDS).is_dir() and meta.get("committed"):
        raise ResultsError(f"{folder}: has no shards/, so it can be read but not merged")
    return _Source(folder, spec, meta, store.committed_shards(folder, lambda commit: commit.done))


def _choose(sources: Sequence[_Source]) -> dict[str, tuple[_Source, Commit]]:
    """Every finished shard, from the first folder that has it; raise ResultsError where two differ, or overlap."""
    chosen: dict[str, tuple[_Source, Commit]] = {}
    holder: dict[str, str] = {}  # run -> shard
    for source in sources:
        for name, commit in source.commits.items():
            if not commit.done:
                continue
            if name in chosen:
                before, same = chosen[name]
                if same.files != commit.files:
                    raise _clash(before, source, commit, "differ")
                continue
            for key in commit.ids:
                if holder.setdefault(key, name) != name:
                    raise _clash(chosen[holder[key]][0], source, commit, "lie in other shards")
            chosen[name] = source, commit
    return chosen


def _clash(before: _Source, after: _Source, commit: Commit, what: str) -> ResultsError:
    run = next(iter(commit.ids.values()))
    return ResultsError(
        f"{before.folder} and {after.folder}: {run} and its neighbours were trained in both and {what}; "
        f"leave one folder out, or remove these runs from it with bnexp rm"
    )


def _copy(shard: Path, to: Path, commit: Commit) -> None:
    """Copy a finished shard, its commit.json last."""
    files.make_folder(to)
    for name, said in commit.files.items():
        with files.storage(shard / name), (shard / name).open("rb") as stream:
            content = stream.read(said.length)
        files.replace(to / name, [content], last=False)
    with files.storage(shard / COMMIT):
        content = (shard / COMMIT).read_bytes()
    files.replace(to / COMMIT, [content])
