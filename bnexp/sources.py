"""Data sets of others: the digits in the package, IDX images from a folder or the network.

Every reader returns a Raw: rows as stored, unscaled, with the test rows apart where the source keeps them apart.
Nothing is unpickled, and no more memory is taken than a file really fills.
"""

from __future__ import annotations

import gzip
import math
import os.path
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bnexp.errors import DataError
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
    check_room(path, math.prod(shape))
    return shape


def check_room(path: Path, size: int) -> None:
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
