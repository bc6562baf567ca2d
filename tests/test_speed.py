"""Steps until a loss is reached against a loop over the recorded epochs."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import scipy.stats
from outcomes import only, row_of, study

from bnexp.comparison import speed_records
from bnexp.comparison.speed import first_at
from bnexp.errors import UsageError
from bnexp.results import load_results
from bnexp.sheets import more_sheets

SPEC = "data: digits\nmodel: {norm: [none, full]}\ntrain: {epochs: 10}\nseeds: 6\n"
EPOCHS = np.arange(11.0)
RATE = {"none": 0.2, "full": 0.5}  # the loss falls as exp(−rate·epoch), a little differently for each seed


def loss(norm, seed):
    return np.exp(-RATE[norm] * (1 + 0.05 * math.sin(3 * seed + ord(norm[0]))) * EPOCHS)


def curves(tmp_path, of=loss, column="fit_loss", rows=None, spec=SPEC, outcome=lambda f, s: {"test_accuracy": 0.9}):
    results = study(tmp_path, spec, outcome)
    with (results.folder / "curves.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["run", "epoch", column])
        for norm in RATE:
            for seed in range(6):
                values = of(norm, seed)
                writer.writerows([f"norm={norm},seed={seed}", e, v] for e, v in enumerate(values) if not np.isnan(v))
    if rows is not None:
        meta = json.loads((results.folder / "meta.json").read_text())
        fields = results.spec.settings[0].data.identity
        meta["data"] = [{"name": "digits", "fields": fields, "train_rows": rows}]
        (results.folder / "meta.json").write_text(json.dumps(meta))
    return load_results([results.folder])[0]


def test_first_at_by_hand():
    epochs, values = np.array([0.0, 1.0, 2.0, 4.0]), np.array([8.0, 4.0, 2.0, 0.5])
    assert first_at(epochs, values, 4.0) == 1
    assert first_at(epochs, values, 1.0) == 3  # halfway down in logs, halfway along in epochs
    assert first_at(epochs, values, 9.0) == 0
    assert first_at(epochs, values, 0.4) == math.inf
    assert first_at(epochs, -values, -0.5, falls=False) == 4  # no logs of what is not positive
    assert first_at(np.array([1.0]), np.array([0.1]), 0.2) == 1


def test_speed_up_of_each_seed(tmp_path):
    comparison = only(curves(tmp_path))
    speed = comparison.speed
    assert (speed.unit, speed.note) == ("epochs", "")
    assert speed.target == "fit_loss as low as the last one of its seed's baseline"
    row = row_of(speed.rows, norm="full")
    logs = []
    for seed in range(6):
        target = math.log(loss("none", seed)[-1])
        logs.append(math.log(10) - math.log(target / (math.log(loss("full", seed)[-1]) / 10)))
    mean, half = np.mean(logs), scipy.stats.t.ppf(0.975, 5) * scipy.stats.sem(logs)
    found = row.difference
    assert (found.center, found.low, found.high) == pytest.approx(
        tuple(map(math.exp, (mean, mean - half, mean + half))), rel=1e-6
    )
    assert row.n_learned == 6
    assert row_of(speed.rows, norm="none").estimate.center == pytest.approx(10)
    record = next(record for record in speed_records(comparison) if record["norm"] == "full")
    assert record["equal_within"] == max(found.high, 1 / found.low)
    assert more_sheets(comparison)[-1].heads[-1].name == "equal within"


def test_steps_are_counted_where_the_rows_are_known(tmp_path):
    results = curves(tmp_path, rows=320)
    speed = only(results).speed
    assert speed.unit == "steps"
    assert row_of(speed.rows, norm="none").estimate.center == pytest.approx(100)  # 10 epochs of 10 minibatches of 32
    assert set(results.steps_per_epoch().values()) == {10}


def test_a_run_that_never_gets_there_is_censored_and_not_dropped(tmp_path):
    def slow(norm, seed):
        return loss(norm, seed) if norm == "none" or seed < 4 else np.full(11, 0.9)

    row = row_of(only(curves(tmp_path, slow)).speed.rows, norm="full")
    assert (row.n, row.n_learned) == (6, 4)
    assert row.difference.kind == "median speed-up"
    assert row.difference.low == 0.0  # the smallest of six: it never got there
    assert row.p_sign is not None
    assert row.p_sign_flip is None
    assert "2 of 6 did not get there" in row.note


def test_a_diverged_run_never_gets_there(tmp_path):
    lost = {"status": "diverged", "learned": "false", "diverged_epoch": 3}
    results = curves(tmp_path, outcome=lambda f, s: lost if (f["norm"], s) == ("full", 0) else {"test_accuracy": 0.9})
    row = row_of(only(results).speed.rows, norm="full")
    assert (row.n, row.n_learned, row.n_failed) == (6, 5, 1)


LOST = {"status": "diverged", "learned": "false", "diverged_epoch": 9}


def test_a_run_that_diverges_after_the_threshold_never_got_there(tmp_path):
    results = curves(tmp_path, outcome=lambda f, s: LOST if f["norm"] == "full" else {"test_accuracy": 0.9})
    row = row_of(only(results, until="fit_loss<=0.5").speed.rows, norm="full")
    assert (row.n, row.n_learned, row.n_diverged, row.estimate.center) == (6, 0, 6, 10.0)
    assert "6 of 6 diverged and count the whole budget" in row.note


def test_a_baseline_that_diverged_is_ranked_slowest_and_not_dropped(tmp_path):
    lost = {("none", 0), ("none", 1)}
    results = curves(tmp_path, outcome=lambda f, s: LOST if (f["norm"], s) in lost else {"test_accuracy": 0.9})
    row = row_of(only(results).speed.rows, norm="full")
    assert (row.n, row.n_learned, row.n_missing, row.difference.n) == (6, 6, 0, 6)
    assert row.difference.kind == "median speed-up"
    assert row.difference.high == math.inf
    assert "the baseline diverged in 2 of 6: no target there" in row.note
    assert row.estimate is None


def test_a_baseline_that_did_not_learn_is_said(tmp_path):
    idle = {"test_accuracy": 0.1, "learned": "false"}
    results = curves(tmp_path, outcome=lambda f, s: idle if f["norm"] == "none" else {"test_accuracy": 0.9})
    assert "the baseline did not learn in 6 of 6" in row_of(only(results).speed.rows, norm="full").note


def test_the_minibatch_loss_stands_in_and_says_so(tmp_path):
    speed = only(curves(tmp_path, column="train_loss")).speed
    assert speed.target.startswith("train_loss")
    assert "fit_every: 1" in speed.note


def test_two_points_are_no_curve(tmp_path):
    def ends(norm, seed):
        return np.where((EPOCHS == 0) | (EPOCHS == 10), loss(norm, seed), np.nan)

    assert only(curves(tmp_path, ends)).speed is None


def test_a_fixed_threshold_has_one_budget(tmp_path):
    results = curves(tmp_path, rows=320)
    speed = only(results, until="fit_loss<=0.05").speed
    assert speed.budget == 100
    for norm in RATE:
        rates = -np.log([loss(norm, seed)[-1] for seed in range(6)]) / 10
        steps = np.minimum(-math.log(0.05) / rates * 10, 100)
        row = row_of(speed.rows, norm=norm)
        assert row.estimate.center == pytest.approx(steps.mean(), rel=1e-6)
        assert row.n_learned == sum(-math.log(0.05) / rates <= 10)
    assert row_of(speed.rows, norm="none").n_learned == 0
    assert row_of(speed.rows, norm="full").difference.scale == "raw"


def test_a_threshold_that_is_none_says_so(tmp_path):
    results = curves(tmp_path)
    for text, message in (
        ("fit_loss", "a column of curves.csv and a number"),
        ("fit_los<=1", "did you mean .fit_loss"),
    ):
        with pytest.raises(UsageError, match=message):
            only(results, until=text)


def test_two_readings_of_many_epochs_are_no_curve_for_a_threshold(tmp_path):
    def ends(norm, seed):
        return np.where((EPOCHS == 0) | (EPOCHS == 10), loss(norm, seed), np.nan)

    with pytest.raises(UsageError, match="fit_loss is recorded at 2 epochs, which is no curve; fit_every: 1"):
        only(curves(tmp_path, ends), until="fit_loss<=0.1")


def test_an_accuracy_is_a_share(tmp_path):
    results = curves(tmp_path, column="test_accuracy")
    with pytest.raises(UsageError, match="from 0 to 1"):
        only(results, until="test_accuracy>=90")


def test_who_was_there_at_the_first_reading_has_a_bound(tmp_path):
    def fast(norm, seed):
        values = loss(norm, seed) if norm == "none" else np.full(11, 1e-6)
        return np.where(EPOCHS == 0, np.nan, values)

    row = row_of(only(curves(tmp_path, fast, column="train_loss")).speed.rows, norm="full")
    assert "6 of 6 got there before the first reading: their steps are at most these" in row.note


def test_odd_curves_are_one_message_or_no_table(tmp_path):
    nothing = curves(tmp_path, lambda norm, seed: np.full(11, np.nan))
    comparison = only(nothing, until="fit_loss<=1")
    assert comparison.speed is None
    path = nothing.folder / "curves.csv"
    path.write_text(path.read_text().replace("fit_loss", "odd") + '"norm=none,seed=0",1,x\n')
    with pytest.raises(UsageError, match="no column 'odd'"):
        only(load_results([nothing.folder])[0], until="odd<=1")


def test_a_pair_of_which_one_side_is_missing_is_said(tmp_path):
    results = curves(tmp_path, outcome=lambda f, s: None if (f["norm"], s) == ("none", 5) else {"test_accuracy": 0.9})
    row = row_of(only(results).speed.rows, norm="full")
    assert (row.n, row.n_missing) == (5, 1)
    assert row.note == "1 seeds have not finished on both sides"
