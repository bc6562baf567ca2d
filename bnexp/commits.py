"""A results folder read with suspicion, for those who go on writing and for those who only read.

``refuse_links`` sees to it that what has a name of ours is a file of ours. The rest is what meta.json and
commit.json say.

commit.json holds: schema; epoch; done; runs (id and key); files, of each its length and SHA-256; checkpoint, the name
of one of them; and what computed (device, threads, versions). In schema 1 every shard is done and a file has a length
alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from bnexp.errors import DamagedResults
from bnexp.files import TEMPORARY
from bnexp.layout import CHECKPOINT, COMMIT, HOLDER, LOCK, SCHEMA, SHARDS

CHECKSUM = "sha256"  # the key under which a JSON file has its own


class Content(NamedTuple):
    """How a committed file begins: so many bytes of this SHA-256 (None: unknown)."""

    length: int
    sha256: str | None = None

    @classmethod
    def of(cls, data: bytes) -> Content:
        """A file that begins with these bytes."""
        return cls(len(data), hashlib.sha256(data).hexdigest())


def refuse_links(folder: Path) -> None:
    """Raise DamagedResults where something has a name that bnexp uses and is a link, a pipe or a device.

    Who may write into the folder could otherwise have us read or change files that lie elsewhere.
    """
    places = [folder] if folder.is_dir() else []
    for place in places:
        try:
            with os.scandir(place) as entries:
                here = [entry for entry in entries if place != folder or _has_our_name(entry.name)]
        except OSError as error:
            raise DamagedResults(f"{place}: cannot be read: {error.strerror or error}") from None
        for entry in here:
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                within = place == folder / SHARDS or place.suffix == TEMPORARY
                if not (within or path == folder / SHARDS or path.suffix == TEMPORARY):
                    raise DamagedResults(f"{path}: a folder, where a file belongs; remove it")
                places.append(path)
            elif not entry.is_file(follow_symlinks=False):
                kind = "a symbolic link" if entry.is_symlink() else "neither a file nor a folder"
                raise DamagedResults(f"{entry.path}: {kind}, which bnexp does not follow; put the file itself there")


def _has_our_name(name: str) -> bool:
    """Whether bnexp uses such a name at the top of a results folder."""
    return name in (SHARDS, LOCK, HOLDER) or Path(name).suffix in (".csv", ".json", ".yaml", TEMPORARY)


def content_of(path: Path) -> Content:
    """What a file holds now."""
    with path.open("rb") as stream:
        return Content(path.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest())


class Commit(NamedTuple):
    """A shard's last commit: up to which epoch, whether it is done, key → id of its runs, its files."""

    epoch: int
    done: bool
    ids: Mapping[str, str]
    files: Mapping[str, Content]
    checkpoint: str
    said: Mapping[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """What meta.json or commit.json says; raise DamagedResults if it is not as it was written, or of a newer bnexp.

    The file is read once: who trains may replace it at any moment. Before schema 2 there was no checksum.
    """
    try:
        raw = path.read_bytes()
        data = json.loads(raw)
    except FileNotFoundError:
        raise DamagedResults(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedResults(f"{path}: cannot be read: {error}; {_remedy(path)}") from None
    if not isinstance(data, dict):
        raise DamagedResults(f"{path}: not a JSON object; {_remedy(path)}")
    if (_schema(path, data) > 1 or CHECKSUM in data) and raw != as_json(data):
        raise DamagedResults(f"{path}: not what bnexp wrote, it was changed since; {_remedy(path)}")
    return data


_PARTS: dict[str, type | tuple[type, ...]] = {  # of meta.json, where they stand there
    "study_sha256": str,
    "claims_sha256": list,
    "sessions": list,
    "versions": dict,
    "data": list,
    "log_columns": dict,
    "labels": dict,
    "runs": list,
    "committed": (dict, list),
    "files": dict,
    "computed_by": list,
    "failures": dict,
    "failed_runs": list,
}
_ENTRIES = ("claims_sha256", "sessions", "data", "computed_by")  # lists of mappings


def read_meta(path: Path) -> dict[str, Any]:
    """What meta.json says; raise DamagedResults where a part of it is not of its kind."""
    data = read_json(path)
    for name, kind in _PARTS.items():
        of_kind = isinstance(data.get(name), kind)
        if name in data and not (of_kind and (name not in _ENTRIES or all(isinstance(e, dict) for e in data[name]))):
            raise DamagedResults(f"{path}: {name} is not what bnexp writes there; {_remedy(path)}")
    for name, key in (("data", "fields"), ("claims_sha256", "sha256")):
        if not all(isinstance(entry.get(key), str) for entry in data.get(name, ())):
            raise DamagedResults(f"{path}: {name} does not say {key}; {_remedy(path)}")
    return data


def _remedy(path: Path) -> str:
    if path.name == COMMIT:
        return f"restore it, or delete {path.parent} and train its runs again"
    return "restore it, or train anew with --out DIR"


def as_json(data: Mapping[str, Any]) -> bytes:
    """The text of a JSON file, with a checksum of all that it says."""
    said = {name: value for name, value in data.items() if name != CHECKSUM}
    return json.dumps({**said, CHECKSUM: _checksum(said)}, indent=1).encode() + b"\n"


def _checksum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _schema(path: Path, data: Mapping[str, Any]) -> int:
    """The schema number of a JSON file; raise DamagedResults if this version cannot read it."""
    schema = data.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise DamagedResults(f"{path}: no schema number; {_remedy(path)}")
    if schema > SCHEMA:
        message = f"written by a newer bnexp (schema {schema}; this version reads up to {SCHEMA}); upgrade bnexp"
        raise DamagedResults(f"{path}: {message}")
    return schema


def run_ids(path: Path, data: Mapping[str, Any]) -> dict[str, str]:
    """Stable key → readable id, from the ``runs`` of a JSON file, in their order."""
    runs = data.get("runs")
    valid = isinstance(runs, list) and all(
        isinstance(run, dict) and isinstance(run.get("id"), str) and isinstance(run.get("key"), str) for run in runs
    )
    if not valid:
        raise DamagedResults(f"{path}: runs is not a list of ids and keys; {_remedy(path)}")
    found = {run["key"]: run["id"] for run in cast(list[dict[str, str]], runs)}
    if len(found) != len(cast(list[Any], runs)) or len(set(found.values())) != len(found):
        raise DamagedResults(f"{path}: the same run stands there twice; {_remedy(path)}")
    return found


def read_commit(path: Path) -> Commit:
    """A shard's commit.json; raise DamagedResults if it does not say what it must."""
    data = read_json(path)
    ids = run_ids(path, data)
    files = _files(path, data)
    if not ids:
        raise DamagedResults(f"{path}: holds no runs; {_remedy(path)}")
    if data["schema"] == 1:
        return Commit(0, True, ids, files, CHECKPOINT, data)
    epoch, done, checkpoint = data.get("epoch"), data.get("done"), data.get("checkpoint")
    if not (isinstance(epoch, int) and epoch >= 0 and isinstance(done, bool) and checkpoint in files):
        what = "does not say which epoch it is of, whether that is the last, and its checkpoint"
        raise DamagedResults(f"{path}: {what}; {_remedy(path)}")
    return Commit(epoch, done, ids, files, str(checkpoint), data)


def _files(path: Path, data: Mapping[str, Any]) -> dict[str, Content]:
    said = data.get("files", {})
    if not isinstance(said, dict):
        raise DamagedResults(f"{path}: files is not a list of lengths; {_remedy(path)}")
    found = {}
    for name, content in said.items():
        parts = content if isinstance(content, dict) else {"length": content}
        length, checksum = parts.get("length"), parts.get("sha256")
        sound = (
            isinstance(length, int)
            and not isinstance(length, bool)
            and length >= 0
            and (checksum is None or isinstance(checksum, str))
        )
        if not (sound and re.fullmatch(r"[\w-]+\.(csv|npz)", name)):
            raise DamagedResults(f"{path}: what it says of {name!r} is no length and checksum; {_remedy(path)}")
        found[name] = Content(cast(int, length), checksum)
    return found
