"""Data: known facts of every set, splits, scales, readers, and what is said about bad files."""

from __future__ import annotations

import gc
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnexp import sources
from bnexp.data import Dataset, Rows, _hold_out, _mean_and_sd, load_dataset, noisy_labels
from bnexp.errors import DataError
from bnexp.norms import NORMS
from bnexp.rng import stream
from bnexp.sources import IDX_FILES, Raw, digits_test_rows, read_digits
from bnexp.spec import DataFields

MNIST = Path(__file__).parents[2] / "shared/data/mnist"
GENERATED = ("spirals", "blobs", "xor", "bump", "teacher")
BUILT_IN = ("digits", *GENERATED)


def load(name: Any, **fields: Any) -> Dataset:
    return load_dataset(DataFields(name=name, **fields))


def parts(dataset: Dataset) -> tuple[Rows, Rows, Rows]:
    return dataset.train, dataset.validation, dataset.test


def keys(rows: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in rows}


def same(a: Dataset, b: Dataset) -> bool:
    return a.sha256 == b.sha256


def error(name: Any, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, **fields)
    message = str(caught.value)
    first, *shown = message.split("\n")
    assert not shown or (": error: " in first and len(shown) == 2 and shown[1].strip() == "^")
    return message


# What holds for every set


@pytest.mark.parametrize("name", BUILT_IN)
def test_types_and_shapes(name: str) -> None:
    dataset = load(name)
    assert dataset.name == name
    regression = name in ("bump", "teacher")
    assert dataset.task == ("regression" if regression else "classification")
    for rows in parts(dataset):
        assert rows.features.dtype == np.float32
        assert rows.features.flags.c_contiguous
        assert rows.features.flags.writeable  # torch.from_numpy warns otherwise
        assert rows.features.shape == (len(rows), dataset.n_inputs)
        assert rows.targets.dtype == (np.float32 if regression else np.int64)
        assert rows.targets.shape == (len(rows),)
        assert np.isfinite(rows.features).all()
    assert dataset.n_outputs == (1 if regression else len(dataset.classes))
    assert bool(dataset.classes) is not regression


@pytest.mark.parametrize("name", BUILT_IN)
def test_same_fields_same_rows(name: str) -> None:
    assert same(load(name), load(name))
    assert not same(load(name), load(name, data_seed=1))  # bump: another validation split


def test_sha256_is_over_types_shapes_and_bytes_of_all_parts() -> None:
    dataset = load("blobs", samples=30)
    digest = hashlib.sha256()
    for rows in parts(dataset):
        for values in (rows.features, rows.targets):
            digest.update((values.dtype.str + str(values.shape)).encode() + values.tobytes())
    assert dataset.sha256 == digest.hexdigest()
    assert same(dataset, load("blobs", samples=30, label_noise=0.5))


@pytest.mark.parametrize("name", BUILT_IN)
def test_no_validation_and_a_tenth(name: str) -> None:
    without, with_ = load(name, validation=0.0), load(name, validation=0.1)
    assert len(without.validation) == 0
    assert without.validation.features.shape == (0, without.n_inputs)
    n = len(without.train)
    assert abs(len(with_.validation) - 0.1 * n) <= 1
    assert keys(with_.train.features) | keys(with_.validation.features) == keys(without.train.features)
    assert len(with_.train) + len(with_.validation) == n
    assert np.array_equal(with_.test.features, without.test.features)


def test_validation_is_stratified_within_one_row_and_keeps_order() -> None:
    whole, split = load("digits", validation=0.0), load("digits", validation=0.25)
    counts = np.bincount(whole.train.targets)
    held = np.bincount(split.validation.targets)
    assert np.all(np.abs(held - len(split.validation) * counts / counts.sum()) < 1)
    assert np.array_equal(np.bincount(split.train.targets) + held, counts)
    position = {row.tobytes(): i for i, row in enumerate(whole.train.features)}
    places = [position[row.tobytes()] for row in split.train.features]
    assert places == sorted(places)


def test_validation_leaves_a_row_of_every_class() -> None:
    dataset = load("spirals", samples=6, validation=0.5)
    assert np.bincount(dataset.train.targets).tolist() == [1, 1, 1]
    assert "data spirals: 6 rows of 3 classes are too few to hold out 4 (data.validation)" in error(
        "spirals", samples=6, validation=0.7
    )


@pytest.mark.parametrize(
    ("sizes", "count"), [([1, 9], 8), ([50, 30, 20], 10), ([7, 7, 7], 5), ([2, 0, 3], 3), ([9], 4)]
)
def test_hold_out(sizes: list[int], count: int) -> None:
    strata = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    held = _hold_out(strata, count, stream(0, "split"))
    assert held is not None
    assert len(set(held.tolist())) == count
    assert held.tolist() == sorted(held)
    taken = np.bincount(strata[held], minlength=len(sizes))
    assert all(size == 0 or k < size for k, size in zip(taken, sizes, strict=True))
    assert np.all(np.abs(taken - count * np.array(sizes) / sum(sizes)) <= 1)
    assert _hold_out(strata, sum(sizes), stream(0, "split")) is None


def test_mean_of_mirrored_values_is_exactly_zero() -> None:
    generator = np.random.default_rng(0)
    half = generator.standard_normal(333) * np.logspace(-8, 8, 333)  # a plain sum would not be 0
    for column in (np.concatenate([half, -half[::-1]]), np.concatenate([half, [0], -half[::-1]])):
        mean, sd = _mean_and_sd(column)
        assert mean == 0
        assert sd == pytest.approx(column.astype(np.float64).std(), rel=1e-14)
    assert _mean_and_sd(np.full(7, 0.1)) == (pytest.approx(0.1), np.inf)


def test_subset_is_nested_and_in_stored_order() -> None:
    whole, large, small = (load("digits", validation=0.0, subset=n) for n in (None, 400, 200))
    assert (len(large.train), len(small.train)) == (400, 200)
    assert keys(small.train.features) < keys(large.train.features) < keys(whole.train.features)
    everything = [row.tobytes() for row in whole.train.features]
    places = [everything.index(row.tobytes()) for row in small.train.features]
    assert places == sorted(places)
    assert not same(small, load("digits", validation=0.0, subset=200, data_seed=1))
    assert np.array_equal(small.test.features, whole.test.features)


def test_subset_then_validation() -> None:
    dataset = load("digits", subset=200, validation=0.1)
    assert (len(dataset.train), len(dataset.validation)) == (180, 20)


def test_subset_errors() -> None:
    assert "data digits: 1437 training rows, but data.subset asks for 1438" in error("digits", subset=1438)
    assert "no training row of class" in error("digits", subset=8)
    assert "pairs x, −x, but data.subset is 7" in error("xor", subset=7)


# Digits


def test_digits_counts_and_values() -> None:
    dataset = load("digits", validation=0.0, feature_scale="none")
    labels = np.concatenate([dataset.train.targets, dataset.test.targets])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (len(dataset.train), len(dataset.test), dataset.n_inputs) == (1437, 360, 64)
    assert dataset.classes == tuple("0123456789")
    assert {0.0, 16.0} <= set(np.unique(dataset.train.features)) <= set(range(17))
    # Counted on the source file.
    total = dataset.train.features.sum(dtype=np.float64) + dataset.test.features.sum(dtype=np.float64)
    assert total == 561718


def test_digits_test_rows_are_fixed_and_stratified() -> None:
    tests = [load("digits", data_seed=seed, subset=subset) for seed, subset in ((0, None), (7, None), (7, 900))]
    assert len({dataset.test.features.tobytes() for dataset in tests}) == 1
    assert len({dataset.test.targets.tobytes() for dataset in tests}) == 1
    assert not np.array_equal(tests[0].train.features, tests[1].train.features)
    raw = read_digits(DataFields(name="digits"))
    assert raw.test_targets is not None
    held = np.bincount(raw.test_targets)
    assert np.all(np.abs(held - 360 * (held + np.bincount(raw.targets)) / 1797) < 1)


def test_digits_test_rows_by_the_definition() -> None:
    labels = np.random.default_rng(0).integers(10, size=1797)
    by_class = sorted(range(1797), key=lambda row: (labels[row], row))
    expected = sorted(row for k, row in enumerate(by_class) if 360 * (k + 1) // 1797 > 360 * k // 1797)
    assert digits_test_rows(labels).tolist() == expected
    assert len(expected) == 360


def test_digits_is_small_and_licensed() -> None:
    folder = Path(sources.__file__).parent / "datasets"
    assert (folder / "digits.npz").stat().st_size <= 50 * 1024
    licence = (folder / "LICENSE-digits.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in licence
    assert "10.24432/C50P49" in licence
    with np.load(folder / "digits.npz", allow_pickle=False) as archive:
        assert {name: (archive[name].dtype, archive[name].shape) for name in archive.files} == {
            "features": (np.uint8, (1797, 64)),
            "labels": (np.uint8, (1797,)),
        }


def test_range_binarize_and_standardize_digits() -> None:
    plain, scaled, binary = (load("digits", **fields) for fields in ({"feature_scale": "none"}, {}, {"binarize": True}))
    assert np.array_equal(scaled.train.features, plain.train.features / np.float32(16))
    assert np.array_equal(binary.train.features, (plain.train.features > 8).astype(np.float32))
    assert np.array_equal(binary.test.features, (plain.test.features > 8).astype(np.float32))
    assert same(binary, load("digits", binarize=True, feature_scale="none"))
    standard = load("digits", feature_scale="standardize").train.features.astype(np.float64)
    flat = np.ptp(plain.train.features, axis=0) == 0
    assert flat.any()  # corner pixels that nobody writes on
    assert np.all(standard[:, flat] == 0)
    assert np.allclose(standard.mean(0), 0, atol=1e-6)
    assert np.allclose(standard.std(0)[~flat], 1, atol=1e-5)


def test_standardize_is_by_the_remaining_training_rows() -> None:
    plain, standard = (load("blobs", feature_scale=scale, validation=0.3) for scale in ("none", "standardize"))
    x = plain.train.features.astype(np.float64)
    for before, after in zip(parts(plain), parts(standard), strict=True):
        assert np.allclose(after.features, (before.features - x.mean(0)) / x.std(0), atol=1e-6)


# Generated sets


@pytest.mark.parametrize("name", ["spirals", "blobs", "xor", "teacher"])
def test_generated_sizes_and_fresh_test_rows(name: str) -> None:
    dataset = load(name, validation=0.0)
    assert (len(dataset.train), len(dataset.test)) == (1000, 1000)
    assert not keys(dataset.train.features) & keys(dataset.test.features)
    small = load(name, validation=0.0, samples=200)
    assert (len(small.train), len(small.test)) == (200, 200)


@pytest.mark.parametrize("fields", [{}, {"subset": 500}, {"validation": 0.3}, {"feature_scale": "standardize"}])
def test_xor_is_exactly_antithetic(fields: dict[str, Any]) -> None:
    dataset = load("xor", **fields)
    for rows in parts(dataset):
        assert np.array_equal(rows.features, -rows.features[::-1])
        assert np.array_equal(rows.targets, rows.targets[::-1])
        like = rows.features[:, 0] * rows.features[:, 1] > 0
        assert np.array_equal(rows.targets, like)
    assert dataset.n_inputs == 2


def test_xor_rows_are_standard_normal_and_validation_is_stratified() -> None:
    dataset = load("xor", samples=4000)
    x = np.concatenate([dataset.train.features, dataset.validation.features]).astype(np.float64)
    assert np.all(np.abs(x.std(0) - 1) < 0.05)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.07
    shares = [rows.targets.mean() for rows in parts(dataset)]
    assert abs(shares[0] - shares[1]) < 0.01
    assert abs(shares[2] - 0.5) < 0.04


@pytest.mark.parametrize("fields", [{}, {"subset": 32}, {"validation": 0.0}, {"feature_scale": "standardize"}])
def test_bump_is_exactly_symmetric(fields: dict[str, Any]) -> None:
    for rows in parts(load("bump", **fields)):
        assert np.array_equal(rows.features, -rows.features[::-1])
        assert np.all(np.diff(rows.features[:, 0]) > 0)


def test_bump_grid_midpoints_and_targets() -> None:
    dataset = load("bump", validation=0.0)
    x, between = dataset.train.features[:, 0], dataset.test.features[:, 0]
    assert np.allclose(x, np.linspace(-1, 1, 64), atol=1e-7)
    assert (x[0], x[-1]) == (-1, 1)
    assert np.allclose(between, (x[:-1] + x[1:]) / 2, atol=1e-7)
    curve, test_curve = (np.exp(-(((v.astype(np.float64) - 0.45) / 0.18) ** 2)) for v in (x, between))
    assert np.allclose(dataset.train.targets, (curve - curve.mean()) / curve.std(), atol=1e-6)
    assert np.allclose(dataset.test.targets, (test_curve - curve.mean()) / curve.std(), atol=1e-6)


def test_blobs_and_spirals_are_where_they_should_be() -> None:
    blobs = load("blobs", samples=3000, validation=0.0)
    for k, centre in enumerate([(2, 0), (-1, 3**0.5), (-1, -(3**0.5))]):
        x = blobs.train.features[blobs.train.targets == k]
        assert np.allclose(x.mean(0), centre, atol=0.12)
        assert np.allclose(x.std(0), 1, atol=0.1)
    spirals = load("spirals", samples=3000, validation=0.0)
    x, k = spirals.train.features.astype(np.float64), spirals.train.targets
    radius, angle = np.hypot(*x.T), np.arctan2(x[:, 1], x[:, 0])
    expected = 2 * np.pi * (k / 3 + 0.75 * radius)
    off = np.angle(np.exp(1j * (angle - expected)))
    assert np.abs(off[radius > 0.5]).max() < 1.5  # about five SDs of .05 along and across the arm
    assert np.abs(np.median(off[radius > 0.5])) < 0.06  # noise makes radii a little larger
    for dataset in (blobs, spirals):
        assert np.bincount(dataset.train.targets).tolist() == [1000] * 3
        # In random order: evenly spaced rows are not all of one class.
        assert min(np.bincount(dataset.train.targets[::3], minlength=3)) > 250


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "linear"])
def test_teachers(norm: Any, activation: Any) -> None:
    teacher = partial(load, "teacher", samples=200, inputs=5, teacher_activation=activation, validation=0.0)
    dataset = teacher(teacher_norm=norm)
    assert dataset.n_inputs == 5
    assert abs(dataset.train.targets.mean()) < 1e-6
    assert abs(dataset.train.targets.std() - 1) < 1e-5
    assert np.isfinite(dataset.test.targets).all()
    # Paired: another norm, the same rows.
    assert np.array_equal(dataset.train.features, teacher(teacher_norm="none").train.features)
    assert not same(dataset, teacher(teacher_norm=norm, data_seed=1))


def test_teacher_by_hand() -> None:
    """A linear teacher without norm answers linearly; one with norm full does so too, but elsewhere."""
    answers = {}
    for norm in ("none", "full", "standardize"):
        dataset = load("teacher", samples=50, inputs=3, teacher_norm=norm, teacher_activation="linear")
        x = np.column_stack([dataset.train.features, np.ones(len(dataset.train))])
        answer, *_ = np.linalg.lstsq(x, dataset.train.targets, rcond=None)
        test = np.column_stack([dataset.test.features, np.ones(len(dataset.test))])
        assert np.allclose(x @ answer, dataset.train.targets, atol=1e-5)
        assert np.allclose(test @ answer, dataset.test.targets, atol=1e-5)  # the same fixed function
        answers[norm] = answer
    assert not np.allclose(answers["full"], answers["standardize"], atol=0.01)


def test_teacher_against_a_loop_over_units() -> None:
    fields = DataFields(name="teacher", samples=30, inputs=2, teacher_hidden=(3, 2), teacher_activation="relu")
    for norm, (center, scale, learns_gamma, learns_beta) in NORMS.items():
        dataset = load_dataset(fields.model_copy(update={"teacher_norm": norm, "validation": 0.0}))
        columns = np.concatenate([dataset.train.features, dataset.test.features]).astype(np.float64).T
        for layer, width in enumerate((3, 2), 1):
            generator = stream(0, "data", 1 + layer)
            weights = generator.standard_normal((width, len(columns))) / len(columns) ** 0.5
            bias, gamma = generator.standard_normal(width), generator.uniform(0.5, 2, width)
            beta = generator.standard_normal(width)
            units = []
            for u in range(width):
                a = sum(weights[u, i] * columns[i] for i in range(len(columns))) + (0 if center else bias[u])
                mean, sd = a[:30].mean(), np.sqrt(a[:30].var() + 1e-5)
                a = (a - center * mean) * (1 / sd if scale else 1)
                units.append(np.maximum(a * (gamma[u] if learns_gamma else 1) + (beta[u] if learns_beta else 0), 0))
            columns = np.array(units)
        answer = stream(0, "data", 4).standard_normal(2) @ columns
        standard = (answer - answer[:30].mean()) / answer[:30].std()
        assert np.allclose(np.concatenate([dataset.train.targets, dataset.test.targets]), standard, atol=1e-5)


def test_a_teacher_without_beta_is_odd_about_the_mean() -> None:
    """Why β matters: a tanh teacher that only standardizes is odd about the mean; a full one is not."""
    from bnexp.generated import _teach

    half = np.random.default_rng(0).standard_normal((100, 4))
    rows = np.concatenate([half, -half[::-1]])
    for norm, odd in (("standardize", True), ("gamma", True), ("full", False), ("beta", False)):
        fields = DataFields(name="teacher", teacher_norm=norm, teacher_activation="tanh", inputs=4)  # type: ignore[arg-type]
        answer = _teach(fields, rows, len(rows))
        assert np.allclose(answer, -answer[::-1], atol=1e-9) is odd


# Label noise


def test_label_noise_rate_and_reach() -> None:
    dataset = load("digits")
    before = [rows.targets.copy() for rows in parts(dataset)]
    assert np.array_equal(noisy_labels(dataset, 0.0, 3), dataset.train.targets)
    for p in (0.2, 0.5, 1.0):
        changed = np.mean([noisy_labels(dataset, p, seed) != dataset.train.targets for seed in range(20)])
        assert abs(changed - 0.9 * p) < 0.01  # a draw over all classes hits the true one in a tenth
    assert all(np.array_equal(old, rows.targets) for old, rows in zip(before, parts(dataset), strict=True))
    drawn = np.bincount(noisy_labels(dataset, 1.0, 0), minlength=10)
    assert drawn.min() > 90
    assert drawn.max() < 170


def test_label_noise_streams() -> None:
    dataset = load("digits")
    low, high = noisy_labels(dataset, 0.2, 0), noisy_labels(dataset, 0.6, 0)
    assert low.dtype == np.int64
    assert np.array_equal(low, noisy_labels(dataset, 0.2, 0))
    assert not np.array_equal(low, noisy_labels(dataset, 0.2, 1))
    redrawn = low != dataset.train.targets
    assert np.array_equal(low[redrawn], high[redrawn])


def test_label_noise_by_the_definition() -> None:
    dataset, generator = load("blobs"), stream(5, "labels")
    n = len(dataset.train)
    redrawn, labels = generator.random(n) < 0.4, generator.integers(3, size=n)
    expected = [new if flip else old for flip, new, old in zip(redrawn, labels, dataset.train.targets, strict=True)]
    assert noisy_labels(dataset, 0.4, 5).tolist() == expected


def test_label_noise_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data bump: a regression has no labels"):
        noisy_labels(load("bump"), 0.5, 0)
    path = write_csv(tmp_path, [(i, i / 3) for i in range(40)])
    assert f"{path}: a regression has no labels" in error("csv", path=path, target="y", label_noise=0.1)


# csv


def write_csv(folder: Path, rows: Any, header: str = "a,y", name: str = "rows.csv", encoding: str = "utf-8") -> str:
    path = folder / name
    lines = [header, *(row if isinstance(row, str) else ",".join(str(cell) for cell in row) for row in rows)]
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return str(path)


def test_csv_features_standardized_and_order_of_columns(tmp_path: Path) -> None:
    rows = [(f"{i}", "cat" if i % 3 else "dog", -2 * i, 7) for i in range(60)]
    path = write_csv(tmp_path, rows, "a,kind,b,same")
    dataset = load("csv", path=path, target="kind")
    assert dataset.classes == ("cat", "dog")
    assert [len(rows) for rows in parts(dataset)] == [43, 5, 12]
    assert np.bincount(dataset.test.targets).tolist() == [8, 4]
    x = dataset.train.features
    assert np.allclose(x[:, 0], -x[:, 1], atol=1e-6)
    assert all(np.all(rows.features[:, 2] == 0) for rows in parts(dataset))  # a column without spread
    assert np.allclose(x[:, :2].mean(0), 0, atol=1e-6)
    raw = load("csv", path=path, target="kind", feature_scale="none")
    assert set(raw.train.features[:, 0]) <= set(range(60))
    assert np.all(np.diff(raw.train.features[:, 0]) > 0)


def test_csv_splits_are_disjoint_cover_all_and_follow_the_seed(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [(i, i % 2) for i in range(100)])
    seen = []
    for seed in (0, 0, 1):
        dataset = load("csv", path=path, target="y", data_seed=seed, feature_scale="none", test=0.3, validation=0.2)
        groups = [set(rows.features[:, 0].tolist()) for rows in parts(dataset)]
        assert [len(group) for group in groups] == [56, 14, 30]
        assert set.union(*groups) == set(range(100))
        assert all(np.bincount(rows.targets).tolist() == [len(rows) / 2] * 2 for rows in parts(dataset))
        seen.append(groups[2])
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["no", "yes"], "auto", ("no", "yes")),
        (["true", "False"], "auto", ("false", "true")),
        (["3", "10"], "auto", ("3", "10")),
        (["1.0", "2.0"], "auto", ("1", "2")),
        (["1", "two"], "auto", ("1", "two")),
        ([str(i) for i in range(20)], "auto", tuple(str(i) for i in range(20))),
        ([str(i) for i in range(21)], "auto", None),
        ([str(i) for i in range(21)], "classification", tuple(str(i) for i in range(21))),
        (["0.5", "1.5"], "auto", None),
        (["0.5", "1.5"], "classification", ("0.5", "1.5")),
        (["1", "2"], "regression", None),
        (["1e3", "-2"], "auto", ("-2", "1000")),
    ],
)
def test_csv_task_rule(tmp_path: Path, cells: list[str], task: Any, classes: tuple[str, ...] | None) -> None:
    path = write_csv(tmp_path, [(i, cells[i % len(cells)]) for i in range(6 * len(cells))])
    dataset = load("csv", path=path, target="y", task=task)
    assert dataset.classes == (classes or ())
    assert dataset.task == ("classification" if classes else "regression")


def test_csv_regression_targets_are_standardized_by_training_rows(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [(i, i / 7 + 1e6) for i in range(50)])
    dataset = load("csv", path=path, target="y", feature_scale="none")
    x = [rows.features[:, 0].astype(np.float64) for rows in parts(dataset)]
    for features, rows in zip(x, parts(dataset), strict=True):
        assert np.allclose(rows.targets, (features - x[0].mean()) / x[0].std(), atol=1e-5)


def test_csv_dialects(tmp_path: Path) -> None:
    """A byte order mark, CRLF, quotes, blanks around cells and blank lines are all fine, and change nothing."""
    plain = write_csv(tmp_path, [("ab"[i % 2], i) for i in range(20)], "y,a")
    odd = tmp_path / "odd.csv"
    lines = ["y, a", *(f' "{word}", {i} ' for i, word in enumerate(["a,b", "é"] * 10)), "", ""]
    odd.write_bytes("\ufeff".encode() + "\r\n".join(lines).encode())
    assert same(load("csv", path=plain, target="y"), load("csv", path=str(odd), target="y"))
    assert load("csv", path=str(odd), target="y").classes == ("a,b", "é")


GOOD = [(i, i % 2) for i in range(20)]


@pytest.mark.parametrize(
    ("rows", "header", "place"),
    [
        ([*GOOD, ("nan", 1)], "a,y", ":row 22, column 'a': error: nan is not a finite"),
        ([*GOOD, ("-inf", 1)], "a,y", ":row 22, column 'a': error: -inf is not a finite"),
        ([*GOOD, ("1e39", 1)], "a,y", ":row 22, column 'a': error: 1e39 is not a finite"),
        ([("", 1), *GOOD], "a,y", ":row 2, column 'a': error: empty"),
        ([*GOOD, ("blue", 1)], "a,y", ":row 22, column 'a': error: 'blue' is not a number"),
        ([*GOOD, ("1_0", 1)], "a,y", ":row 22, column 'a': error: '1_0' is not a number"),
        ([*GOOD, "", ("x", 1)], "a,y", ":row 23, column 'a': error: 'x' is not a number"),
        ([*GOOD, (1, "")], "a,y", ":row 22, column 'y': error: empty"),
        ([*GOOD, (1, "NaN")], "a,y", ":row 22, column 'y': error: NaN is not a finite"),
        ([*GOOD, (1, 2, 3)], "a,y", ":row 22: error: 3 cells, but the header has 2"),
        ([*GOOD, "1"], "a,y", ":row 22: error: 1 cells, but the header has 2"),
        (GOOD, "a,Y", ":row 1: error: no column 'y' (data.target)"),
        (GOOD, "a,yy", "did you mean 'yy'?"),
        (GOOD, "a,b", "columns: a, b"),
        (GOOD, "a;y", "separated by commas"),
        (GOOD, ",y", ":row 1, column 1: error: has no name"),
        (GOOD, "y,y", ":row 1, column 'y': error: stands here twice"),
        ([f"{i}" for i in range(20)], "y", ":row 1: error: no column but the target"),
        ([], "a,y", ": no rows below the header"),
        ([], "", ":row 1: error: "),
        ([(i, 1) for i in range(20)], "a,y", ": only one class, '1'"),
        ([(1, 0), (2, 1)], "a,y", ": 2 rows of 2 classes are too few to hold out 1 (data.test)"),
        ([(i, f"id{i}") for i in range(20)], "a,y", ": 20 rows of 20 classes are too few to hold out 4"),
        ([(i, 0.5) for i in range(20)], "a,y", ": the target is the same in all 14 training rows"),
        (
            [*((i, i) for i in range(30)), (30, "3O")],
            "a,y",
            ":row 32, column 'y': error: '3O' is not a number; correct it, or",
        ),
        ([*GOOD, '1,"open'], "a,y", ": not csv ("),
    ],
)
def test_csv_errors(tmp_path: Path, rows: Any, header: str, place: str) -> None:
    path = write_csv(tmp_path, rows, header)
    message = error("csv", path=path, target="y")
    assert message.startswith(path)
    assert place in message


def test_all_faults_of_a_csv_file_come_at_once(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [(0, 1, 0), ("x", "", 1), (2, 1, 0, 5), (3, "inf", "")], "a,long name,y")
    with pytest.raises(DataError) as caught:
        load("csv", path=path, target="y")
    todo = "give it a number, or remove the row or column"
    assert str(caught.value) == "\n".join(
        [
            f"{path}:row 3, column 'a': error: 'x' is not a number; {todo}",
            "    x,,1",
            "    ^",
            f"{path}:row 3, column 'long name': error: empty; {todo}",
            "    x,,1",
            "      ^",
            f"{path}:row 4: error: 4 cells, but the header has 3; quote cells that hold commas",
            "    2,1,0,5",
            "          ^",
            f"{path}:row 5, column 'long name': error: inf is not a finite float32; {todo}",
            "    3,inf,",
            "      ^",
            f"{path}:row 5, column 'y': error: empty; {todo}",
            "    3,inf,",
            "          ^",
        ]
    )


def test_what_was_found_before_a_file_ends_badly_is_told(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [("x", 0), *GOOD, '1,"open'], "a,y")
    with pytest.raises(DataError) as caught:
        load("csv", path=path, target="y")
    lines = str(caught.value).split("\n")
    assert ":row 2, column 'a': error: 'x' is not a number" in lines[0]
    assert ": not csv (" in lines[-1]


def test_a_caret_stands_under_its_cell(tmp_path: Path) -> None:
    """Also after cells that are shown in quotes, and letters as wide as two."""
    path = write_csv(tmp_path, [*((i, i, i % 2) for i in range(20)), ('"1,5"', "漢字", 0)], "a,b,y")
    with pytest.raises(DataError) as caught:
        load("csv", path=path, target="y")
    assert str(caught.value).split("\n")[1:3] == ['    "1,5",漢字,0', "    ^"]
    assert str(caught.value).split("\n")[4:6] == ['    "1,5",漢字,0', "          ^"]
    path = write_csv(tmp_path, [*((i, i, i % 2) for i in range(20)), (1, 2, 0), ("漢字", "x", 0)], "a,b,y")
    with pytest.raises(DataError) as caught:
        load("csv", path=path, target="y")
    assert str(caught.value).split("\n")[5] == "         ^"


@pytest.mark.parametrize("cells", [("x", 0), (0, "3O"), (0, "")])
def test_of_many_faults_the_first_are_shown(tmp_path: Path, cells: tuple[Any, Any]) -> None:
    path = write_csv(tmp_path, [*((i, i) for i in range(40)), *[cells] * 30], "a,y")
    with pytest.raises(DataError) as caught:
        load("csv", path=path, target="y")
    lines = str(caught.value).split("\n")
    assert len(lines) == 61
    assert ":row 42, " in lines[0]
    assert lines[-1] == "and more: only the first 20 are shown"


def test_a_wide_row_is_cut_around_its_fault(tmp_path: Path) -> None:
    row = [str(1000 + i) for i in range(500)]
    path = write_csv(
        tmp_path, [(*row, 0), (*row[:250], "o\x1bps", *row[251:], 1)], ",".join([*(f"c{i}" for i in range(500)), "y"])
    )
    place, line, caret = error("csv", path=path, target="y").split("\n")
    assert "row 3, column 'c250'" in place
    assert len(line) <= 104
    assert line[caret.index("^") :].startswith("o ps,1251,")


def test_csv_text_target_with_regression(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [*GOOD, (1, "true")])
    message = error("csv", path=path, target="y", task="regression")
    assert f"{path}:row 22, column 'y': error: 'true' is not a number" in message


def test_csv_not_utf8(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [*((i, "ab"[i % 2]) for i in range(5000)), (1, "é")], encoding="latin-1")
    assert f"{path}:line 5002: not UTF-8 text; save the file as UTF-8" in error("csv", path=path, target="y")
    path = write_csv(tmp_path, GOOD, encoding="utf-16")
    assert f"{path}:line 1: not UTF-8" in error("csv", path=path, target="y")


@pytest.mark.parametrize("name", ["csv", "npz"])
def test_missing_file_and_folder_for_file(tmp_path: Path, name: str) -> None:
    fields = {"target": "y"} if name == "csv" else {}
    assert f"{tmp_path / 'none'}: no such file" in error(name, path=str(tmp_path / "none"), **fields)
    assert f"{tmp_path}: is a folder, not a file" in error(name, path=str(tmp_path), **fields)
    assert "no such file" in error(name, path="x" * 5000, **fields)
    assert "no such file" in error(name, path="x\0y", **fields)


def test_an_outlier_that_float32_cannot_hold(tmp_path: Path) -> None:
    path = write_csv(tmp_path, [(3e38 if i == 3 else i * 1e-12, i % 2) for i in range(200)])
    dataset = load("csv", path=path, target="y", test=0.1)
    assert all(np.isfinite(rows.features).all() for rows in parts(dataset))
    held = load("csv", path=path, target="y", data_seed=seed_that_holds_out(path), test=0.5, feature_scale="none")
    assert held.train.features.max() < 1 < held.test.features.max()
    message = error("csv", path=path, target="y", data_seed=seed_that_holds_out(path), test=0.5)
    assert f"{path}: a value is too many SDs from the training mean" in message


def seed_that_holds_out(path: str) -> int:
    """A data_seed whose training rows lack the outlier."""
    for seed in range(50):
        dataset = load("csv", path=path, target="y", data_seed=seed, test=0.5, feature_scale="none")
        if dataset.train.features.max() < 1:
            return seed
    raise AssertionError


# npz


def write_npz(folder: Path, **arrays: Any) -> str:
    path = folder / "rows.npz"
    np.savez(path, **arrays)
    return str(path)


def test_npz_with_test_rows_of_its_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 3, 4)), np.arange(40) % 4
    path = write_npz(tmp_path, x_train=x[:30], y_train=y[:30], x_test=x[30:], y_test=y[30:])
    dataset = load("npz", path=path, validation=0.0, feature_scale="none")
    assert dataset.n_inputs == 12
    assert dataset.classes == tuple("0123")
    assert np.array_equal(dataset.train.features, x[:30].reshape(30, 12).astype(np.float32))
    assert np.array_equal(dataset.test.features, x[30:].reshape(10, 12).astype(np.float32))
    assert np.array_equal(dataset.test.targets, y[30:])


def test_npz_equals_csv(tmp_path: Path) -> None:
    csv = write_csv(tmp_path, [(i, i % 3) for i in range(60)])
    for dtype in (np.uint8, np.int64, np.float64, ">f4"):
        npz = write_npz(tmp_path, x=np.arange(60).astype(dtype), y=(np.arange(60) % 3).astype(dtype)[:, None])
        assert same(load("npz", path=npz), load("csv", path=csv, target="y"))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array(["b", "a"] * 20), ("a", "b")),
        (np.array([True, False] * 20), ("false", "true")),
        (np.array([1.0, 5.0] * 20), ("1", "5")),
        (np.linspace(0, 1, 40), ()),
        (np.arange(40), ()),
    ],
)
def test_npz_task_rule(tmp_path: Path, y: Any, classes: tuple[str, ...]) -> None:
    assert load("npz", path=write_npz(tmp_path, x=np.eye(40), y=y)).classes == classes


X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
SPLIT = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}


@pytest.mark.parametrize(
    ("arrays", "place"),
    [
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, ":array 'x', row 3, feature 1 (from 0): nan"),
        ({"x": np.where(X == 7, 1e300, X), "y": Y}, ":array 'x', row 3, feature 1 (from 0): 1e+300"),
        ({**SPLIT, "x_test": np.where(X == 4, -np.inf, X)}, ":array 'x_test', row 2, feature 0 (from 0): -inf"),
        ({"x": X, "y": np.where(Y, np.nan, 0.5)}, ":array 'y', row 1, feature 0 (from 0): nan"),
        ({"x": X.astype(complex), "y": Y}, ":array 'x': complex128 is not a real number type"),
        ({"x": X.astype(str), "y": Y}, ":array 'x': <U32 is not a real number type"),
        ({"x": X, "y": Y.astype("S1")}, ":array 'y': |S1 is neither numbers nor text"),
        ({"x": X[:0], "y": Y[:0]}, ":array 'x': shape (0, 2) has no rows"),
        ({"x": np.float64(1), "y": Y}, ":array 'x': shape () has no rows"),
        ({"x": X, "y": np.eye(20)}, ":array 'y': shape (20, 20); one target per row"),
        ({"x": X, "y": Y[:19]}, ":array 'y': 19 targets for 20 rows of 'x'"),
        ({**SPLIT, "x_test": X[:, :1]}, ":array 'x_test': not as many features as 'x_train'"),
        ({**SPLIT, "y_test": Y.astype(str)}, ":array 'y_test': text against numbers in 'y_train'"),
        ({**SPLIT, "y_test": Y + 1}, ": no training row of class '2'"),
        ({"X": X, "y": Y}, ": needs arrays x_train, y_train, x_test, y_test, or x and y; it has X, y"),
        ({**{k: v for k, v in SPLIT.items() if k != "y_test"}, "ytest": Y}, "did you mean 'ytest'?"),
        ({}, "; it has nothing"),
        ({"x": np.array([{}, []] * 10, object), "y": Y}, ": cannot be read as npz (Object arrays cannot"),
    ],
)
def test_npz_errors(tmp_path: Path, arrays: dict[str, Any], place: str) -> None:
    path = write_npz(tmp_path, **arrays)
    message = error("npz", path=path)
    assert message.startswith(path)
    assert place in message


def test_npz_that_is_something_else(tmp_path: Path) -> None:
    path = Path(write_npz(tmp_path, x=X, y=Y))
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", X)
    assert "one.npy: a single array, not an archive" in error("npz", path=str(tmp_path / "one.npy"))
    for bad in (b"", b"hello", whole[: len(whole) // 2], whole.replace(b"descr", b"desxr"), b"\x80\x04K\x01."):
        path.write_bytes(bad)
        assert f"{path}: cannot be read as npz" in error("npz", path=str(path))


def test_npz_whose_header_lies(tmp_path: Path) -> None:
    path = tmp_path / "lies.npz"
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000000000000, 2), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
        archive.writestr("y.npy", b"")
    assert f"{path}: cannot be read as npz" in error("npz", path=str(path))


def test_npz_members_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "raw.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x80\x04N.")
        archive.writestr("y.npy", b"hello")
    assert f"{path}: cannot be read as npz (a member is no array)" in error("npz", path=str(path))


def test_npz_half_precision(tmp_path: Path) -> None:
    path = write_npz(tmp_path, x=np.linspace(0, 60000, 40).reshape(20, 2).astype(np.float16), y=np.arange(20) % 2)
    assert load("npz", path=path).n_inputs == 2


def test_npz_text_and_boolean_targets_are_no_regression(tmp_path: Path) -> None:
    for y in (Y.astype(str), Y.astype(bool)):
        path = write_npz(tmp_path, x=X, y=y)
        assert f"{path}:array 'y': not numbers" in error("npz", path=path, task="regression")


# Images


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).integers(256, size=(n, 28, 28)), np.arange(n) % 10


def write_images(folder: Path, packed: bool = True) -> list[Path]:
    """120 training and 30 test images."""
    folder.mkdir(exist_ok=True)
    contents = [idx(values) for n in (120, 30) for values in images(n)]
    paths = [folder / (f"{name}.gz" if packed else name) for name in IDX_FILES]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return paths


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_round_trip(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "packed")
    write_images(tmp_path / "plain", packed=False)
    packed, plain = (load(name, path=str(tmp_path / kind), validation=0.0) for kind in ("packed", "plain"))
    assert same(packed, plain)
    pixels, labels = images(120)
    assert np.array_equal(packed.train.features, (pixels.reshape(120, 784) / 255).astype(np.float32))
    assert np.array_equal(packed.train.targets, labels)
    assert (len(packed.test), packed.n_inputs, packed.n_outputs) == (30, 784, 10)
    binary = load(name, path=str(tmp_path / "packed"), validation=0.0, binarize=True)
    assert np.array_equal(binary.train.features, (pixels.reshape(120, 784) >= 128).astype(np.float32))
    assert load("fashion-mnist", path=str(tmp_path / "plain")).classes[9] == "Ankle boot"


def pack(values: np.ndarray) -> bytes:
    return gzip.compress(idx(values), mtime=0)


def with_sizes(content: bytes, *sizes: int) -> bytes:
    return content[:4] + b"".join(size.to_bytes(4, "big") for size in sizes) + content[4 + 4 * len(sizes) :]


IMAGES, LABELS = (idx(values) for values in images(120))


@pytest.mark.parametrize(
    ("file", "content", "place"),
    [
        (0, gzip.compress(IMAGES)[:-2000], "cannot be read, truncated or damaged"),
        (0, gzip.compress(IMAGES)[:40000] + bytes(2000), "cannot be read, truncated or damaged"),
        (0, IMAGES, "Not a gzipped file"),
        (0, gzip.compress(LABELS), "begins with 00000801, not 00000803"),
        (1, gzip.compress(IMAGES), "begins with 00000803, not 00000801"),
        (0, gzip.compress(b""), "begins with , not 00000803"),
        (0, gzip.compress(IMAGES[:10]), "ends inside its header"),
        (0, gzip.compress(with_sizes(IMAGES, 121, 28, 28)), "promises 121×28×28 values, but it holds 94080"),
        (0, gzip.compress(with_sizes(IMAGES, 119, 28, 28)), "promises 119×28×28 values, but it holds more"),
        (0, gzip.compress(with_sizes(IMAGES, 2**32 - 1, 2**31, 28)), "bytes cannot hold them"),
        (0, gzip.compress(with_sizes(IMAGES, 0, 28, 28)), "empty, its header says 0×28×28"),
        (1, pack(np.where(np.arange(120) == 7, 10, 0)), ":row 7 (from 0): label 10; labels are 0 to 9"),
        (1, pack(np.arange(119) % 10), "119 labels, but train-images-idx3-ubyte.gz has 120 images"),
        (2, pack(np.zeros((30, 8, 8))), "images of 64 pixels, but train-images-idx3-ubyte.gz has 784"),
    ],
)
def test_idx_errors(tmp_path: Path, file: int, content: bytes, place: str) -> None:
    path = write_images(tmp_path)[file]
    path.write_bytes(content)
    message = error("mnist", path=str(tmp_path))
    assert message.startswith(str(path))
    assert place in message


def test_idx_plain_file_that_promises_too_much(tmp_path: Path) -> None:
    path = write_images(tmp_path, packed=False)[0]
    path.write_bytes(with_sizes(IMAGES, 2**32 - 1, 28, 28))
    assert "bytes cannot hold them" in error("mnist", path=str(tmp_path))


def test_a_class_that_no_training_image_shows(tmp_path: Path) -> None:
    write_images(tmp_path)[1].write_bytes(pack(np.arange(120) % 9))
    assert f"{tmp_path}: no training row of class '9'" in error("mnist", path=str(tmp_path))


def test_idx_folder_errors(tmp_path: Path) -> None:
    path = write_images(tmp_path)[2]
    path.unlink()
    assert f"{tmp_path}: no file t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz" in error(
        "mnist", path=str(tmp_path)
    )
    assert f"{tmp_path / 'none'}: no such folder" in error("mnist", path=str(tmp_path / "none"))
    assert "no such folder" in error("mnist", path="x" * 5000)
    other = write_images(tmp_path)[0]
    assert f"{other}: is not a folder; data.path must be the folder of the four" in error("mnist", path=str(other))


@pytest.mark.skipif(not MNIST.is_dir(), reason="no MNIST files beside the repository")
def test_real_mnist() -> None:
    dataset = load("mnist", path=str(MNIST))
    assert [len(rows) for rows in parts(dataset)] == [54000, 6000, 10000]
    counts = np.bincount(np.concatenate([dataset.train.targets, dataset.validation.targets]))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(dataset.test.targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (dataset.train.features.min(), dataset.train.features.max()) == (0, 1)
    pixels = [rows.features for rows in (dataset.train, dataset.validation)]
    mean = sum(float(x.sum(dtype=np.float64)) for x in pixels) / (60000 * 784)
    assert mean == pytest.approx(0.1307, abs=5e-5)  # the constant that tutorials normalise by


# Downloads


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import pooch

    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder / project)
    pooch.get_logger().setLevel("WARNING")
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Serves packed images as if it were the home of mnist; yields the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            asked.append(self.path)

    paths = write_images(tmp_path / "served")
    checksums = ["sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))
    ) as running:
        home = sources.ImageSet(f"http://127.0.0.1:{running.server_port}/", tuple(checksums), sources.DIGITS)  # type: ignore[arg-type]
        monkeypatch.setitem(sources.IMAGE_SETS, "mnist", home)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield asked
        running.shutdown()
        thread.join()


def test_download_once_then_from_the_cache(tmp_path: Path, cache: Path, server: list[str]) -> None:
    first = load("mnist")
    assert same(first, load("mnist", path=str(tmp_path / "served")))
    assert sorted(server) == sorted(f"/{name}.gz" for name in IDX_FILES)
    assert sorted(path.name for path in (cache / "bnexp/mnist").iterdir()) == sorted(f"{name}.gz" for name in IDX_FILES)
    assert same(first, load("mnist"))
    assert len(server) == 4
    (cache / "bnexp/mnist" / f"{IDX_FILES[0]}.gz").write_bytes(b"damaged")
    assert same(first, load("mnist"))
    assert len(server) == 5


def test_download_of_something_else_is_refused(tmp_path: Path, cache: Path, server: list[str]) -> None:
    (tmp_path / "served" / f"{IDX_FILES[1]}.gz").write_bytes(b"something else")
    message = error("mnist")
    assert "cannot download" in message
    assert "hash" in message


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("ConnectionError", "Name or service not known\nand much more", "Name or service not known"),
        ("HTTPError", "404 Client Error", "404 Client Error"),
        ("Timeout", "", "Timeout"),
    ],
)
def test_offline(monkeypatch: pytest.MonkeyPatch, name: str, kind: str, text: str, reason: str) -> None:
    import pooch
    import requests

    def offline(url: str, **options: Any) -> str:
        raise getattr(requests, kind)(text)

    monkeypatch.setattr(pooch, "retrieve", offline)
    message = error(name)
    assert message.startswith(f"data {name}: cannot download http")
    assert f"train-images-idx3-ubyte.gz ({reason}); go online" in message
    assert "data.path: FOLDER" in message


def test_addresses_and_checksums_are_well_formed() -> None:
    for images_ in sources.IMAGE_SETS.values():
        assert images_.url.startswith("http")
        assert images_.url.endswith("/")
        assert len(set(images_.checksums)) == len(IDX_FILES) == 4
        for checksum in images_.checksums:
            kind, digits = checksum.split(":")
            assert len(bytes.fromhex(digits)) == {"md5": 16, "sha256": 32}[kind]
        assert len(set(images_.classes)) == 10


# What a server, a disk or a joker may do


def broken_server(answer: str, content: bytes, answered: threading.Event) -> type[http.server.BaseHTTPRequestHandler]:
    """A server that gives each file's content in a way that is wrong; one that stalls does so until ``answered``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if answer.isdigit():
                self.send_error(int(answer))
                return
            if answer == "stalls before it answers":
                answered.wait(60)
                return
            if answer == "leads round in a circle":
                self.send_response(302)
                self.send_header("Location", self.path)
                self.end_headers()
                return
            body = {"is a page": b"<html>not here</html>", "is empty": b"", "is cut, and says so": content[:100]}
            data = body.get(answer, content)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if answer == "stalls half-way":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                answered.wait(60)
            elif answer == "breaks off":
                self.wfile.write(data[: len(data) // 2])
            elif answer == "has one wrong bit":
                self.wfile.write(bytes([data[0] ^ 1]) + data[1:])
            else:
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pooch leaves a refused answer open
@pytest.mark.parametrize(
    "answer",
    [
        *("404", "500", "is a page", "is empty", "is cut, and says so", "breaks off", "has one wrong bit"),
        *("stalls before it answers", "stalls half-way", "leads round in a circle"),
    ],
)
def test_a_broken_download_is_one_message_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    import pooch

    contents = [path.read_bytes() for path in write_images(tmp_path / "served")]
    checksums: Any = tuple("sha256:" + hashlib.sha256(content).hexdigest() for content in contents)
    monkeypatch.setattr(pooch.downloaders, "DEFAULT_TIMEOUT", 0.5)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    answered = threading.Event()
    handler = broken_server(answer, contents[0], answered)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        home = sources.ImageSet(f"http://127.0.0.1:{running.server_port}/", checksums, sources.DIGITS)
        monkeypatch.setitem(sources.IMAGE_SETS, "mnist", home)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            message = error("mnist")
        finally:
            answered.set()
            running.daemon_threads = False  # closing waits for them
            running.shutdown()
            thread.join()
    gc.collect()
    assert message.startswith("data mnist: cannot download http://127.0.0.1")
    assert ("timed out" in message) == answer.startswith("stalls")
    assert "data.path: FOLDER" in message
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("damage", ["a folder", "empty", "a bit"])
def test_a_damaged_cache_is_fetched_again_or_named(tmp_path: Path, cache: Path, server: list[str], damage: str) -> None:
    whole = load("mnist")
    path = cache / "bnexp/mnist" / f"{IDX_FILES[0]}.gz"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
        assert str(path.name) in error("mnist")
        return
    path.write_bytes(b"" if damage == "empty" else bytes([content[0], content[1] ^ 1]) + content[2:])
    assert same(whole, load("mnist"))
    assert path.read_bytes() == content


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_BYTES", 10_000)
    path = write_images(tmp_path)[0]
    assert "94080 bytes when unpacked, and at most 10000 are read" in error("mnist", path=str(tmp_path))
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros((1000, 2)), y=np.zeros(1000))
    assert "24256 bytes when unpacked" in error("npz", path=str(tmp_path / "bomb.npz"))
    large = write_csv(tmp_path, [(i, i % 3) for i in range(3000)])
    assert "at most 10000 are read" in error("csv", path=large, target="y")
    assert path.exists()


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = write_images(tmp_path)[0]
    path.write_bytes(gzip.compress(IMAGES + bytes(200 * 2**20), mtime=0))
    tracemalloc.start()
    assert "promises 120×28×28 values, but it holds more" in error("mnist", path=str(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


# Rooms


def test_data_needs_neither_torch_nor_pandas_nor_pooch() -> None:
    code = (
        "import sys; from bnexp.data import load_dataset; from bnexp.spec import DataFields; "
        "load_dataset(DataFields(name='digits')); print({'torch', 'pandas', 'pooch'} & set(sys.modules))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "set()"


def test_every_name_has_a_source() -> None:
    from typing import get_args

    from bnexp.data import READERS
    from bnexp.spec import DatasetName

    assert set(READERS) == set(get_args(DatasetName))
    assert Raw.__dataclass_params__.frozen  # type: ignore[attr-defined]
