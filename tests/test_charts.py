"""From results to charts: which runs share a panel, means and bands, what is left out and said."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from studies import EPOCHS, accuracy, study
from test_experiment import Silent
from tools import make_spec

from bnexp import chart_parts, charts, rendering
from bnexp.aggregates import bands, chosen_rates, cut, measured, rates_by_training, telling_rate, thinned
from bnexp.chart_parts import Grid, Quantity
from bnexp.comparison import compare_runs
from bnexp.data import load_dataset
from bnexp.experiment import Request, run_experiment
from bnexp.figures import figures_of
from bnexp.loading import load_spec
from bnexp.results import load_results
from bnexp.spec import NORMS

SPEC = """
name: small
data: digits
model: {norm: [none, standardize, full]}
train: {lr: [0.1, 0.3, 1], epochs: 3}
seeds: 3
"""
PLACED = """
name: placed
data: digits
model: {norm: [none, full], placement: [pre, post], activation: [tanh, relu]}
train: {lr: 0.1, epochs: 3}
seeds: 2
"""
ALL = ("curves", "activations", "units", "parameters")


def first(results):
    return compare_runs(results)[0]


def rows_of(spec):
    """Every row of data in a chart's spec."""
    return [row for rows in spec["datasets"].values() for row in rows]


# --- aggregates -------------------------------------------------------------------------------------------------------


def test_bands_are_t_intervals_and_geometric_on_the_log_scale():
    values = [0.5, 0.7, 1.1]
    frame = pd.DataFrame({"norm": "full", "epoch": 1, "loss": values})
    (plain,) = bands(frame, ["norm", "epoch"], "loss").to_dict("records")
    expected = scipy.stats.t.interval(0.95, 2, np.mean(values), scipy.stats.sem(values))
    assert plain["n"] == 3
    assert (plain["low"], plain["high"]) == pytest.approx(expected)
    (log,) = bands(frame, ["norm", "epoch"], "loss", log=True).to_dict("records")
    assert log["mean"] == pytest.approx(scipy.stats.gmean(values))
    logs = np.log(values)
    expected = np.exp(scipy.stats.t.interval(0.95, 2, logs.mean(), scipy.stats.sem(logs)))
    assert (log["low"], log["high"]) == pytest.approx(tuple(expected))


def test_bands_leave_out_points_without_a_finite_mean_and_give_one_run_no_band():
    frame = pd.DataFrame({"epoch": [0, 1, 1, 2, 2, 3], "loss": [0.5, 0.5, 0.0, math.inf, 1.0, math.nan]})
    found = bands(frame, ["epoch"], "loss", log=True)
    assert found["epoch"].tolist() == [0]
    assert found["low"].isna().all()


def test_thinned_keeps_the_ends():
    frame = pd.DataFrame({"epoch": range(1000)})
    kept = thinned(frame, 60)["epoch"].tolist()
    assert (kept[0], kept[-1], len(kept)) == (0, 999, 60)
    assert thinned(frame, 1000) is frame


def test_blocks_hold_none_at_every_placement(tmp_path):
    results = study(tmp_path / "s", PLACED)
    parts = cut(results, first(results))
    assert list(parts.blocks) == [
        "activation tanh, placement pre",
        "activation tanh, placement post",
        "activation relu, placement pre",
        "activation relu, placement post",
    ]
    counts = parts.runs.groupby(["block", "norm"]).size()
    assert set(counts) == {2}
    assert len(counts) == 8
    assert parts.rates == ()
    assert parts.blocks_of({"norm": "none", "placement": "–", "activation": "tanh"}) == list(parts.blocks)[:2]
    assert parts.blocks_of({"norm": "full", "placement": "post", "activation": "relu"}) == list(parts.blocks)[3:]


def test_a_field_of_which_each_norm_has_one_value_divides_nothing(tmp_path):
    text = """
name: own
data: digits
variants:
  - {model: {norm: none}, train: {lr: 3}}
  - {model: {norm: affine, gamma_init: standardize, beta_init: standardize}, train: {lr: 0.3}}
seeds: 2
"""
    results = study(tmp_path / "s", text)
    parts = cut(results, first(results))
    assert list(parts.blocks) == [""]
    assert parts.rates == ()


def test_diverged_runs_are_in_no_line(tmp_path):
    results = study(tmp_path / "s", SPEC, lambda setting, seed: "diverged" if seed == 1 else "done")
    parts = cut(results, first(results))
    frame = measured(results, "curves", parts.runs)
    assert set(frame["seed"]) == {0, 2}
    assert measured(results, "units", parts.runs) is None


def test_the_telling_rate_is_the_middle_of_those_where_most_learned(tmp_path):
    results = study(tmp_path / "s", SPEC)
    assert telling_rate(cut(results, first(results)).runs) == "0.3"
    results = study(
        tmp_path / "t", SPEC, lambda s, seed: "idle" if s.train.lr < 1 and s.model.norm == "none" else "done"
    )
    assert telling_rate(cut(results, first(results)).runs) == "1"


def test_rates_are_chosen_by_validation_and_else_by_training_never_by_test(tmp_path):
    results = study(tmp_path / "s", SPEC)
    parts = cut(results, first(results))
    assert set(chosen_rates(parts, first(results)).values()) == {"0.3"}
    fails = study(tmp_path / "t", SPEC, lambda setting, seed: "idle" if setting.train.lr == 0.3 else "done")
    assert "0.3" not in rates_by_training(fails, cut(fails, first(fails)).runs).values()


# --- figures ----------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_study(tmp_path):
    results = study(tmp_path / "s", SPEC, tables=ALL)
    figures, left_out = figures_of(results, first(results))
    names = ["accuracy", "loss", "learning-rate", "activations", "unit", "parameters"]
    assert [figure.name for figure in figures] == names
    assert left_out == []
    for figure in figures:
        assert figure.first.caption
        assert figure.first.alt
        assert "n = 3 runs each" in figure.first.caption or figure.name == "unit"
        json.dumps(figure.first.spec, allow_nan=False)
    said = {figure.name: figure.first.caption for figure in figures}
    assert "one panel per learning rate" in said["loss"]
    assert said["activations"].startswith("At lr 0.3. The activation")
    assert "seed 0" in said["unit"]
    assert "unit 0 of layer 2" in said["unit"]


def test_lines_are_means_over_seeds(tmp_path):
    results = study(tmp_path / "s", SPEC)
    figure = next(f for f in figures_of(results, first(results))[0] if f.name == "accuracy")
    rows = [r for r in rows_of(figure.first.spec) if (r["norm"], r["lr"], r["epoch"]) == ("full", "1", 3)]
    settings = load_spec(tmp_path / "s" / "spec.yaml").settings
    setting = next(s for s in settings if (s.model.norm, s.train.lr) == ("full", 1))
    assert len(rows) == 1
    assert rows[0]["mean"] == pytest.approx(np.mean([accuracy(setting, seed) for seed in range(3)]), rel=1e-4)
    assert [r["panel"] for r in rows] == ["lr 1"]


def test_panels_say_which_runs_are_in_no_line(tmp_path):
    def status(setting, seed):
        if setting.train.lr == 1 and setting.model.norm == "full":
            return "diverged" if seed else "pending"
        return "done"

    results = study(tmp_path / "s", SPEC, status)
    figure = figures_of(results, first(results))[0][0]
    heads = {row["panel"] for row in rows_of(figure.first.spec)}
    assert heads == {"lr 0.1", "lr 0.3", "lr 1\ndiverged: full 2 of 3\nunfinished: full 1 of 3"}
    assert "in no line" in figure.first.caption


def test_many_rates_become_one_panel_at_the_best(tmp_path):
    text = SPEC.replace("[0.1, 0.3, 1]", "[0.01, 0.03, 0.1, 0.3, 1, 3, 10]")
    results = study(tmp_path / "s", text)
    figure = figures_of(results, first(results))[0][0]
    assert {row["panel"] for row in rows_of(figure.first.spec)} == {""}
    assert (
        "each norm at its best learning rate, chosen by validation accuracy for most seeds: lr 0.3 for all"
        in figure.first.caption
    )


def test_many_blocks_are_limited_and_said(tmp_path):
    text = PLACED.replace("activation: [tanh, relu]", "hidden: [[8], [16], [32], [64], [8, 8]], activation: tanh")
    results = study(tmp_path / "s", text, tables=ALL)
    figures, left_out = figures_of(results, first(results))
    assert len({row["panel"] for row in rows_of(figures[0].first.spec)}) == 8
    assert any("2 of 10 combinations are not drawn" in text for text in left_out)
    assert any("drawn for the first 4 of 10 combinations" in text for text in left_out)


def test_the_rate_picture_has_the_comparisons_numbers(tmp_path):
    def status(setting, seed):
        return "idle" if (setting.model.norm, setting.train.lr) == ("none", 0.1) else "done"

    results = study(tmp_path / "s", SPEC, status)
    comparison = first(results)
    figure = next(f for f in figures_of(results, comparison)[0] if f.name == "learning-rate")
    above, below = (figure.first.spec["datasets"][part["data"]["name"]] for part in figure.first.spec["vconcat"])
    drawn = {(row["norm"], row["rate"]): row for row in above}
    shares = {(row["norm"], row["rate"]): row["mean"] for row in below}
    for row in comparison.rows:
        place = (row.setting["norm"], float(row.setting["lr"]))
        assert shares[place] == row.n_learned / row.n
        if place == ("none", 0.1):
            assert place not in drawn
        else:
            assert drawn[place]["mean"] == pytest.approx(row.estimate.center, rel=1e-4)
            assert drawn[place]["low"] == pytest.approx(row.estimate.low, rel=1e-4)
    assert "not drawn: none at 0.1 (10.1 %)" in figure.first.caption


def test_the_unit_figure_reads_what_the_activation_is_given(tmp_path):
    results = study(tmp_path / "s", SPEC, tables=ALL)
    figure = next(f for f in figures_of(results, first(results))[0] if f.name == "unit")
    medians = {row["norm"]: row["p50"] for row in rows_of(figure.first.spec)}
    assert medians == {"none": 0, "standardize": 1, "full": 2}  # preactivation, standardized, affine: their places
    assert len(rows_of(figure.first.spec)) == 3 * len(EPOCHS)


def test_the_unit_figure_after_the_activation_reads_the_preactivation(tmp_path):
    text = SPEC.replace("[none, standardize, full]}", "[none, full], placement: post}")
    results = study(tmp_path / "s", text, tables=ALL)
    figure = next(f for f in figures_of(results, first(results))[0] if f.name == "unit")
    assert {row["p50"] for row in rows_of(figure.first.spec)} == {0}


def test_few_epochs_and_no_tables_are_said(tmp_path):
    results = study(tmp_path / "s", SPEC, lambda setting, seed: "diverged" if seed else "done", tables=("curves",))
    assert [f.name for f in figures_of(results, first(results))[0]] == ["accuracy", "loss", "learning-rate"]
    waiting = study(tmp_path / "t", SPEC, lambda setting, seed: "pending")
    assert figures_of(waiting, first(waiting)) == ([], [])


# --- charts -----------------------------------------------------------------------------------------------------------


def test_every_norm_has_its_own_look():
    assert set(chart_parts.STYLES) == set(NORMS)
    for field in ("color", "dash", "shape"):
        assert len({getattr(style, field) for style in chart_parts.STYLES.values()}) == len(NORMS)


def lines(**columns):
    return pd.DataFrame({"panel": "a", "norm": ["none", "full"] * 2, "epoch": [0, 0, 1, 1], "n": 2, **columns})


def test_log_axes_have_decades_and_numbers_stay_short():
    frame = lines(mean=[1.23456789, 0.01, 0.5, 1e-5], low=[0.5, math.nan, 0.1, -math.inf], high=[2.0, 0.1, 1.0, 0.1])
    spec = charts.to_spec(charts.curves(frame, Quantity(("loss",), log=True), Grid(1, 100, 100)))
    rows = rows_of(spec)
    assert [row["mean"] for row in rows] == [1.2346, 0.01, 0.5, 1e-05]
    assert [row["low"] for row in rows] == [0.5, None, 0.1, None]
    axis = spec["spec"]["layer"][1]["encoding"]["y"]["axis"]
    assert axis["values"] == [1e-05, 1e-04, 0.001, 0.01, 0.1, 1]


@pytest.mark.parametrize("percent", [True, False])
def test_wide_bands_do_not_squeeze_the_means(percent):
    frame = lines(mean=[0.9, 0.91, 0.92, 0.95], low=[-9.0] * 4, high=[9.0] * 4)
    spec = charts.to_spec(charts.curves(frame, Quantity(("accuracy",), percent=percent), Grid(1, 100, 100)))
    low, high = spec["spec"]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0.8 < low < 0.9
    assert 0.95 < high < 1.05


def test_equal_values_still_have_an_axis():
    frame = lines(mean=[0.0] * 4, low=[0.0] * 4, high=[0.0] * 4)
    spec = charts.to_spec(charts.curves(frame, Quantity(("mean",)), Grid(1, 100, 100)))
    low, high = spec["spec"]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < 0 < high


@pytest.mark.parametrize(("kind", "start"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_files(kind, start):
    spec = charts.to_spec(charts.curves(lines(mean=1.0, low=0.5, high=1.5), Quantity(("loss",)), Grid(1, 100, 100)))
    assert rendering.to_file(rendering.to_svg(spec), kind, 84).startswith(start)


def test_svgs_for_a_page_have_their_own_ids_and_escape_their_texts():
    frame = lines(mean=1.0, low=0.5, high=1.5).assign(panel="<script>alert(1)</script>")
    spec = charts.to_spec(charts.curves(frame, Quantity(("loss",)), Grid(1, 100, 100)))
    svg = rendering.for_page(rendering.to_svg(spec), "f1")
    assert svg.startswith("<svg")
    assert "<script" not in svg
    assert 'opacity="0"' not in svg
    ids = [part.split('"')[0] for part in svg.split(' id="')[1:]]
    assert ids
    assert all(name.startswith("f1-") for name in ids)
    assert "url(#f1-" in svg
    assert "url(#clip" not in svg
    coordinates = re.findall(r"\d+\.\d+", " ".join(re.findall(r' d="([^"]*)"', svg)))
    assert coordinates
    assert all(len(one.split(".")[1]) == 1 for one in coordinates)


def test_fits_are_drawn_over_the_data(tmp_path):
    spec = make_spec(
        "name: fit\ndata: {name: bump, samples: 16, validation: 0}\nmodel: {hidden: [4], norm: [none, gamma]}\n"
        "train: {epochs: 2, batch_size: full}\nseeds: 2\nmeasure: [predictions]"
    )
    run_experiment(spec, Request(out=tmp_path / "fit"), Silent())
    results = load_results([tmp_path / "fit"])[0]
    figure = next(f for f in figures_of(results, first(results))[0] if f.name == "fits")
    (rows,) = figure.first.spec["datasets"].values()
    for norm in ("none", "gamma"):
        dots = [row for row in rows if row["dot"] and row["panel"] == norm]
        data = load_dataset(spec.settings[0].data).train
        assert [row["y"] for row in dots] == pytest.approx(data.targets.tolist(), rel=1e-4)
        lines = [row for row in rows if not row["dot"] and row["panel"] == norm]
        assert len(lines) == 2 * 201
        assert {row["seed"] for row in lines} == {0, 1}
    drawn = results.table("predictions")
    assert sorted(row["y"] for row in rows if not row["dot"]) == pytest.approx(
        sorted(drawn["value_population"]), rel=1e-4, abs=1e-6
    )


def test_no_fits_without_predictions_or_for_two_features(tmp_path):
    for measure, data in (("activations", "bump"), ("predictions", "xor")):
        spec = make_spec(
            f"name: fit\ndata: {{name: {data}, samples: 16, validation: 0}}\nmodel: {{hidden: [4]}}\n"
            f"train: {{epochs: 1, batch_size: full}}\nseeds: 2\nmeasure: [{measure}]"
        )
        run_experiment(spec, Request(out=tmp_path / data), Silent())
        results = load_results([tmp_path / data])[0]
        assert "fits" not in [f.name for f in figures_of(results, first(results))[0]]
