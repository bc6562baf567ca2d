"""From the name of a data set to the rows that networks see. NumPy only.

The order of operations, each by data_seed alone:

1. load the rows (``bnexp.sources``) or make them (``bnexp.generated``);
2. test split: csv and npz without test rows of their own; the share ``test``, stratified for classification;
3. subset: the first n training rows of a seeded order (so a smaller subset is part of a larger one);
4. validation: the share ``validation`` of the training rows, stratified for classification;
5. binarize: 1 where a feature is above half its range, else 0, and the range is then 1;
6. feature_scale: range divides by the range; standardize is (x − mean)/SD by the remaining training rows, and a feature
   without spread becomes 0; auto is range for images, standardize for files, none for generated rows;
7. a regression's targets become (t − mean)/SD by the remaining training rows.

Rows that remain keep their order. The rows of xor and bump come in pairs x, −x (row i and row n−1−i): subset and
validation take whole pairs, and what remains is still exactly symmetric. Label noise is not applied here but by
``noisy_labels``, which differs from run to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bnexp.errors import DataError
from bnexp.generated import MAKERS
from bnexp.own_files import read_csv, read_npz
from bnexp.rng import stream
from bnexp.sources import Array, Raw, Task, read_digits, read_images
from bnexp.spec import DataFields

TEST, VALIDATION = 0, 1  # index of the stream "split"
BLOCK = 128  # rows scaled at a time: float64 copies stay in the cache
READERS: dict[str, Callable[[DataFields], Raw]] = {
    "digits": read_digits,
    "mnist": read_images,
    "fashion-mnist": read_images,
    "csv": read_csv,
    "npz": read_npz,
    **MAKERS,
}


@dataclass(frozen=True, eq=False)
class Rows:
    """``features`` float32 [n, D], C-contiguous; ``targets`` int64 class indices [n], or float32 standardized [n]."""

    features: npt.NDArray[np.float32]
    targets: npt.NDArray[np.int64] | npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to train on, to choose by (perhaps none) and to test on; ``sha256`` is over all their arrays."""

    name: str
    task: Task
    classes: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows
    sha256: str

    @property
    def n_inputs(self) -> int:
        """Number of features D."""
        return int(self.train.features.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of classes, or 1 for a regression."""
        return len(self.classes) or 1


def load_dataset(fields: DataFields) -> Dataset:
    """Return the data set that the fields name, split and scaled; raise DataError if there is no such, or a bad one."""
    raw = READERS[fields.name](fields)
    _check(raw, fields)
    if raw.test_features is None:
        raw = _split_test(raw, fields)
    rows = _subset(raw, fields)
    _require_every_class(raw, rows)
    train, validation = _split_validation(raw, rows, fields)
    parts = _scaled(raw, train, validation, fields)
    return Dataset(fields.name, raw.task, raw.classes, *parts, _sha256(parts))


def noisy_labels(dataset: Dataset, probability: float, seed: int) -> npt.NDArray[np.int64]:
    """Training labels [n], each with the given probability replaced by a uniform draw over all classes.

    The draws do not depend on the probability: what is redrawn at a lower one is redrawn, alike, at a higher one.
    """
    if dataset.task != "classification":
        raise DataError(f"data {dataset.name}: a regression has no labels; leave out data.label_noise")
    generator = stream(seed, "labels")
    redrawn = generator.random(len(dataset.train)) < probability
    labels = generator.integers(dataset.n_outputs, size=len(dataset.train))
    return np.where(redrawn, labels, dataset.train.targets).astype(np.int64)


def _check(raw: Raw, fields: DataFields) -> None:
    if raw.task == "classification" and len(raw.classes) < 2:
        raise DataError(f"{raw.where}: only one class, {raw.classes[0]!r}; at least two are needed")
    if raw.task == "regression" and fields.label_noise:
        raise DataError(f"{raw.where}: a regression has no labels; leave out data.label_noise")


# Splits


def _strata(raw: Raw, rows: Array) -> Array:
    """What to stratify the rows by: the class, or nothing."""
    return raw.targets[rows] if raw.task == "classification" else np.zeros(len(rows), np.int64)


def _split_test(raw: Raw, fields: DataFields) -> Raw:
    everything = np.arange(len(raw.features))
    count = max(1, round(fields.test * len(everything)))
    generator = stream(fields.data_seed, "split", TEST)
    held = _hold_out(_strata(raw, everything), count, generator)
    if held is None:
        raise _too_few(raw, len(everything), count, "data.test")
    kept = np.setdiff1d(everything, held)
    return replace(
        raw,
        features=raw.features[kept],
        targets=raw.targets[kept],
        test_features=raw.features[held],
        test_targets=raw.targets[held],
    )


def _subset(raw: Raw, fields: DataFields) -> Array:
    """Indices of the training rows that are kept."""
    n, wanted = len(raw.features), fields.subset
    if wanted is None:
        return np.arange(n)
    if wanted > n:
        raise DataError(f"{raw.where}: {n} training rows, but data.subset asks for {wanted}; ask for at most {n}")
    generator = stream(fields.data_seed, "subset")
    if not raw.mirrored:
        return np.sort(generator.permutation(n)[:wanted])
    if wanted % 2:
        raise DataError(f"{raw.where}: rows come in pairs x, −x, but data.subset is {wanted}; make it an even number")
    return _with_mirror(generator.permutation(n // 2)[: wanted // 2], n)


def _split_validation(raw: Raw, rows: Array, fields: DataFields) -> tuple[Array, Array]:
    """Divide the indices into those trained on and those held out for choosing."""
    if fields.validation == 0:
        return rows, rows[:0]
    units = len(rows) // 2 if raw.mirrored else len(rows)
    count = max(1, round(fields.validation * units))
    held = _hold_out(_strata(raw, rows)[:units], count, stream(fields.data_seed, "split", VALIDATION))
    if held is None:
        raise _too_few(raw, len(rows), len(rows) // units * count, "data.validation")
    if raw.mirrored:
        held = _with_mirror(held, len(rows))
    return np.delete(rows, held), rows[held]


def _with_mirror(rows: Array, n: int) -> Array:
    return np.sort(np.concatenate([rows, n - 1 - rows]))


def _hold_out(strata: Array, count: int, generator: np.random.Generator) -> Array | None:
    """Sorted indices of ``count`` random rows, as many per stratum as its size demands; none if that cannot be.

    Fractions go to the largest remainders, the first stratum first; each stratum keeps at least one row.
    """
    n, sizes = len(strata), np.bincount(strata)
    if count > n - np.count_nonzero(sizes):
        return None
    taken = count * sizes // n  # below the size, as count < n
    while taken.sum() < count:
        remainder = np.where(taken < sizes - 1, count * sizes - taken * n, np.iinfo(np.int64).min)
        taken[np.argmax(remainder)] += 1
    order = generator.permutation(n)
    order = order[np.argsort(strata[order], kind="stable")]
    rank = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < np.repeat(taken, sizes)])


def _too_few(raw: Raw, n: int, count: int, field: str) -> DataError:
    of = f" of {len(raw.classes)} classes" if raw.classes else ""
    return DataError(
        f"{raw.where}: {n} rows{of} are too few to hold out {count} ({field}) and keep some of each; "
        f"give more rows{', fewer classes' if raw.classes else ''} or lower {field}"
    )


def _require_every_class(raw: Raw, rows: Array) -> None:
    if raw.task == "regression":
        return
    missing = np.flatnonzero(np.bincount(raw.targets[rows], minlength=len(raw.classes)) == 0)
    if len(missing):
        raise DataError(
            f"{raw.where}: no training row of class {raw.classes[missing[0]]!r}; "
            "give more rows, a larger data.subset, or another data.data_seed"
        )


# Scales


def _scaled(raw: Raw, train: Array, validation: Array, fields: DataFields) -> tuple[Rows, Rows, Rows]:
    assert raw.test_features is not None
    assert raw.test_targets is not None
    features = [raw.features[train], raw.features[validation], raw.test_features]
    targets = [raw.targets[train], raw.targets[validation], raw.test_targets]
    top = raw.top or 1
    if fields.binarize:
        features, top = [rows > top / 2 for rows in features], 1
    scale = raw.scale if fields.feature_scale == "auto" else fields.feature_scale
    if scale == "standardize":
        features = _standardized(raw, features)
    elif scale == "range":
        features = [_affine(rows, np.zeros(1), np.full(1, top)) for rows in features]
    if raw.task == "regression":
        if len(train) < 2 or np.ptp(targets[0]) == 0:
            raise DataError(f"{raw.where}: the target is the same in all {len(train)} training rows; nothing to learn")
        targets = [column[:, 0] for column in _standardized(raw, [column[:, None] for column in targets])]
    train_rows, validation_rows, test_rows = map(_rows, features, targets)
    return train_rows, validation_rows, test_rows


def _rows(features: Array, targets: Array) -> Rows:
    x = np.ascontiguousarray(features, np.float32)
    if targets.dtype.kind == "f":
        return Rows(x, np.ascontiguousarray(targets, np.float32))
    return Rows(x, np.ascontiguousarray(targets, np.int64))


def _standardized(raw: Raw, parts: list[Array]) -> list[Array]:
    """Each part [n, D] less the mean and divided by the biased SD of the first part's columns; float32."""
    statistics = [_mean_and_sd(column) for column in parts[0].T]
    mean, sd = np.array(statistics).T
    with np.errstate(over="ignore"):  # looked for below
        parts = [_affine(rows, mean, sd) for rows in parts]
    if not all(np.isfinite(rows).all() for rows in parts):
        raise DataError(f"{raw.where}: a value is too many SDs from the training mean for float32; correct the outlier")
    return parts


def _mean_and_sd(column: Array) -> tuple[float, float]:
    """Mean and biased SD in float64; a column without spread has SD inf, so that dividing by it gives 0."""
    values = column.astype(np.float64)
    # Ends folded together: the same mean, and exactly 0 where the rows are mirrored.
    mean = float((values + values[::-1]).mean() / 2)
    sd = float(np.sqrt(np.mean((values - mean) ** 2)))
    return mean, sd if sd > 0 and np.ptp(values) > 0 else np.inf


def _affine(rows: Array, shift: Array, divisor: Array) -> Array:
    """(rows − shift)/divisor, computed in float64, as float32 [n, D]."""
    scaled = np.empty(rows.shape, np.float32)
    pixels = rows.dtype == np.uint8 and len(shift) == len(divisor) == 1  # 256 quotients are all there are
    quotients = ((np.arange(256) - shift) / divisor).astype(np.float32) if pixels else None
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        if quotients is None:
            scaled[block] = (rows[block] - shift) / divisor
        else:
            quotients.take(rows[block], out=scaled[block], mode="clip")  # "raise" would make a copy
    return scaled


def _sha256(parts: Iterable[Rows]) -> str:
    """Checksum over type, shape and bytes of every array, features before targets, in the order of the parts."""
    digest = hashlib.sha256()
    for rows in parts:
        for values in (rows.features, rows.targets):
            digest.update(f"{values.dtype.str}{values.shape}".encode())
            digest.update(values.data)
    return digest.hexdigest()
