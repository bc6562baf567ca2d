"""Files of the user's own: csv and npz, checked cell by cell. Nothing is unpickled.

What is wrong in a csv file is shown all at once, each with its row, its column and a caret under the cell.
"""

from __future__ import annotations

import csv
import os.path
from array import array
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from bnexp.errors import DataError, Problem, did_you_mean
from bnexp.sources import Array, Raw, Task, check_room
from bnexp.spec import DataFields

FLOAT32_MAX = float(np.finfo(np.float32).max)
INTEGER_CLASSES = 20  # DataFields.task: more distinct integers than these are a regression


class _Faults:
    """What is wrong with a csv file, as it is found: row, column, and a caret under the cell."""

    MOST = 20  # are shown

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[Problem] = []

    def add(self, row: int, message: str, cells: Sequence[str], at: int = 0, column: str | int | None = None) -> None:
        """Add what is wrong at a cell of a row; raise DataError with all so far if it is one too many."""
        if len(self.problems) == self.MOST:
            raise self.error(f"and more: only the first {self.MOST} are shown")
        place = f"{self.path}:row {row}" + ("" if column is None else f", column {column!r}")
        if not cells:
            self.problems.append(Problem(place, "", message))
            return
        shown = [f'"{cell}"' if "," in cell else cell for cell in cells]
        caret = sum(len(cell) + 1 for cell in shown[:at]) + 1
        self.problems.append(Problem.pointing(place, "", message, ",".join(shown), caret))

    def with_its_own(self, records: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        """The records; where the file cannot be read on, that is told after what was found before."""
        try:
            yield from records
        except DataError as error:
            raise self.error(str(error)) from None

    def raise_if_any(self) -> None:
        """Raise DataError with all that was found."""
        if self.problems:
            raise self.error()

    def error(self, *more: str) -> DataError:
        """All that was found."""
        return DataError("\n".join([*map(str, self.problems), *more]))


def read_csv(fields: DataFields) -> Raw:
    """A csv file: a header, one column to predict, all others numeric features.

    Rows are counted as a spreadsheet does: the header is row 1.
    """
    path = _own_file(fields)
    check_room(path, path.stat().st_size)
    faults, records = _Faults(path), _csv_records(path)
    header = next(records, (1, []))[1]
    _check_header(header, fields.target or "", faults)
    target = header.index(fields.target or "")
    features, texts, rows = array("d"), list[str](), list[int]()
    for row, cells in faults.with_its_own(records):
        if len(cells) != len(header):
            message = f"{len(cells)} cells, but the header has {len(header)}; quote cells that hold commas"
            faults.add(row, message, cells, min(len(cells), len(header)))
            continue
        numbers, label = _finite_numbers(cells[:target] + cells[target + 1 :]), cells[target]
        if numbers is None or not label or _is_infinite(label):
            _find_faults(row, header, target, cells, faults)
            continue
        rows.append(row)
        texts.append(label)
        features.extend(numbers)
    faults.raise_if_any()
    if not rows:
        raise DataError(f"{path}: no rows below the header; at least a few are needed")
    values = _csv_targets(fields, path, rows, texts)
    task, classes, targets = interpret_targets(values, fields.task)
    return Raw(str(path), task, classes, np.array(features).reshape(len(rows), -1), targets, scale="standardize")


def _own_file(fields: DataFields) -> Path:
    path = Path(fields.path or "")
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder closed
        what = "is a folder, not a file" if os.path.isdir(path) else "no such file"
        raise DataError(f"{path}: {what}; data.path must be a {fields.name} file")
    return path


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row numbers and stripped cells; blank lines are passed over."""
    row = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row, cells in enumerate(csv.reader(stream, strict=True, skipinitialspace=True), 1):
                if cells:
                    yield row, [cell.strip() for cell in cells]
    except UnicodeDecodeError:
        raise DataError(f"{path}:line {_undecodable_line(path)}: not UTF-8 text; save the file as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}:row {row + 1}: not csv ({error}); check its quotes") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None


def _undecodable_line(path: Path) -> int:
    """The first line (from 1) that is not UTF-8; the decoder itself knows only its own buffer."""
    with path.open("rb") as stream:
        for line, text in enumerate(stream, 1):
            try:
                text.decode("utf-8")
            except UnicodeDecodeError:
                return line
    return 1


def _check_header(header: list[str], target: str, faults: _Faults) -> None:
    """Raise DataError if the first row does not name the columns, the target among them and another."""
    if not header:
        faults.add(1, "empty; the first row must name the columns", header)
    for place, name in enumerate(header):
        if not name:
            faults.add(1, "has no name; name it, or remove it if it counts rows", header, place, place + 1)
        elif name in header[:place]:
            faults.add(1, "stands here twice; rename one", header, place, name)
    faults.raise_if_any()
    if target not in header:
        hint = did_you_mean(target, header) or f"; columns: {', '.join(header[:10])}"
        hint += "; cells must be separated by commas" if len(header) == 1 else ""
        faults.add(1, f"no column {target!r} (data.target){hint}", header)
    elif len(header) == 1:
        faults.add(1, "no column but the target; at least one feature is needed", header)
    faults.raise_if_any()


def _number(text: str) -> float | None:
    """The number that a cell shows, finite or not, or none for text."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _finite_numbers(cells: Sequence[str]) -> list[float] | None:
    """The numbers that the cells show; none if one of them is no number that float32 can hold."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return None
    sound = all(abs(number) <= FLOAT32_MAX for number in numbers) and "_" not in "".join(cells)
    return numbers if sound else None


def _is_infinite(text: str) -> bool:
    """Whether a cell shows a number that float32 cannot hold, or nan."""
    number = _number(text)
    return number is not None and not abs(number) <= FLOAT32_MAX


def _find_faults(row: int, header: Sequence[str], target: int, cells: Sequence[str], faults: _Faults) -> None:
    """What is wrong with each cell of a row."""
    for place, (name, text) in enumerate(zip(header, cells, strict=True)):
        if not text:
            fault = "empty"
        elif _is_infinite(text):
            fault = f"{text} is not a finite float32"
        elif place != target and _number(text) is None:
            fault = f"{text!r} is not a number"
        else:
            continue
        faults.add(row, f"{fault}; give it a number, or remove the row or column", cells, place, name)


def _csv_targets(fields: DataFields, path: Path, rows: list[int], texts: list[str]) -> Array:
    """The target column as numbers, booleans (true, false) or text."""
    numbers = [_number(text) for text in texts]
    if None not in numbers:
        return np.array(numbers, np.float64)
    if {text.lower() for text in texts} <= {"true", "false"} and fields.task != "regression":
        return np.array([text.lower() == "true" for text in texts])
    # A slip of the pen in a column of numbers would otherwise turn every number into a class.
    slip = fields.task == "auto" and numbers.count(None) < len(texts) and len(set(texts)) > INTEGER_CLASSES
    if fields.task == "regression" or slip:
        todo = "correct it" if fields.task == "regression" else "correct it, or say data.task: classification"
        _raise_no_numbers(fields, path, {row for row, n in zip(rows, numbers, strict=True) if n is None}, todo)
    return np.array(texts, object)


def _raise_no_numbers(fields: DataFields, path: Path, rows: Collection[int], todo: str) -> None:
    """Raise DataError with the target's cells in these rows; the file is read again for what stands beside them."""
    faults, name = _Faults(path), fields.target or ""
    records = _csv_records(path)
    place = next(records)[1].index(name)
    for row, cells in records:
        if row in rows:
            faults.add(row, f"{cells[place]!r} is not a number; {todo}", cells, place, name)
    faults.raise_if_any()


def interpret_targets(values: Array, task: str) -> tuple[Task, tuple[str, ...], Array]:
    """Return the task, the classes (sorted) and the targets: class indices, or numbers as float64.

    auto: text, booleans or at most 20 distinct integers are classes, anything else is a regression.
    """
    if task == "auto":
        task = "classification" if _look_like_classes(values) else "regression"
    if task == "regression":
        return "regression", (), values.astype(np.float64)
    distinct, indices = np.unique(values, return_inverse=True)
    return "classification", tuple(_class_name(value) for value in distinct.tolist()), indices.astype(np.int64)


def _look_like_classes(values: Array) -> bool:
    if values.dtype.kind in "bO":
        return True
    whole = values.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    return whole and len(np.unique(values)) <= INTEGER_CLASSES


def _class_name(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.17g}" if isinstance(value, float) else str(value)


def read_npz(fields: DataFields) -> Raw:
    """Arrays x_train, y_train, x_test, y_test, or x and y, from which test rows are then taken.

    Features [n, …] are flattened to [n, D]; targets are [n] or [n, 1]. Rows in messages count from 0.
    """
    path = _own_file(fields)
    x, y, *test = _npz_arrays(path)
    parts = [_npz_part(path, x, y), *([_npz_part(path, *test)] if test else [])]
    if len({features.shape[1] for features, _ in parts}) > 1:
        raise DataError(f"{path}:array {test[0][0]!r}: not as many features as {x[0]!r}; save both alike")
    if len({targets.dtype.kind == "O" for _, targets in parts}) > 1:
        raise DataError(f"{path}:array {test[1][0]!r}: text against numbers in {y[0]!r}; save both alike")
    values = np.concatenate([targets for _, targets in parts])
    if fields.task == "regression" and values.dtype.kind in "bO":
        raise DataError(f"{path}:array {y[0]!r}: not numbers, which data.task: regression needs; save it as floats")
    task, classes, targets = interpret_targets(values, fields.task)
    n = len(parts[0][0])
    test_features, test_targets = (parts[1][0], targets[n:]) if test else (None, None)
    return Raw(str(path), task, classes, parts[0][0], targets[:n], test_features, test_targets, scale="standardize")


NamedArray = tuple[str, Array]


def _npz_arrays(path: Path) -> list[NamedArray]:
    split, whole = ["x_train", "y_train", "x_test", "y_test"], ["x", "y"]
    try:
        with path.open("rb") as stream:  # opened here, as numpy leaves a damaged archive open
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: a single array, not an archive; write it with numpy.savez(path, x=…, y=…)")
            found = set(archive.files)
            wanted = split if found >= set(split) else whole
            if not found >= set(wanted):
                raise DataError(f"{path}: {_npz_missing(found, split)}")
            assert archive.zip is not None
            members = {member.filename: member.file_size for member in archive.zip.infolist()}
            check_room(path, sum(members.get(f"{name}.npy", 0) for name in wanted))
            arrays = [(name, archive[name]) for name in wanted]
            if not all(isinstance(array, np.ndarray) for _, array in arrays):
                raise ValueError("a member is no array")
            return arrays
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, zlib, ast and numpy raise almost anything
        raise DataError(
            f"{path}: cannot be read as npz ({error}); write it with numpy.savez, numbers and text only, no objects"
        ) from None


def _npz_missing(found: set[str], split: list[str]) -> str:
    missing = [name for name in split if name not in found]
    hint = did_you_mean(missing[0], found - set(split)) if len(missing) < len(split) else ""
    shown = ", ".join(sorted(found)[:10]) or "nothing"
    return f"needs arrays {', '.join(split)}, or x and y; it has {shown}{hint}"


def _npz_part(path: Path, x: NamedArray, y: NamedArray) -> tuple[Array, Array]:
    features, targets = _npz_features(path, *x), _npz_targets(path, *y)
    if len(features) != len(targets):
        raise DataError(f"{path}:array {y[0]!r}: {len(targets)} targets for {len(features)} rows of {x[0]!r}")
    return features, targets


def _npz_features(path: Path, name: str, values: Array) -> Array:
    if values.dtype.kind not in "biuf":
        raise DataError(f"{path}:array {name!r}: {values.dtype} is not a real number type; save numbers")
    if values.ndim == 0 or values.size == 0:
        raise DataError(f"{path}:array {name!r}: shape {values.shape} has no rows of features; save [rows, features]")
    features = values.reshape(len(values), -1)
    _require_finite(path, name, features)
    return features


def _npz_targets(path: Path, name: str, values: Array) -> Array:
    if values.dtype.kind not in "biufU":
        raise DataError(f"{path}:array {name!r}: {values.dtype} is neither numbers nor text; save one of these")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(f"{path}:array {name!r}: shape {values.shape}; one target per row is needed, not one-hot rows")
    if values.dtype.kind == "U":
        return values.astype(object)
    _require_finite(path, name, values[:, None])
    return values


def _require_finite(path: Path, name: str, rows: Array) -> None:
    if rows.dtype == np.float16:
        rows = rows.astype(np.float32)
    if rows.dtype.kind == "f" and len(bad := np.argwhere(~(np.abs(rows) <= FLOAT32_MAX))):
        row, column = bad[0]
        place = f"{path}:array {name!r}, row {row}, feature {column} (from 0)"
        raise DataError(f"{place}: {rows[row, column]} is not a finite float32; correct it or remove the row")
