"""The only code that writes into a results folder.

A shard's rows are appended to its own CSVs while it trains; ``commit.json``, written last, by an atomic rename, is the
only sign that it is done. A shard without one starts again. The top CSVs are put together from committed shards, run by
run in plan order, so they do not depend on how the study was cut, interrupted or extended.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bnexp.errors import DamagedResults, FolderInUse, ResultsError, StorageError
from bnexp.layout import CHECKPOINT, COMMIT, ITEMS, LOCK, META, RUNS, SCHEMA, SHARDS, SPEC, Table
from bnexp.plan import Run, Shard, setting_id
from bnexp.spec import Setting
from bnexp.tables import (
    first_field,
    header,
    line,
    outcome_header,
    run_values,
)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder if need be and hold its lock; raise FolderInUse if another process does."""
    with _storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(f"{folder}: another bnexp is writing here; wait for it, or use --out DIR") from None
    try:
        yield
    finally:
        lock.release()


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The folder's meta.json, None if there is none; raise DamagedResults if it cannot be understood."""
    path = folder / META
    if not path.exists():
        return None
    meta = _read_json(path)
    if not isinstance(meta.get("schema"), int) or meta["schema"] > SCHEMA:
        raise DamagedResults(f"{path}: written by a newer bnexp (schema {meta.get('schema')}); upgrade to read it")
    return meta


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json as a whole."""
    _replace(folder / META, json.dumps({"schema": SCHEMA, **meta}, indent=1) + "\n")


def write_spec(folder: Path, text: str) -> None:
    """Write spec.yaml as a whole."""
    _replace(folder / SPEC, text)


def clear(folder: Path) -> None:
    """Remove everything that a study wrote into the folder; refuse to touch what bnexp did not write."""
    if read_meta(folder) is None and any(path.name != LOCK for path in folder.iterdir()):
        raise ResultsError(f"{folder}: not a bnexp results folder and not empty; choose another with --out DIR")
    with _storage(folder):
        if (folder / SHARDS).exists():
            shutil.rmtree(folder / SHARDS)
        for path in folder.iterdir():
            if path.suffix == ".csv" or path.name in (SPEC, META):
                path.unlink()


def committed_shards(folder: Path) -> dict[str, dict[str, Any]]:
    """commit.json of every finished shard, by shard name."""
    found = {}
    for path in sorted((folder / SHARDS).glob(f"*/{COMMIT}")):
        commit = _read_json(path)
        for name, length in commit["files"].items():
            file = path.parent / name
            if not file.exists() or file.stat().st_size != length:
                raise DamagedResults(f"{file}: missing, or not as long as when it was committed; delete {path.parent}")
        found[path.parent.name] = commit
    return found


def begin_shard(folder: Path, shard: Shard, tables: Iterable[Table]) -> None:
    """Make the shard's folder anew, with the header of each table."""
    own = folder / SHARDS / shard.name
    with _storage(own):
        if own.exists():
            shutil.rmtree(own)
        own.mkdir(parents=True)
        for table in tables:
            (own / f"{table.name}.csv").write_text(header(table), encoding="utf-8", newline="\n")


def append(folder: Path, shard: Shard, rows: Mapping[str, str]) -> None:
    """Append lines (table name → text) to the shard's CSVs."""
    own = folder / SHARDS / shard.name
    with _storage(own):
        for name, text in rows.items():
            with (own / f"{name}.csv").open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(text)


def commit(
    folder: Path,
    shard: Shard,
    curves: Table,
    outcomes: Sequence[Sequence[str]],
    arrays: Mapping[str, np.ndarray[Any, Any]],
    provenance: Mapping[str, Any],
) -> None:
    """Write the shard's runs.csv and checkpoint, make everything durable, and then say so in commit.json."""
    own = folder / SHARDS / shard.name
    rows = [line(["run", *outcome_header(curves)])]
    rows += [line([run.id, *values]) for run, values in zip(shard.runs, outcomes, strict=True)]
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    with _storage(own):
        (own / RUNS).write_text("".join(rows), encoding="utf-8", newline="\n")
        (own / CHECKPOINT).write_bytes(buffer.getvalue())
        files = sorted(path for path in own.iterdir() if path.name != COMMIT)
        for path in files:
            _sync(path)
        said = {
            "schema": SCHEMA,
            "runs": [{"id": run.id, "key": run.key} for run in shard.runs],
            "files": {path.name: path.stat().st_size for path in files},
            **provenance,
        }
    _replace(own / COMMIT, json.dumps(said, indent=1) + "\n")


def assemble(
    folder: Path,
    runs: Sequence[Run],
    commits: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Table],
    columns: Sequence[str],
    axes: Sequence[str],
) -> None:
    """Put the top CSVs together from committed shards, each streamed to a new file and renamed into place."""
    places = {run["key"]: (name, run["id"]) for name, commit_ in commits.items() for run in commit_["runs"]}
    for table in tables.values():
        reader = _ShardRows(folder, f"{table.name}.csv", places)
        _replace_lines(folder / f"{table.name}.csv", header(table), (text for run in runs for text in reader.take(run)))
    curves = tables["curves"]
    reader = _ShardRows(folder, RUNS, places)
    first = line(["run", "seed", *columns, *outcome_header(curves)])
    _replace_lines(folder / RUNS, first, _run_lines(reader, runs, columns, len(outcome_header(curves))))
    _write_items(folder, runs, commits, axes)


def _run_lines(reader: _ShardRows, runs: Sequence[Run], columns: Sequence[str], width: int) -> Iterator[str]:
    for run in runs:
        found = reader.take(run)
        start = line([run.id, *run_values(run, columns)])[:-1]
        if found:
            yield start + found[0][len(line([run.id])) - 1 :]
        else:
            yield start + ",pending" + "," * (width - 1) + "\n"


class _ShardRows:
    """Rows of one table, run by run; each shard's file is read once and let go when its last run was taken."""

    def __init__(self, folder: Path, name: str, places: Mapping[str, tuple[str, str]]) -> None:
        self.folder, self.name, self.places = folder, name, places
        self.open: dict[str, dict[str, list[str]]] = {}

    def take(self, run: Run) -> list[str]:
        """The run's rows, under the id that it has now."""
        if run.key not in self.places:
            return []
        shard, old_id = self.places[run.key]
        if shard not in self.open:
            self.open[shard] = self._read(shard)
        rows = self.open[shard].pop(old_id, [])
        if not self.open[shard]:
            del self.open[shard]
        if old_id == run.id:
            return rows
        old, new = len(line([old_id])) - 1, line([run.id])[:-1]
        return [new + row[old:] for row in rows]

    def _read(self, shard: str) -> dict[str, list[str]]:
        path = self.folder / SHARDS / shard / self.name
        rows: dict[str, list[str]] = {}
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                next(stream, None)
                start, own = "\n", [""]  # of the run whose rows come just now
                for row in stream:
                    if not row.startswith(start):
                        found = first_field(row)
                        start, own = line([found])[:-1] + ",", rows.setdefault(found, [])
                    own.append(row)
        except (OSError, ValueError) as error:
            raise DamagedResults(f"{path}: cannot be read: {error}") from None
        return rows


def _write_items(
    folder: Path, runs: Sequence[Run], commits: Mapping[str, Mapping[str, Any]], axes: Sequence[str]
) -> None:
    """items.csv: for each setting and test row, the share of finished seeds that predicted its class."""
    setting_of = {run.key: run.setting for run in runs}
    order: dict[Setting, None] = dict.fromkeys(run.setting for run in runs)
    counts: dict[Setting, tuple[int, np.ndarray[Any, Any]]] = {}
    for name, commit_ in commits.items():
        path = folder / SHARDS / name / CHECKPOINT
        try:
            with np.load(path, allow_pickle=False) as arrays:
                correct = arrays.get("test_correct")
        except (OSError, ValueError) as error:
            raise DamagedResults(f"{path}: cannot be read: {error}") from None
        if correct is not None:
            for run, right in zip(commit_["runs"], correct, strict=True):
                n, total = counts.get(setting_of[run["key"]], (0, 0))
                counts[setting_of[run["key"]]] = (n + 1, total + right.astype(np.int64))
    if counts:
        lines = (
            line([setting_id(setting, axes), row, counts[setting][0], f"{total / counts[setting][0]:.9g}"])
            for setting in order
            if setting in counts
            for row, total in enumerate(counts[setting][1].tolist())
        )
        _replace_lines(folder / ITEMS, line(["setting", "row", "n", "share"]), lines)


def _replace_lines(path: Path, first: str, lines: Iterable[str]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with _storage(path):
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(first)
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)


def _replace(path: Path, text: str) -> None:
    _replace_lines(path, text, ())


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedResults(f"{path}: cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise DamagedResults(f"{path}: not a JSON object")
    return data


@contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into a StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
