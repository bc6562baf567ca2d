"""How far distributions move: against SciPy and NumPy, unit by unit, and for movements that are known."""

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
from scipy.stats import wasserstein_distance
from tools import outcome_of_each, train_runs

from bnexp.measures.shift import shifts, units_of
from bnexp.network import sigmoid

PARTS = ("moved_mean", "moved_scale", "moved_reshuffle")
TOGETHER = [f"{name}{end}" for name in ("mean_shift", "log_sd_shift", "wasserstein") for end in ("", "_max")]


def constant_units(taps, activation):
    """tap → units that are constant there or at a tap before."""
    found, so_far = {}, set()
    for tap, values in taps.items():
        least = 1 if (tap, activation) == ("activation", "sigmoid") else 0
        so_far = so_far | {u for u, a in enumerate(values) if a.std() <= 1e-6 * max(abs(a.mean()), least)}
        found[tap] = so_far
    return found


def slow_shift(now, then, constant_now=(), constant_then=()):
    """The columns, one unit after the other."""
    found = {name: [] for name in ("mean_shift", "log_sd_shift", "wasserstein", "moved", *PARTS, "decorrelation")}
    for unit, (a1, a0) in enumerate(zip(now, then, strict=True)):
        sd0, sd1 = a0.std(), a1.std()
        if unit in constant_then:
            continue
        found["mean_shift"].append(abs(a1.mean() - a0.mean()) / sd0)
        found["wasserstein"].append(wasserstein_distance(a1, a0) / sd0)
        found["moved"].append(np.mean((a1 - a0) ** 2) / sd0**2)
        found["moved_mean"].append((a1.mean() - a0.mean()) ** 2 / sd0**2)
        found["moved_scale"].append((sd1 - sd0) ** 2 / sd0**2)
        if unit not in constant_now:
            found["log_sd_shift"].append(abs(np.log(sd1) - np.log(sd0)))
        correlation = np.corrcoef(a0, a1)[0, 1] if sd1 > 0 else 1
        if unit not in constant_now:
            found["decorrelation"].append(1 - correlation)
        found["moved_reshuffle"].append(2 * sd0 * sd1 * (1 - correlation) / sd0**2)
    columns = {}
    for name, values in found.items():
        columns[name] = np.mean(values) if values else np.nan
        if not name.startswith(("moved", "decorrelation")):
            columns[f"{name}_max"] = np.max(values) if values else np.nan
    return {**columns, "units": len(found["moved"])}


def columns_of(now, then):
    return {name: float(value) for name, value in shifts(units_of(now[None]), units_of(then[None])).items()}


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]", "[center]", "[scale]"])
def test_equals_the_twin(norms, activation, placement):
    spec, dataset, runs = study("[shift]", norms, activation, placement, epochs=3, lr="0.5")
    x, _ = probe_of(dataset, 21)
    history = []
    for epoch, arrays in trained(spec, dataset, runs):
        history.append([numpy_taps(run, arrays, index, x)[:-1] for index, run in enumerate(runs)])
        for index, run in enumerate(runs):
            found = rows(epoch, "shift", index)
            expected = {}
            for layer, taps in enumerate(history[-1][index] if epoch.number else (), start=1):
                constant = constant_units(taps, activation)
                for tap, values in taps.items():
                    for since, earlier in (("previous", -2), ("start", 0)):
                        then = history[earlier][index][layer - 1]
                        dead = constant[tap], constant_units(then, activation)[tap]
                        expected[str(layer), tap, since] = slow_shift(values, then[tap], *dead)
            assert list(found) == list(expected)
            for labels, values in found.items():
                assert values == pytest.approx(expected[labels], rel=1e-9, abs=1e-9, nan_ok=True), (run.id, labels)


def test_both_rows_are_equal_at_the_first_reading_and_then_differ():
    epochs = train_runs(*study("[shift]"))
    assert rows(epochs[0], "shift") == {}
    for epoch in epochs[1:]:
        found = rows(epoch, "shift")
        same = [found[layer, tap, "start"] == found[layer, tap, "previous"] for layer, tap, _ in found]
        assert all(same) == (epoch.number == 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twice_as_wide_and_three_sds_further(dtype):
    a = torch.randn(6, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    a = (a - a.mean(-1, keepdim=True)) * torch.arange(1.0, 7)[:, None]
    sd = a.std(-1, correction=0, keepdim=True)
    found = columns_of((2 * a + 3 * sd).to(dtype), a.to(dtype))
    distance = ((a + 3 * sd).abs().mean(-1, keepdim=True) / sd).squeeze()
    expected = {"mean_shift": 3, "log_sd_shift": np.log(2), "moved": 10, "moved_mean": 9, "moved_scale": 1}
    expected |= {"mean_shift_max": 3, "log_sd_shift_max": np.log(2), "units": 6}
    expected |= {"moved_reshuffle": 0, "decorrelation": 0}
    expected |= {"wasserstein": float(distance.mean()), "wasserstein_max": float(distance.max())}
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_rows_that_change_places_are_all_reshuffling():
    a = torch.randn(6, 50, dtype=torch.float64)
    found = columns_of(a[:, torch.randperm(50)], a)
    assert found["wasserstein"] == 0
    assert found["moved"] == pytest.approx(found["moved_reshuffle"])
    assert found["moved"] > 0.5
    assert found["decorrelation"] == pytest.approx(found["moved"] / 2)
    centred = a - a.mean(-1, keepdim=True)
    assert columns_of(-centred, centred) == pytest.approx(
        columns_of(-centred, centred) | {"moved": 4, "moved_reshuffle": 4, "moved_mean": 0, "moved_scale": 0}, abs=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_parts_are_all_of_the_movement(seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (3 + torch.randn(1, 8, 40, dtype=torch.float64, generator=generator) for _ in range(2))
    found = {name: float(value) for name, value in shifts(units_of(b), units_of(a)).items()}
    variance = a.var(-1, correction=0)
    assert found["moved"] == found["moved_mean"] + found["moved_scale"] + found["moved_reshuffle"]
    assert found["moved"] == pytest.approx(float((((b - a) ** 2).mean(-1) / variance).mean()), rel=1e-13)


def test_units_that_did_not_vary_are_left_out():
    a, b = torch.randn(2, 4, 30)
    plain = columns_of(b[1:], a[1:])
    a[0] = 0
    assert columns_of(b, a) == plain
    a[0] = 0.1 + 1e-8 * torch.randn(30)  # float32 rounding
    assert columns_of(b, a) == plain
    assert plain["units"] == 3


def test_a_constant_unit_stays_constant_at_the_taps_after_it():
    """After standardizing, rounding of a constant is 1/sqrt(ε) times as large and its mean 0."""
    a = torch.randn(1, 3, 32)
    a[0, 1] = 7 + 4e-7 * torch.randn(32)
    normalized = (a - a.mean(-1, keepdim=True)) / (a.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    assert units_of(normalized).varies.tolist() == [[True, True, True]]
    assert units_of(normalized, varied=units_of(a).varies).varies.tolist() == [[True, False, True]]


def test_a_sigmoid_saturated_at_0_is_as_constant_as_at_1():
    a = torch.tensor([-17.0, 17.0])[:, None] + torch.randn(2, 64)
    saturated = sigmoid(a)[None]
    assert saturated.std(-1).min() > 0
    assert not units_of(saturated, floor=1.0).varies.any()


def test_a_unit_that_died_keeps_all_but_its_log_sd():
    a, b = torch.randn(2, 4, 30, dtype=torch.float64)
    b[0] = 0
    found = columns_of(b, a)
    assert found["units"] == 4
    assert found["log_sd_shift"] == columns_of(b[1:], a[1:])["log_sd_shift"]
    assert found == pytest.approx(slow_shift(b.numpy(), a.numpy(), constant_now={0}), rel=1e-12)


def test_where_no_unit_is_left_the_numbers_are_nan():
    found = columns_of(torch.randn(3, 8), torch.ones(3, 8))
    assert found.pop("units") == 0
    assert all(np.isnan(value) for value in found.values())


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_standardized_values_keep_mean_and_sd(placement):
    epochs = train_runs(*study("[shift]", placement=placement, activation="tanh", model="eps: 0", lr="0.5"))
    for (_, tap, _), values in rows(epochs[-1], "shift", 1).items():
        if tap == "standardized":
            assert values["mean_shift_max"] < 1e-6
            assert values["log_sd_shift_max"] < 1e-6
            assert values["moved"] > 1e-3


def test_nothing_moves_without_a_step():
    for values in rows(train_runs(*study("[shift]", lr="1e-30"))[-1], "shift").values():
        assert values.pop("units") > 0
        assert set(values.values()) == {0.0}


def test_without_an_affine_transform_there_is_no_such_row():
    spec, dataset, runs = study("[shift]", "[standardize, full]")
    epoch = train_runs(spec, dataset, runs)[-1]
    for index, run in enumerate(runs):
        assert ("affine" in {tap for _, tap, _ in rows(epoch, "shift", index)}) == run.switches.gamma


def test_steps_read_the_tracked_units_as_units_csv_does():
    spec, dataset, runs = study("{shift: {steps: 3}, activations: {}}")  # six steps an epoch
    for epoch in train_runs(spec, dataset, runs)[1:]:
        for index in range(len(runs)):
            found = rows(epoch, "shift_steps", index)
            steps = sorted({int(step) for step, *_ in found})
            assert steps == [6 * epoch.number - 3, 6 * epoch.number]
            last = {labels[1:]: values for labels, values in found.items() if int(labels[0]) == steps[-1]}
            assert last == rows(epoch, "units", index)


def test_the_table_of_epochs_does_not_depend_on_the_steps():
    found = []
    for measure in ("{shift: {steps: 2}}", "{shift: {}}"):
        outcomes = outcome_of_each(*study(measure))
        found.append({i: [x for x in lines if x.startswith("shift:")] for i, (lines, *_) in outcomes.items()})
    assert found[0] == found[1]
    assert all(lines for lines in found[0].values())


@pytest.mark.parametrize("measure", ["[shift]", "{shift: {steps: 2}}"])
def test_training_is_untouched(measure):
    check_training_is_untouched(measure)


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize(("placement", "probe"), [("pre", 21), ("post", 24)])
def test_alone_equals_stacked(activation, placement, probe):
    check_alone_equals_stacked("{shift: {steps: 4}}", activation, placement=placement, probe=probe)


def test_cadence():
    check_cadence("shift", "shift", start=None)


def test_previous_is_the_reading_before():
    epochs = train_runs(*study("{shift: {every: 2}}", epochs=4))
    found = rows(epochs[4], "shift"), rows(epochs[2], "shift")
    assert found[0]["1", "activation", "previous"] != found[0]["1", "activation", "start"]
    assert found[1]["1", "activation", "previous"] == found[1]["1", "activation", "start"]


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("{shift: {steps: 2}}")


@pytest.mark.parametrize(("batch_size", "every"), [(8, 1), (8, 2), (8, 5), ("full", 1), ("full", 2)])
def test_every_step_is_traced_once(batch_size, every):
    spec, dataset, runs = study(f"{{shift: {{steps: {every}}}}}", batch_size=batch_size, epochs=3)
    per_epoch = runs[0].structure.steps_per_epoch
    found = [
        int(record.labels[0])
        for epoch in train_runs(spec, dataset, runs)
        for record in epoch.records
        if record.table == "shift_steps" and record.labels[1:] == ("1", "preactivation", "0")
    ]
    assert found == [step for step in range(1, 3 * per_epoch + 1) if step % every == 0]
