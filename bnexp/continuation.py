"""What a results folder holds of a study, and whether it may be gone on with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnexp import store
from bnexp.commits import Commit, refuse_links, run_ids
from bnexp.data import Dataset
from bnexp.errors import DamagedResults, ResultsError, SpecError, UsageError
from bnexp.layout import META, SHARDS, SPEC
from bnexp.loading import load_spec
from bnexp.origin import checksums, computed_by
from bnexp.plan import Run
from bnexp.spec import DataFields, Spec

if TYPE_CHECKING:
    from bnexp.experiment import Request


def kept_shards(
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
    refuse_links(folder)
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
    trained_on = {entry["fields"]: entry.get("sha256") for entry in meta.get("data", ())}
    for entry in checksums(datasets):
        if trained_on.get(entry["fields"], entry["sha256"]) != entry["sha256"]:
            raise ResultsError(
                f"{folder}: data {entry['name']} is not what this study was trained on (checksum differs); "
                "restore it, or use --out DIR for a new study"
            )
    known_runs = {run.key for run in runs}
    for name, commit in commits.items():
        if foreign := set(commit.ids) - known_runs:
            run = commit.ids[min(foreign)]
            raise DamagedResults(f"{folder / SHARDS / name}: holds run {run}, which is not of this study; remove it")
    if request.restart_unfinished:
        return {name: commit for name, commit in commits.items() if commit.done}
    if request.cluster is None:  # of a cluster nobody knows yet which of its machines goes on
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
    try:
        old = load_spec(folder / SPEC)
    except SpecError as error:
        raise DamagedResults(f"{folder / SPEC}: cannot be read, so nobody can tell what differs:\n{error}") from None
    known = run_ids(folder / META, meta)
    missing = set(known) - {run.key for run in runs}
    adds_only = not missing and old.shared_options() == spec.shared_options()
    if adds_only and request.extend:
        return
    what = "\n".join([f"{folder}: holds another study:", *differences(old.document, spec.document)])
    if adds_only:
        added = len(runs) - len(known)
        raise ResultsError(f"{what}\nIt only adds {added} runs: use --extend to train these and keep the rest.")
    raise ResultsError(f"{what}\nUse --out DIR (or another name) for a new study, or --overwrite to replace this one.")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Where two studies differ, a line each: ``train.lr: 0.1 → 0.3``."""
    old, new = _flatten(before), _flatten(after)
    return [
        f"  {key}: {old.get(key, '(absent)')} → {new.get(key, '(absent)')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and key.split(".")[0] not in ("name", "question", "claims")
    ]


def _flatten(data: Any, path: str = "") -> dict[str, str]:
    if isinstance(data, Mapping):
        parts: dict[str, str] = {}
        for key, value in data.items():
            parts.update(_flatten(value, f"{path}.{key}" if path else str(key)))
        return parts
    return {path: json.dumps(data)}
