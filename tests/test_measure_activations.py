"""The activations measure against NumPy; it changes no training and sees one run at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measure_tools import (
    check_alone_equals_stacked,
    check_quarantine,
    check_training_is_untouched,
    numpy_taps,
    probe_of,
    rows,
    study,
    trained,
)

from bnexp.measures.base import ascending


def slow_columns(values, activation):
    """One tap's columns from its values [unit, sample], unit after unit."""
    units = [(a.mean(), a.std(), a.min(), a.max()) for a in values]
    means = [mean for mean, *_ in units]
    columns = {
        "mean": np.mean(means),
        "mean_spread": np.std(means),
        **{name: np.mean([unit[i] for unit in units]) for i, name in ((1, "sd"), (2, "min"), (3, "max"))},
        "near_zero": np.mean(np.abs(values) <= 0.05),
    }
    if activation == "sigmoid":
        columns["saturated"] = np.mean((values < 0.05) | (values > 0.95))
    if activation == "tanh":
        columns["saturated"] = np.mean(np.abs(values) > 0.9)
    if activation == "relu":
        columns["saturated"] = np.mean(values == 0)
        columns["dead"] = np.mean([not a.any() for a in values])
    return columns


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full]"])
def test_equals_numpy(norms, activation, placement):
    spec, dataset, runs = study("[activations]", norms, activation, placement, epochs=2, lr="0.7")
    x, _ = probe_of(dataset, 21)
    for epoch, arrays in trained(spec, dataset, runs):
        for index, run in enumerate(runs):
            found, single = rows(epoch, "activations", index), rows(epoch, "units", index)
            taps = numpy_taps(run, arrays, index, x)
            labels = [(str(layer), tap) for layer, here in enumerate(taps, start=1) for tap in here]
            assert list(found) == labels
            for layer, tap in labels:
                values = taps[int(layer) - 1][tap]
                expected = slow_columns(values, activation if tap == "activation" else "")
                shares = {name for name in expected if name in ("near_zero", "saturated", "dead")}
                assert set(found[layer, tap]) == set(expected)
                for name, value in expected.items():  # shares are divided in float32
                    tolerance = 1e-7 if name in shares else 1e-9
                    assert found[layer, tap][name] == pytest.approx(value, rel=tolerance, abs=1e-12), name
                tracked = [int(unit) for one, other, unit in single if (one, other) == (layer, tap)]
                assert len(tracked) == min(4, len(values))
                for unit in tracked:
                    ranked = sorted(values[unit])
                    nearest = [ranked[int(np.ceil(p * 21)) - 1] for p in (0.15, 0.5, 0.85)]
                    row = single[layer, tap, str(unit)]
                    assert [row["p15"], row["p50"], row["p85"]] == pytest.approx(nearest, rel=1e-9, abs=1e-12)
                    assert row["sd"] == pytest.approx(values[unit].std(), rel=1e-9, abs=1e-12)


def test_sorting_is_torch_s():
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(3, 5, 40, dtype=dtype)
        assert torch.equal(ascending(x), x.sort(-1).values)


def test_training_is_untouched():
    check_training_is_untouched("[activations]")


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_alone_equals_stacked(activation):
    check_alone_equals_stacked("[activations]", activation)


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("[activations]")
