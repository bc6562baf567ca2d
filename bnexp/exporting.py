"""Results for other tools: tables as Parquet, curves for TensorBoard, trained networks as safetensors.

Each format needs a library of its own, an extra of the package (``pip install 'bnexp[parquet]'``).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pandas import DataFrame
from pandas.api.types import is_numeric_dtype

from bnexp import files
from bnexp.as_module import state_of
from bnexp.errors import UsageError
from bnexp.results import Results

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST = 150  # letters of a file's name, without what comes after; systems take 255 bytes
_ODD = re.compile(r"[^A-Za-z0-9=,.+-]+")


def export(results: Results, kind: str, folder: Path) -> list[Path]:
    """Write the results into a new folder in one of KINDS; return what was written.

    The folder is there when it is whole. Raises UsageError for an unknown kind, an extra that is missing, or a folder
    that is there already, and StorageError where the disk refuses.
    """
    if kind not in KINDS:
        raise UsageError(f"--to {kind}: one of {', '.join(KINDS)} is expected")
    library, write = KINDS[kind]
    if find_spec(library) is None:
        raise UsageError(f"--to {kind}: needs {library}, which is not installed; pip install 'bnexp[{kind}]'")
    if folder.name in ("", ".."):
        raise UsageError(f"{folder}: not the name of a new folder; name one with -o DIR")
    if folder.exists():
        raise UsageError(f"{folder}: is there already; remove it, or name another with -o DIR")
    whole = folder.with_name(folder.name + files.TEMPORARY)
    with files.storage(folder):
        files.make_folder(folder.parent)
        try:
            whole.mkdir()
        except FileExistsError:
            raise UsageError(f"{whole}: is there already, from an export that was cut off or still runs") from None
        try:
            written = list(write(results, whole))
            whole.rename(folder)
        finally:
            shutil.rmtree(whole, ignore_errors=True)
    return [folder / path.relative_to(whole) for path in written]


def _parquet(results: Results, folder: Path) -> Iterator[Path]:
    """One file a table, with the types that ``bnexp.load`` gives."""
    for name in ("runs", *results.tables, "items"):
        frame = results.table(name)
        if frame is not None:
            path = folder / f"{name}.parquet"
            frame.to_parquet(path, engine="pyarrow", index=False)
            yield path


def _tensorboard(results: Results, folder: Path) -> Iterator[Path]:
    """One event folder a run; every column of a table that has epochs is a scalar, its step the epoch, or the step.

    Tags are table/label/…/column: ``curves/test_loss``, ``activations/layer=1/tap=affine/mean``. Left out are
    predictions, which are no series.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    scalars: dict[str, list[tuple[str, int, float]]] = {str(run): [] for run in results.runs["run"]}
    for table in results.tables:
        frame = results.table(table)
        if frame is not None and {"run", "epoch"} <= set(frame.columns) and table != "predictions":
            for run, rows in _scalars(table, frame, results.labels(table) or ()).items():
                scalars.setdefault(run, []).extend(rows)
    for run, rows in scalars.items():
        place = folder / _file_name(run)
        writer = EventFileWriter(str(place))
        for tag, epoch, value in rows:
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            # An event needs a time; CSVs have none, so that they can be compared.
            writer.add_event(Event(wall_time=float(epoch), step=epoch, summary=summary))
        writer.close()
        yield place


def _scalars(table: str, frame: DataFrame, labels: tuple[str, ...]) -> Mapping[str, list[tuple[str, int, float]]]:
    """Run → (tag, step, value) for each number that is there."""
    found: dict[str, list[tuple[str, int, float]]] = {}
    place = "step" if "step" in frame.columns else "epoch"  # steps are counted through all epochs
    keys = [name for name in labels if name in frame.columns and name not in ("run", "epoch", place)]
    own = ("run", "epoch", place, *keys)
    for name in (name for name in frame.columns if name not in own and is_numeric_dtype(frame[name])):
        rows = frame[["run", place, *keys, name]].dropna(subset=[name])
        for run, at, *labelled, value in rows.itertuples(index=False, name=None):
            tag = "/".join([table, *(f"{key}={label}" for key, label in zip(keys, labelled, strict=True)), name])
            found.setdefault(str(run), []).append((tag, int(at), float(value)))
    return found


def _safetensors(results: Results, folder: Path) -> Iterator[Path]:
    """One file a finished run: the state of the torch module that ``Results.module`` gives; its setting as metadata."""
    from safetensors.numpy import save_file

    columns = [name for name in results.runs.columns if name in (*results.spec.axes, "status")]
    done = results.runs[results.runs["status"] == "done"]
    if done.empty:
        raise UsageError(f"{results.folder}: no run has finished, so there are no weights")
    for record in done.to_dict("records"):
        run = str(record["run"])
        path = folder / f"{_file_name(run)}.safetensors"
        about = {str(name): str(record[name]) for name in columns}
        save_file(state_of(results.module(run)), path, {"run": run, "experiment": results.name, **about})
        yield path


def _file_name(run: str) -> str:
    """A run's id as the name of a file; one that is long or odd is cut and gets its checksum, so that names differ."""
    plain = _ODD.sub("_", run).lstrip(".")[:LONGEST]
    return plain if plain and plain == run else f"{plain}-{hashlib.sha256(run.encode()).hexdigest()[:12]}"


Writer = Callable[[Results, Path], Iterator[Path]]
KINDS: dict[str, tuple[str, Writer]] = {  # by the name of the extra, the library that it brings
    "parquet": ("pyarrow", _parquet),
    "tensorboard": ("tensorboard", _tensorboard),
    "safetensors": ("safetensors", _safetensors),
}
WRITTEN = {"parquet": "tables", "tensorboard": "runs", "safetensors": "networks"}


def hint(kind: str, written: Sequence[Path]) -> list[str]:
    """A command to see what was written."""
    if kind == "tensorboard":
        return ["tensorboard", "--logdir", str(written[0].parent)]
    first = json.dumps(str(written[0]), ensure_ascii=False)
    code = {
        "parquet": f"import pandas; pandas.read_parquet({first}).info()",
        "safetensors": f"from safetensors.numpy import load_file; [*map(print, load_file({first}).items())]",
    }
    return ["python", "-c", code[kind]]
