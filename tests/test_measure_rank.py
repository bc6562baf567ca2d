"""Effective and stable rank against singular values, and of matrices whose rank is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measure_tools import (
    check_alone_equals_stacked,
    check_cadence,
    check_quarantine,
    check_training_is_untouched,
    numpy_taps,
    probe_of,
    rows,
    study,
    trained,
)

from bnexp.measures.rank import ranks

F64 = torch.float64


def slow_ranks(h):
    gram = h @ h.T / h.shape[1]
    effective = np.trace(gram) ** 2 / np.linalg.norm(gram, "fro") ** 2
    return effective, np.linalg.norm(h, "fro") ** 2 / np.linalg.norm(h, 2) ** 2


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]", "[center]", "[scale]"])
def test_equals_the_twin(norms, activation, placement):
    spec, dataset, runs = study("[rank]", norms, activation, placement, probe=6)  # fewer rows than units
    x, _ = probe_of(dataset, 6)
    for epoch, arrays in trained(spec, dataset, runs):
        for index, run in enumerate(runs):
            found = rows(epoch, "rank", index)
            expected = {
                (str(layer), tap): (*slow_ranks(h), *slow_ranks(h - h.mean(1, keepdims=True)))
                for layer, taps in enumerate(numpy_taps(run, arrays, index, x), start=1)
                for tap, h in taps.items()
            }
            assert list(found) == list(expected)
            for labels, values in found.items():
                assert list(values.values()) == pytest.approx(expected[labels], rel=1e-9), (run.id, labels)


@pytest.mark.parametrize("shape", [(3, 20), (5, 5), (20, 3), (9, 7)])
def test_known_ranks(shape):
    units, samples = shape
    smaller = min(shape)
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(max(shape), smaller)))[0].T
    orthogonal = torch.from_numpy(q if units < samples else q.T)[None]
    for scale in (1e-12, 1, 1e12):
        assert [float(r) for r in ranks(orthogonal * scale)] == pytest.approx([smaller, smaller], rel=1e-12)
    outer = torch.from_numpy(np.outer(np.arange(1.0, units + 1), np.arange(2.0, samples + 2)))[None]
    assert [float(r) for r in ranks(outer)] == pytest.approx([1, 1], rel=1e-12)


def test_two_equal_eigenvalues_and_a_ladder():
    two = torch.zeros(1, 4, 10, dtype=F64)
    two[0, 0, 3], two[0, 2, 7] = 5, -5
    assert [float(r) for r in ranks(two)] == pytest.approx([2, 2], rel=1e-12)
    ladder = torch.diag_embed(torch.tensor([[2.0, 1.0, 1.0]], dtype=F64))  # eigenvalues 4, 1, 1
    assert [float(r) for r in ranks(ladder)] == pytest.approx([36 / 18, 6 / 4], rel=1e-12)


def test_no_values_have_no_rank():
    h = torch.stack(
        [torch.zeros(3, 8, dtype=F64), torch.full((3, 8), torch.nan, dtype=F64), torch.eye(3, 8, dtype=F64)]
    )
    for found in ranks(h):
        assert found[:2].isnan().all()
        assert found[2] == pytest.approx(3)


def test_a_constant_float32_tap_has_no_centered_rank():
    constant = torch.full((1, 5, 98), 0.1).double()
    assert all(r.isnan().all() for r in ranks(constant - constant.mean(-1, keepdim=True)))


def test_means_hide_the_rank_of_sigmoid_units():
    spec, dataset, runs = study("[rank]", "[none]", "sigmoid", epochs=0)
    found = rows(trained(spec, dataset, runs)[0][0], "rank")["1", "activation"]
    assert found["stable_rank"] < 1.2
    assert found["stable_rank_centered"] > 1.4


def test_training_is_untouched():
    check_training_is_untouched("[rank]")


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize(("placement", "probe"), [("pre", 21), ("post", 5)])
def test_alone_equals_stacked(activation, placement, probe):
    check_alone_equals_stacked("[rank]", activation, placement=placement, probe=probe)


@pytest.mark.parametrize("shape", [(5, 24), (9, 21), (64, 128), (7, 3)])
def test_all_bits_of_a_stack_are_those_of_each_alone(shape):
    """The CSV's nine digits would hide a different rounding."""
    h = torch.randn(30, *shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    together = ranks(h)
    for index in range(30):
        assert all(torch.equal(a[index : index + 1], b) for a, b in zip(together, ranks(h[index:][:1]), strict=True))


def test_cadence():
    check_cadence("rank", "rank")


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("[rank]")
