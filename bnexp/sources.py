"""Rows from somewhere else: the digits in the package, IDX images from a folder or the network, csv and npz files.

Every reader returns a Raw: rows as stored, unscaled, with the test rows apart where the source keeps them apart.
Nothing is unpickled, and no more memory is taken than a file really fills.
"""

from __future__ import annotations

import csv
import gzip
import math
import os.path
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bnexp.errors import DataError, did_you_mean
from bnexp.spec import DataFields

Array = npt.NDArray[Any]
Task = Literal["classification", "regression"]

FLOAT32_MAX = float(np.finfo(np.float32).max)
INTEGER_CLASSES = 20  # DataFields.task: more distinct integers than these are a regression
DIGITS_TEST_ROWS = 360  # a fifth of 1797
DEFLATE_RATIO = 1032  # the most that deflate can compress; see zlib's technical details
CHUNK = 1 << 20  # bytes read at a time
MAX_BYTES = 2**30  # unpacked; all rows lie in memory, so what is larger is refused before it is read


@dataclass(frozen=True, eq=False)
class Raw:
    """Rows before splits and scaling.

    ``features`` [n, D] of any real type and ``targets`` [n] (class indices or numbers) are the training rows, or all
    rows where ``test_features`` and ``test_targets`` are none. ``top`` is the largest value that a feature can have, if
    known. ``scale`` is what feature_scale auto means. ``mirrored``: row n−1−i of the features is minus row i.
    ``where`` begins messages.
    """

    where: str
    task: Task
    classes: tuple[str, ...]
    features: Array
    targets: Array
    test_features: Array | None = None
    test_targets: Array | None = None
    top: float | None = None
    scale: Literal["range", "standardize", "none"] = "none"
    mirrored: bool = False


def read_digits(fields: DataFields) -> Raw:
    """UCI optical digits, 8×8 with values 0..16, and its fixed test rows (see ``digits_test_rows``)."""
    with (
        resources.files("bnexp.datasets").joinpath("digits.npz").open("rb") as stream,
        np.load(stream, allow_pickle=False) as archive,
    ):
        features, labels = archive["features"], archive["labels"].astype(np.int64)
    held = digits_test_rows(labels)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    parts = (features[kept], labels[kept], features[held], labels[held])
    return Raw("data digits", "classification", DIGITS, *parts, top=16, scale="range")


def digits_test_rows(labels: Array) -> Array:
    """The 360 test rows: of the rows sorted by class (stably), the k-th with ⌊360(k+1)/n⌋ > ⌊360k/n⌋, k from 0.

    Systematic sampling needs no random numbers, so no library can change it; it is stratified to within one row, and as
    the rows of a class stand writer by writer, it takes from every writer.
    """
    n = len(labels)
    steps = DIGITS_TEST_ROWS * np.arange(n + 1) // n
    return np.sort(np.argsort(labels, kind="stable")[np.diff(steps) > 0])


# Images in IDX files


class ImageSet(NamedTuple):
    """Where the four gz files of an image set are, their checksums in the order of IDX_FILES, and its classes."""

    url: str
    checksums: tuple[str, str, str, str]
    classes: tuple[str, ...]


DATA_ROOT = "BNEXP_DATA"  # environment variable: where image sets lie, for machines without a network
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

DIGITS = tuple(str(digit) for digit in range(10))
GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

IMAGE_SETS = {
    "mnist": ImageSet(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        (
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        DIGITS,
    ),
    "fashion-mnist": ImageSet(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        (
            "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "md5:25c81989df183df01b3e8a0aad5dffbe",
            "md5:bef4ecab320f06d8554ea6380940ec79",
            "md5:bb300cfdad3c16e7a12a480ee83cd310",
        ),
        GARMENTS,
    ),
}


def read_images(fields: DataFields) -> Raw:
    """MNIST or Fashion-MNIST: 28×28 images, values 0..255.

    From ``path``; without one from $BNEXP_DATA/<name>/, if that is set; else from the download cache.
    """
    if fields.path is not None:
        paths = _in_folder(Path(fields.path))
    elif root := os.environ.get(DATA_ROOT):
        paths = _in_folder(Path(root) / fields.name)
    else:
        paths = _downloaded(fields.name)
    train = _images_and_labels(*paths[:2])
    test = _images_and_labels(*paths[2:])
    if train[0].shape[1] != test[0].shape[1]:
        raise DataError(
            f"{paths[2]}: images of {test[0].shape[1]} pixels, but {paths[0].name} has {train[0].shape[1]}; "
            "take all four files from one source"
        )
    classes = IMAGE_SETS[fields.name].classes
    where = str(paths[0].parent)
    return Raw(where, "classification", classes, *train, *test, top=255, scale="range")


def _in_folder(folder: Path) -> list[Path]:
    if not os.path.isdir(folder):
        what = "is not a folder" if os.path.exists(folder) else "no such folder"
        raise DataError(f"{folder}: {what}; data.path must be the folder of the four IDX files, {', '.join(IDX_FILES)}")
    return [_plain_or_gz(folder, name) for name in IDX_FILES]


def _plain_or_gz(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if os.path.isfile(path):
            return path
    raise DataError(f"{folder}: no file {name} or {name}.gz; put the four original IDX files there")


def _downloaded(name: str) -> list[Path]:
    """The four files in the user's cache; what is missing there or fails its checksum is downloaded."""
    import pooch  # only a download needs it

    images = IMAGE_SETS[name]
    paths = []
    for file, checksum in zip(IDX_FILES, images.checksums, strict=True):
        url = f"{images.url}{file}.gz"
        try:
            path = pooch.retrieve(url, known_hash=checksum, fname=f"{file}.gz", path=pooch.os_cache("bnexp") / name)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(
                f"data {name}: cannot download {url} ({reason}); "
                f"go online, or fetch the four files elsewhere and say where they are: data.path: FOLDER "
                f"(or {DATA_ROOT}=FOLDER for FOLDER/{name})"
            ) from None
        paths.append(Path(path))
    return paths


def _images_and_labels(image_path: Path, label_path: Path) -> tuple[Array, Array]:
    """Images flattened to [n, pixels] and labels [n]."""
    images, labels = read_idx(image_path, 3), read_idx(label_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: {len(labels)} labels, but {image_path.name} has {len(images)} images; "
            "take both files from one source"
        )
    if len(wrong := np.flatnonzero(labels > 9)):
        raise DataError(f"{label_path}:row {wrong[0]} (from 0): label {labels[wrong[0]]}; labels are 0 to 9")
    return images.reshape(len(images), -1), labels.astype(np.int64)


def read_idx(path: Path, dimensions: int) -> Array:
    """An IDX file of unsigned bytes, plain or gz.

    Header: bytes 0, 0, 8 (unsigned byte), the number of dimensions, then each size as 4 big-endian bytes; then the
    values in C order (LeCun, MNIST).
    """
    try:
        with _open_idx(path) as stream:
            shape = _idx_shape(path, stream.read(4 + 4 * dimensions), dimensions)
            values = _read_at_most(stream, math.prod(shape) + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path}: cannot be read, truncated or damaged ({error}); fetch the file again") from None
    if len(values) != math.prod(shape):
        found = "more" if len(values) > math.prod(shape) else len(values)
        raise _lying_header(path, shape, f"it holds {found}")
    return np.frombuffer(values, np.uint8).reshape(shape)


Stream = gzip.GzipFile | BufferedReader


def _open_idx(path: Path) -> Stream:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _idx_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes([0, 0, 8, dimensions])
    if header[:4] != magic:
        raise DataError(f"{path}: begins with {header[:4].hex()}, not {magic.hex()}; not an IDX file of this kind")
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path}: ends inside its header; fetch the file again")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if 0 in shape:
        raise DataError(f"{path}: empty, its header says {_times(shape)}; fetch the file again")
    most = path.stat().st_size * (DEFLATE_RATIO if path.suffix == ".gz" else 1)
    if math.prod(shape) > most:
        raise _lying_header(path, shape, f"{path.stat().st_size} bytes cannot hold them")
    _check_room(path, math.prod(shape))
    return shape


def _check_room(path: Path, size: int) -> None:
    """Raise DataError for more bytes than are read."""
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes when unpacked, and at most {MAX_BYTES} are read; give a part of it")


def _lying_header(path: Path, shape: Sequence[int], truth: str) -> DataError:
    return DataError(f"{path}: its header promises {_times(shape)} values, but {truth}; fetch the file again")


def _times(shape: Sequence[int]) -> str:
    return "×".join(str(size) for size in shape)


def _read_at_most(stream: Stream, n: int) -> bytearray:
    """Up to n bytes, in chunks: ``read(n)`` would take n bytes of memory before it knows whether they exist."""
    values = bytearray()
    while len(values) < n and (chunk := stream.read(min(CHUNK, n - len(values)))):
        values += chunk
    return values


# Files of the user's own


def read_csv(fields: DataFields) -> Raw:
    """A csv file: a header, one column to predict, all others numeric features.

    Rows are counted as a spreadsheet does: the header is row 1.
    """
    path = _own_file(fields)
    _check_room(path, path.stat().st_size)
    records = _csv_records(path)
    header = _csv_header(path, next(records, (1, []))[1], fields.target)
    column = header.index(fields.target or "")
    names = header[:column] + header[column + 1 :]
    features, texts, rows = array("d"), list[str](), list[int]()
    for row, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"{path}:row {row}: {len(cells)} cells, but the header has {len(header)}; quote cells that hold commas"
            )
        texts.append(cells.pop(column))
        rows.append(row)
        features.extend(_csv_number(path, row, name, cell) for name, cell in zip(names, cells, strict=True))
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


def _csv_header(path: Path, header: list[str], target: str | None) -> list[str]:
    if not header:
        raise DataError(f"{path}:row 1: empty; the first row must name the columns")
    for number, name in enumerate(header, 1):
        if not name:
            raise DataError(f"{path}:row 1, column {number}: has no name; name it, or remove it if it counts rows")
        if name in header[: number - 1]:
            raise DataError(f"{path}:row 1, column {name!r}: stands here twice; rename one")
    if target not in header:
        hint = did_you_mean(target or "", header) or f"; columns: {', '.join(header[:10])}"
        hint += "; cells must be separated by commas" if len(header) == 1 else ""
        raise DataError(f"{path}:row 1: no column {target!r} (data.target){hint}")
    if len(header) == 1:
        raise DataError(f"{path}:row 1: no column but the target; at least one feature is needed")
    return header


def _number(text: str) -> float | None:
    """The number that a cell shows, finite or not, or none for text."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _csv_number(path: Path, row: int, name: str, text: str) -> float:
    value = _number(text)
    if value is not None and abs(value) <= FLOAT32_MAX:
        return value
    fault = "empty" if not text else f"{text!r} is not a number" if value is None else f"{text} is not a finite float32"
    raise DataError(f"{path}:row {row}, column {name!r}: {fault}; give it a number, or remove the row or column")


def _csv_targets(fields: DataFields, path: Path, rows: list[int], texts: list[str]) -> Array:
    """The target column as numbers, booleans (true, false) or text."""
    name, numbers = fields.target or "", [_number(text) for text in texts]
    for row, text, number in zip(rows, texts, numbers, strict=True):
        if not text or (number is not None and not abs(number) <= FLOAT32_MAX):
            _csv_number(path, row, name, text)
    if None not in numbers:
        return np.array(numbers, np.float64)
    if {text.lower() for text in texts} <= {"true", "false"} and fields.task != "regression":
        return np.array([text.lower() == "true" for text in texts])
    first = numbers.index(None)
    # A slip of the pen in a column of numbers would otherwise turn every number into a class.
    slip = fields.task == "auto" and numbers.count(None) < len(texts) and len(set(texts)) > INTEGER_CLASSES
    if fields.task == "regression" or slip:
        todo = "correct it" if fields.task == "regression" else "correct it, or say data.task: classification"
        raise DataError(f"{path}:row {rows[first]}, column {name!r}: {texts[first]!r} is not a number; {todo}")
    return np.array(texts, object)


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
            _check_room(path, sum(members.get(f"{name}.npy", 0) for name in wanted))
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


READERS: dict[str, Callable[[DataFields], Raw]] = {
    "digits": read_digits,
    "mnist": read_images,
    "fashion-mnist": read_images,
    "csv": read_csv,
    "npz": read_npz,
}
