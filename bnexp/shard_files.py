"""A shard's files: CSVs to which rows are appended, a checkpoint, and commit.json, the only sign of what is done.

A commit appends the rows that wait, writes a checkpoint under a new name, and then, by one rename, a commit.json that
says: this epoch, of each CSV this length and this checksum, this checkpoint. Only then the older checkpoint goes. So at
any moment the last commit can be found and gone on from; what was written after it is cut off.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnexp import files
from bnexp.commits import Commit, Content, as_json
from bnexp.errors import DamagedResults
from bnexp.layout import CHECKPOINT, COMMIT, RUNS, SCHEMA, Table
from bnexp.plan import Shard
from bnexp.tables import header, line, outcome_header

Arrays = Mapping[str, np.ndarray[Any, Any]]


class ShardFiles:
    """A shard that is trained: rows wait here until a commit, so nothing of it is on the disk before the first.

    ``last``: the commit to go on from, tidied; None to begin anew.
    """

    def __init__(self, folder: Path, shard: Shard, tables: Mapping[str, Table], last: Commit | None) -> None:
        self.folder, self.shard, self.curves = folder, shard, tables["curves"]
        self.checkpoint = last.checkpoint if last else ""
        self._lengths: dict[str, int] = {}
        self._hashes: dict[str, hashlib._Hash] = {}
        self._waiting: dict[str, list[str]] = {}
        self._heads: dict[str, str] = {}
        for table in tables.values():
            name = f"{table.name}.csv"
            self._lengths[name], self._hashes[name] = 0, hashlib.sha256()
            self._heads[name] = "" if last else header(table)
            if last:
                self._lengths[name] = last.files[name].length
                self._hashes[name].update((folder / name).read_bytes())
        self.drop()

    def add(self, rows: Mapping[str, str]) -> None:
        """Let rows (table name → lines) wait for the next commit."""
        for table, text in rows.items():
            self._waiting[f"{table}.csv"].append(text)

    def drop(self) -> None:
        """Forget the rows that wait."""
        self._waiting = {name: [head] for name, head in self._heads.items()}

    def commit(
        self, epoch: int, arrays: Arrays, provenance: Mapping[str, Any], outcomes: Sequence[Sequence[str]] | None = None
    ) -> Commit:
        """Make everything up to an epoch durable and say so; with ``outcomes``, one a run, the shard is done."""
        if not self.folder.is_dir():
            files.make_folder(self.folder)
        for name, waiting in self._waiting.items():
            data = "".join(waiting).encode()
            files.append(self.folder / name, data, self._lengths[name])
            self._lengths[name] += len(data)
            self._hashes[name].update(data)
        self._heads = dict.fromkeys(self._heads, "")
        self.drop()
        found = {name: Content(self._lengths[name], self._hashes[name].hexdigest()) for name in self._lengths}
        if outcomes is not None:
            text = self._run_rows(outcomes)
            files.replace(self.folder / RUNS, [text], last=False)
            found[RUNS] = Content.of(text)
        name, older = CHECKPOINT if outcomes is not None else f"checkpoint-{epoch}.npz", self.checkpoint
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        data = buffer.getvalue()
        files.replace(self.folder / name, [data])
        found[name] = Content.of(data)
        said = {
            "schema": SCHEMA,
            "epoch": epoch,
            "done": outcomes is not None,
            "runs": [{"id": run.id, "key": run.key} for run in self.shard.runs],
            "files": {name: content._asdict() for name, content in found.items()},
            "checkpoint": name,
            **provenance,
        }
        files.replace(self.folder / COMMIT, [as_json(said)])
        self.checkpoint = name
        if older and older != name:
            files.remove(self.folder / older)
        ids = {run.key: run.id for run in self.shard.runs}
        return Commit(epoch, outcomes is not None, ids, found, name, said)

    def _run_rows(self, outcomes: Sequence[Sequence[str]]) -> bytes:
        rows = [line(["run", *outcome_header(self.curves)])]
        rows += [line([run.id, *values]) for run, values in zip(self.shard.runs, outcomes, strict=True)]
        return "".join(rows).encode()


def check(folder: Path, commit: Commit) -> None:
    """Raise DamagedResults unless the shard's files begin with what its commit says of them."""
    for name, said in commit.files.items():
        file = folder / name
        try:
            with file.open("rb") as stream:
                data = stream.read(said.length)
        except OSError as error:
            raise DamagedResults(f"{file}: cannot be read: {error.strerror or error}; delete {folder}") from None
        if len(data) < said.length:
            raise DamagedResults(f"{file}: shorter than when it was committed; delete {folder}")
        if said.sha256 is not None and hashlib.sha256(data).hexdigest() != said.sha256:
            raise DamagedResults(f"{file}: not what was committed (its checksum differs); delete {folder}")


def tidy(folder: Path, commit: Commit) -> None:
    """Cut the shard's CSVs back to its commit, and remove what belongs to no commit."""
    for path in sorted(folder.iterdir()):
        if path.name != COMMIT and path.name not in commit.files:
            files.remove(path)
    for name, said in commit.files.items():
        if (folder / name).stat().st_size > said.length:
            files.cut(folder / name, said.length)


def load_arrays(folder: Path, commit: Commit) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a shard's checkpoint; nothing is unpickled."""
    path = folder / commit.checkpoint
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedResults(f"{path}: cannot be read: {error}") from None
