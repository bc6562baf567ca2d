"""A results folder as a whole: its lock, spec, meta and top CSVs. With ``shard_files`` the only code that writes there.

The top CSVs are put together from the shards' last commits, run by run in plan order, so they do not depend on how the
study was cut, interrupted or extended.
"""

from __future__ import annotations

import io
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from bnexp import files
from bnexp.commits import Commit, as_json, content_of, read_commit, refuse_links
from bnexp.commits import read_meta as read_described
from bnexp.errors import DamagedResults, FolderInUse, ResultsError, StorageError, UsageError
from bnexp.layout import COMMIT, HOLDER, ITEMS, LOCK, META, RUNS, SCHEMA, SHARDS, SPEC, Table
from bnexp.measures import MEASURES
from bnexp.plan import SHARD_NAME, Run, setting_id, shard_name
from bnexp.shard_files import check, load_arrays, tidy
from bnexp.spec import Setting
from bnexp.tables import first_field, header, line, outcome_header, run_values

MOST_SAID = 500  # letters that a holder says of itself
SIGNED_WITHIN = 2.0  # seconds after which who took the lock has said so, or will not


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Create the folder if need be and hold its lock; raise FolderInUse if another process does.

    Gives a call that raises StorageError once the folder is not at its place any more.
    """
    check_place(folder)
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
            holder.unlink(missing_ok=True)
            with holder.open("x", encoding="utf-8") as stream:
                json.dump({"pid": os.getpid(), "host": socket.gethostname()}, stream)
        yield _StillThere(folder)
    finally:
        with suppress(OSError):
            holder.unlink()
        lock.release()


def check_place(folder: Path) -> None:
    """Raise UsageError where no folder can be, as something else stands there or above it, and StorageError."""
    with files.storage(folder):
        for place in (folder, *folder.parents):
            with suppress(FileNotFoundError, NotADirectoryError):
                place.lstat()
                if not place.is_dir():
                    raise UsageError(f"{place}: not a folder; name another with --out DIR")
                return


class _StillThere:
    """Whoever moves or removes a folder takes the lock in it along: what is written at its old place is nobody's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.identity = folder, self._identity(folder)

    def __call__(self) -> None:
        with files.storage(self.folder):
            if self._identity(self.folder) != self.identity:
                raise StorageError(
                    f"{self.folder}: another folder stands here now; what was committed went with the old"
                )

    def _identity(self, folder: Path) -> tuple[int, int]:
        found = folder.stat()
        return found.st_dev, found.st_ino


def _holder(folder: Path) -> str:
    """Who holds the lock, as far as that is known: it may have been taken this moment, and not be signed yet."""
    latest = time.monotonic() + SIGNED_WITHIN
    while True:
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            with (folder / HOLDER).open(encoding="utf-8") as stream:
                said = json.loads(stream.read(MOST_SAID))
            pid, host = int(said["pid"]), str(said["host"])
            if host != socket.gethostname() or _lives(pid):
                return f" (process {pid} on {host[:64]!r})"
        if time.monotonic() > latest:
            return ""
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    """Whether there is such a process here: what one that was killed has signed is still there."""
    if sys.platform == "win32":  # asking would end it there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The folder's meta.json, None if there is none; raise DamagedResults if it cannot be understood."""
    path = folder / META
    if not path.exists():
        return None
    return read_described(path)


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
    if not (is_ours(folder) or is_new(folder)):
        raise ResultsError(f"{folder}: not a bnexp results folder and not empty; choose another with --out DIR")
    with suppress(DamagedResults):
        meta = read_meta(folder)
        if meta is not None:  # so that what is half removed is not missed
            write_meta(folder, {**meta, "committed": {}, "files": {}})
    with files.storage(folder):
        here = sorted(folder.iterdir())
    # meta.json last: without it the rest would be nobody's.
    for path in sorted(here, key=lambda path: path.name == META):
        if path.name.removesuffix(files.TEMPORARY) == SHARDS:
            _remove_shards(path)
        elif _is_written_here(path.name):
            files.remove(path)


def is_ours(folder: Path) -> bool:
    """Whether bnexp has trained into a folder: its meta.json names a study, be it damaged, or there is a commit."""
    with suppress(OSError):
        if b'"study_sha256"' in (folder / META).read_bytes():
            return True
    return any(_is_shard(path.parent.name) for path in (folder / SHARDS).glob(f"*/{COMMIT}"))


def _is_written_here(name: str) -> bool:
    """Whether a file of this name at the top of a results folder is bnexp's, whole or not."""
    tables = {table.name for measure in MEASURES.values() for table in measure.tables}
    names = {META, SPEC, RUNS, ITEMS, "curves.csv", *(f"{table}.csv" for table in tables)}
    return name.removesuffix(files.TEMPORARY) in names


def _is_shard(name: str) -> bool:
    return re.fullmatch(SHARD_NAME, name.removesuffix(files.TEMPORARY)) is not None


def _remove_shards(folder: Path) -> None:
    """Remove what bnexp wrote there, and the folder if nothing else is left."""
    with files.storage(folder):
        here = sorted(folder.iterdir())
    if all(_is_shard(path.name) for path in here):
        files.remove(folder)
    for path in here:
        if _is_shard(path.name) and path.exists():
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
            if path.parent.name != shard_name(list(commit.ids)):
                raise DamagedResults(f"{path}: not the shard of this folder's name; remove {path.parent}")
            if not {commit.checkpoint, *([RUNS] if commit.done else [])} <= set(commit.files):
                raise DamagedResults(f"{path}: does not say what its checkpoint and {RUNS} hold; delete {path.parent}")
            if checked(commit):
                check(path.parent, commit)
    return found


def tidy_up(folder: Path, commits: Mapping[str, Commit]) -> None:
    """Remove what an interrupted process left beyond the commits; the lock is held."""
    with files.storage(folder):
        unfinished = [path for path in folder.glob(f"*{files.TEMPORARY}") if _is_written_here(path.name)]
        unfinished += folder.glob(f"{SHARDS}{files.TEMPORARY}")
        shards = [path for path in (folder / SHARDS).glob("*") if _is_shard(path.name)]
    for path in sorted([*unfinished, *shards]):
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
    if not counts:
        files.remove(folder / ITEMS)  # what an earlier training left, of runs that are gone
    else:
        lines = (
            line([setting_id(setting, axes), row, counts[setting][0], f"{total / counts[setting][0]:.9g}"])
            for setting in order
            if setting in counts
            for row, total in enumerate(counts[setting][1].tolist())
        )
        _replace_lines(folder / ITEMS, chain([line(["setting", "row", "n", "share"])], lines))


def _replace_lines(path: Path, lines: Iterable[str], last: bool = True) -> None:
    files.replace(path, (text.encode() for text in lines), last)
