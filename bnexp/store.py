"""A results folder as a whole: its lock, spec, meta and top CSVs. With ``shard_files`` the only code that writes there.

The top CSVs are put together from the shards' last commits, run by run in plan order, so they do not depend on how the
study was cut, interrupted or extended.
"""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bnexp import files
from bnexp.commits import Commit, as_json, content_of, read_commit, read_json, refuse_links
from bnexp.errors import DamagedResults, FolderInUse, ResultsError
from bnexp.layout import COMMIT, HOLDER, ITEMS, LOCK, META, RUNS, SCHEMA, SHARDS, SPEC, Table
from bnexp.plan import Run, setting_id
from bnexp.shard_files import check, load_arrays, tidy
from bnexp.spec import Setting
from bnexp.tables import first_field, header, line, outcome_header, run_values


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create the folder if need be and hold its lock; raise FolderInUse if another process does."""
    files.make_folder(folder)
    refuse_links(folder)
    with files.storage(folder):
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = _holder(folder)
            raise FolderInUse(f"{folder}: another bnexp{who} is writing here; wait for it, or use --out DIR") from None
    holder = folder / HOLDER
    try:
        with suppress(OSError):  # only for the message above
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as that is known."""
    try:
        said = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f" (process {int(said['pid'])} on {str(said['host'])[:64]!r})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The folder's meta.json, None if there is none; raise DamagedResults if it cannot be understood."""
    path = folder / META
    if not path.exists():
        return None
    return read_json(path)


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write meta.json as a whole."""
    files.replace(folder / META, [as_json({**meta, "schema": SCHEMA})])


def write_spec(folder: Path, text: str) -> None:
    """Write spec.yaml as a whole."""
    _replace_lines(folder / SPEC, [text])


def is_new(folder: Path) -> bool:
    """Whether there is nothing in a folder but what bnexp may leave before its first meta.json."""
    return all(path.name in (LOCK, HOLDER, META + files.TEMPORARY) for path in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove everything that a study wrote into the folder; refuse to touch what bnexp did not write."""
    ours = (folder / META).exists() or (folder / SHARDS).is_dir()
    if not (ours or is_new(folder)):
        raise ResultsError(f"{folder}: not a bnexp results folder and not empty; choose another with --out DIR")
    with suppress(DamagedResults):
        meta = read_meta(folder)
        if meta is not None:  # so that what is half removed is not missed
            write_meta(folder, {**meta, "committed": {}, "files": {}})
    with files.storage(folder):
        here = sorted(folder.iterdir())
    # meta.json last: without it the rest would be nobody's.
    for path in sorted(here, key=lambda path: path.name == META):
        if path.suffix in (".csv", files.TEMPORARY) or path.name in (SHARDS, SPEC, META):
            files.remove(path)


def remove_study(folder: Path) -> list[str]:
    """Remove a results folder; the names of what others put there, which stays. Refuses what is not bnexp's."""
    with locked(folder):
        clear(folder)
    with files.storage(folder):
        files.remove(folder / LOCK)
        left = sorted(path.name for path in folder.iterdir())
        if not left:
            files.remove(folder)
    return left


def forget(folder: Path, shards: Iterable[str]) -> None:
    """Remove shards, so that ``train`` trains their runs anew; until then readers do without."""
    with locked(folder):
        meta = read_meta(folder)
        if meta is not None:  # the top CSVs hold more than there is now
            write_meta(folder, {**meta, "committed": {}})
        for name in shards:
            files.remove(folder / SHARDS / name)


def committed_shards(folder: Path, checked: Callable[[Commit], bool] = lambda commit: True) -> dict[str, Commit]:
    """The last commit of every shard, by shard name; those that are to be ``checked`` against their files."""
    found = {}
    for path in sorted((folder / SHARDS).glob(f"*/{COMMIT}")):
        if path.parent.suffix != files.TEMPORARY:
            commit = found[path.parent.name] = read_commit(path)
            if checked(commit):
                check(path.parent, commit)
    return found


def tidy_up(folder: Path, commits: Mapping[str, Commit]) -> None:
    """Remove what an interrupted process left beyond the commits; the lock is held."""
    with files.storage(folder):
        here = [*folder.glob(f"*{files.TEMPORARY}"), *(folder / SHARDS).glob("*")]
    for path in sorted(here):
        if path.name in commits:
            tidy(path, commits[path.name])
        else:
            files.remove(path)


def assemble(
    folder: Path,
    runs: Sequence[Run],
    commits: Mapping[str, Commit],
    tables: Mapping[str, Table],
    columns: Sequence[str],
    axes: Sequence[str],
    failed: Collection[str] = (),
) -> None:
    """Put the top CSVs together from the shards' commits, each streamed to a new file and renamed into place.

    ``failed``: keys of the runs whose shard failed; they have no outcome, and what is committed of them is kept.
    """
    for table in tables.values():
        reader = _ShardRows(folder, f"{table.name}.csv", commits)
        rows = (text for run in runs for text in reader.take(run))
        _replace_lines(folder / f"{table.name}.csv", chain([header(table)], rows), last=False)
    _replace_lines(folder / RUNS, _run_lines(folder, runs, commits, columns, tables["curves"], failed))
    done = {name: commit for name, commit in commits.items() if commit.done}
    _write_items(folder, runs, done, axes)


def top_files(folder: Path, tables: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Length and checksum of the spec and each top CSV: who reads them can tell whether they were changed since."""
    names = [*(f"{table}.csv" for table in tables), RUNS, ITEMS, SPEC]
    with files.storage(folder):
        return {name: content_of(folder / name)._asdict() for name in names if (folder / name).exists()}


def _places(commits: Mapping[str, Commit]) -> dict[str, tuple[str, str]]:
    """Where each committed run lies, by key: its shard, and its id there."""
    return {key: (name, id_) for name, commit in commits.items() for key, id_ in commit.ids.items()}


def _run_lines(
    folder: Path,
    runs: Sequence[Run],
    commits: Mapping[str, Commit],
    columns: Sequence[str],
    curves: Table,
    failed: Collection[str],
) -> Iterator[str]:
    outcome = outcome_header(curves)
    yield line(["run", "seed", *columns, *outcome])
    begun = _places(commits)
    reader = _ShardRows(folder, RUNS, {name: commit for name, commit in commits.items() if commit.done})
    for run in runs:
        found = reader.take(run)
        start = line([run.id, *run_values(run, columns)])[:-1]
        if found:
            yield start + found[0][len(line([run.id])) - 1 :]
        else:
            status = "failed" if run.key in failed else "running" if run.key in begun else "pending"
            yield f"{start},{status}" + "," * (len(outcome) - 1) + "\n"


class _ShardRows:
    """Rows of one table, run by run; each shard's file is read once and let go when its last run was taken."""

    def __init__(self, folder: Path, name: str, commits: Mapping[str, Commit]) -> None:
        self.folder, self.name, self.commits, self.places = folder, name, commits, _places(commits)
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
            # No further than the commit: what comes after it nobody has said to be there.
            text = path.read_bytes()[: self.commits[shard].files[self.name].length].decode("utf-8")
            stream = io.StringIO(text, newline="")
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


def _write_items(folder: Path, runs: Sequence[Run], commits: Mapping[str, Commit], axes: Sequence[str]) -> None:
    """items.csv: for each setting and test row, the share of finished seeds that predicted its class."""
    setting_of = {run.key: run.setting for run in runs}
    order: dict[Setting, None] = dict.fromkeys(run.setting for run in runs)
    counts: dict[Setting, tuple[int, np.ndarray[Any, Any]]] = {}
    for name, commit in commits.items():
        correct = load_arrays(folder / SHARDS / name, commit).get("test_correct")
        if correct is not None:
            for key, right in zip(commit.ids, correct, strict=True):
                n, total = counts.get(setting_of[key], (0, 0))
                counts[setting_of[key]] = (n + 1, total + right.astype(np.int64))
    if counts:
        lines = (
            line([setting_id(setting, axes), row, counts[setting][0], f"{total / counts[setting][0]:.9g}"])
            for setting in order
            if setting in counts
            for row, total in enumerate(counts[setting][1].tolist())
        )
        _replace_lines(folder / ITEMS, chain([line(["setting", "row", "n", "share"])], lines))


def _replace_lines(path: Path, lines: Iterable[str], last: bool = True) -> None:
    files.replace(path, (text.encode() for text in lines), last)
