"""Figures of the measures: the numbers drawn are what pandas makes of the CSVs, and what is left out is said."""

from __future__ import annotations

import math

import altair as alt
import numpy as np
import pytest
import scipy.stats
from jsonschema import ValidationError
from test_experiment import Silent
from tools import make_spec

from bnexp.aggregates import cut, telling_rate
from bnexp.comparison import compare_runs
from bnexp.experiment import Request, run_experiment
from bnexp.figures import figures_of
from bnexp.results import load_results

SPEC = """
name: small
data: {name: digits, subset: 64}
model: {hidden: [8, 8], activation: sigmoid}
train: {epochs: 4, lr: [0.1, 1]}
variants:
  - model: {norm: [none, full]}
  - model: {norm: [standardize, full], placement: post}
seeds: 3
measure:
  shift: {steps: 1}
  ics: {}
  landscape: {relative: 0.1}
  identity: {every: 1}
  rank: {}
  gradients: {}
  activations: {}
  parameters: {}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measures") / "small"
    run_experiment(make_spec(SPEC), Request(out=folder), Silent())
    return load_results([folder])[0]


@pytest.fixture(scope="module")
def figures(results):
    made, left_out = figures_of(results, compare_runs(results)[0])
    assert not any("No figure" in text for text in left_out)
    return {figure.name: figure for figure in made}


def view_of(figure, *picked):
    return next(view for view in figure.views if view.picked == picked)


def expected(values):
    """Geometric mean and its 95 % interval."""
    logs = np.log(values.astype(float))
    return np.exp([logs.mean(), *scipy.stats.t.interval(0.95, len(logs) - 1, logs.mean(), scipy.stats.sem(logs))])


def table(results, name, **where):
    frame = results.table(name).merge(results.runs[["run", "norm", "placement", "lr"]], on="run")
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def drawn(view, quantity, panel, epoch, **line):
    frame = view.data[(view.data["panel"] == panel) & (view.data["epoch"] == epoch)]
    frame = frame[frame["quantity"].str.startswith(quantity)] if quantity else frame
    for column, value in line.items():
        frame = frame[frame[column] == value]
    (row,) = frame.to_dict("records")
    assert row["n"] == 3
    return [row["mean"], row["low"], row["high"]]


@pytest.mark.parametrize(("column", "title"), [("moved_mean", "Δmean²"), ("moved_reshuffle", "reshuffling")])
@pytest.mark.parametrize(("since", "words"), [("start", "the start"), ("previous", "the reading before")])
def test_shift_draws_what_the_next_layer_receives(results, figures, column, title, since, words):
    where = {"epoch": 3, "layer": 2, "since": since, "lr": 1}
    pre = table(results, "shift", norm="full", placement="pre", tap="activation", **where)
    view = view_of(figures["shift"], "placement pre", "1", words)
    assert drawn(view, title, "layer 2", 3, norm="full") == pytest.approx(list(expected(pre[column])))
    assert "placement pre, lr 1" in view.caption
    assert figures["shift"].choices["since"] == ("the start", "the reading before")
    assert figures["shift"].choices["setting"] == ("placement pre", "placement post")


def test_what_is_nothing_but_rounding_is_not_drawn_but_named(results, figures):
    view = view_of(figures["shift"], "placement post", "1", "the start")
    post = table(results, "shift", norm="standardize", tap="standardized", since="start", lr=1)
    assert post["moved_mean"].max() < 1e-9
    assert "the mean of standardize" in view.caption
    lines = view.data[view.data["quantity"].str.startswith("Δmean²")]
    assert set(lines["norm"]) == {"none", "full"}
    assert (post["moved_reshuffle"] > 1e-9).any()
    assert set(view.data[view.data["quantity"].str.startswith("reshuffling")]["norm"]) == {
        "none",
        "standardize",
        "full",
    }


def test_one_unit_is_drawn_by_steps_where_these_were_recorded(results, figures):
    view = next(view for view in figures["unit"].views if view.picked[:2] == ("placement post", "1"))
    unit = int(view.picked[2])
    rows = table(results, "shift_steps", norm="full", placement="post", tap="preactivation", layer=2, unit=unit, lr=1)
    rows = rows[rows["run"] == rows["run"].iloc[0]]
    drawn = view.data[view.data["norm"] == "full"]
    assert drawn["step"].tolist() == rows["step"].tolist()
    assert drawn["p85"].tolist() == rows["p85"].tolist()
    assert "this figure epochs" not in view.caption
    assert figures["unit"].choices["unit"] == ("0", "2", "5", "7")


def test_ics_is_relative_and_absolute_from_the_second_layer_on(results, figures):
    rows = table(results, "ics", norm="none", layer=3, epoch=2, lr=0.1)
    view = view_of(figures["ics"], "placement pre", "0.1")
    assert set(view.data["panel"]) == {"layer 2", "layer 3"}
    assert drawn(view, "relative", "layer 3", 2, norm="none") == pytest.approx(list(expected(rows["relative"])))
    assert drawn(view, "absolute", "layer 3", 2, norm="none") == pytest.approx(list(expected(rows["difference"])))


@pytest.mark.parametrize(
    ("name", "column", "quantity", "tap"),
    [("rank", "effective_rank_centered", "centred", "activation"), ("gradients", "gradient_square", "∑", None)],
)
def test_rank_and_gradients_by_layer(results, figures, name, column, quantity, tap):
    where = {"tap": tap} if tap else {}
    rows = table(results, name, norm="none", layer=2, epoch=4, lr=1, **where)[column]
    view = view_of(figures[name], "placement pre", "1")
    mean = drawn(view, quantity, "layer 2", 4, norm="none")[0]
    assert mean == pytest.approx(rows.mean() if name == "rank" else expected(rows)[0])
    assert ("geometric" in view.caption) == (name == "gradients")


def test_a_table_of_the_start_alone_is_drawn_from_layer_to_layer(tmp_path):
    text = SPEC.split("measure:")[0].replace("epochs: 4", "epochs: 0").replace("[8, 8]", "[8, 8, 8]")
    run_experiment(make_spec(text + "measure: [gradients]"), Request(out=tmp_path / "s"), Silent())
    found = load_results([tmp_path / "s"])[0]
    made = {figure.name: figure for figure in figures_of(found, compare_runs(found)[0])[0]}
    view = view_of(made["gradients"], "placement pre", "1")
    rows = table(found, "gradients", norm="full", placement="pre", lr=1, layer=3)
    (row,) = view.data[(view.data["norm"] == "full") & (view.data["layer"] == 3)].to_dict("records")
    assert [row["mean"], row["low"], row["high"]] == pytest.approx(list(expected(rows["gradient_square"])))
    assert sorted(set(view.data["layer"])) == [1, 2, 3, 4]
    assert set(view.data["panel"]) == {"epoch 0"}


def test_landscape_has_both_steps_and_the_range_of_the_loss_per_run(results, figures):
    figure = figures["landscape"]
    assert figure.choices["step length"] == ("the learning rate", "relative to the weights")
    rows = table(results, "landscape", norm="full", placement="pre", step_rule="relative", epoch=4, lr=1)
    view = view_of(figure, "placement pre", "relative to the weights")
    assert list(dict.fromkeys(view.data["panel"])) == ["lr 0.1", "lr 1"]
    spread = rows["loss_max"] - rows["loss_min"]
    assert drawn(view, "loss", "lr 1", 4, norm="full") == pytest.approx(list(expected(spread)))
    smooth = expected(rows["effective_smoothness"])
    assert drawn(view, "greatest change per distance", "lr 1", 4, norm="full") == pytest.approx(list(smooth))


def test_identity_draws_residuals_by_kind_not_by_norm(results, figures):
    figure = figures["identity"]
    rows = table(results, "identity", norm="full", placement="pre", layer=2, epoch=4)
    rows = rows[rows["lr"] == figures_rate(results)]
    view = view_of(figure, "2")
    assert set(view.data["line"]) == {"minibatches", "expected of minibatches", "γ = SD", "full batch"}
    panel = next(panel for panel in view.data["panel"] if "pre" in panel)
    got = drawn(view, "", panel, 4, line="minibatches")
    assert got == pytest.approx(list(expected(rows["minibatch"])))
    assert view.spec["params"][0]["select"]["fields"] == ["line"]


def figures_rate(results):
    """The learning rate of the figures that show one."""
    parts = cut(results, compare_runs(results)[0])
    return float(telling_rate(parts.runs[parts.runs["block"] == next(iter(parts.blocks))]))


def test_drift_is_of_gamma_and_of_beta(results, figures):
    figure = figures["drift"]
    assert figure.choices == {"parameter": ("γ", "β"), "layer": ("1", "2")}
    rows = table(results, "identity", norm="full", placement="pre", layer=1, epoch=4)
    values = rows[rows["lr"] == figures_rate(results)]["beta_from_mean"]
    view = view_of(figure, "β", "1")
    panel = next(iter(view.data["panel"]))
    mean, _, high = drawn(view, "", panel, 4, line="from the identity")
    assert mean == pytest.approx(values.mean())
    assert high == pytest.approx(scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))[1])


def test_runs_that_diverged_are_in_no_line_and_counted(results):
    gone = results.runs["run"][results.runs["norm"] == "full"].iloc[0]
    runs = results.runs.copy()
    runs.loc[runs["run"] == gone, "status"] = "diverged"
    changed = type(results)(results.folder, results.spec, results.meta, runs, results.parts)
    rate = str(runs.loc[runs["run"] == gone, "lr"].iloc[0]).removesuffix(".0")
    made = {figure.name: figure for figure in figures_of(changed, compare_runs(changed)[0])[0]}
    view = view_of(made["ics"], "placement pre", rate)
    assert view.data[view.data["norm"] == "full"]["n"].eq(2).all()
    assert "1 of 6 runs diverged or are not finished" in view.caption


def test_infinite_points_are_left_out_and_counted(results):
    frame = results.table("landscape")
    hit = (frame["epoch"] == 2) & (frame["step_rule"] == "lr")
    changed = frame.assign(loss_max=frame["loss_max"].mask(hit, math.inf))
    copied = load_results([results.folder])[0]
    copied._read["landscape"] = changed
    made = {figure.name: figure for figure in figures_of(copied, compare_runs(copied)[0])[0]}
    view = view_of(made["landscape"], "placement pre", "the learning rate")
    assert 2 not in set(view.data[view.data["quantity"].str.startswith("loss")]["epoch"])
    assert "4 points are left out" in view.caption


def test_measures_that_were_not_recorded_have_no_figure(tmp_path):
    spec = make_spec(SPEC.split("measure:")[0].replace("epochs: 4", "epochs: 1") + "measure: {}")
    run_experiment(spec, Request(out=tmp_path / "s"), Silent())
    found = load_results([tmp_path / "s"])[0]
    names = {figure.name for figure in figures_of(found, compare_runs(found)[0])[0]}
    assert not names & {"shift", "ics", "landscape", "identity", "drift"}


def test_all_views_of_a_figure_stay_small(figures):
    for figure in figures.values():
        assert sum(len(view.data) for view in figure.views) <= 6000
        assert len(figure.views) <= 24
        assert len({view.picked for view in figure.views}) == len(figure.views)


def test_charts_are_valid_vega_lite(figures):
    """Charts are not checked while a page is written."""
    for figure in figures.values():
        alt.Chart.from_dict(dict(figure.first.spec))
    with pytest.raises(ValidationError, match="not of type 'array'"):
        alt.Chart.from_dict({**figures["ics"].first.spec, "params": "none"})


def test_the_numbers_beside_a_figure_are_those_in_its_spec(figures):
    for figure in figures.values():
        for view in figure.views:
            rows = [row for rows in view.spec["datasets"].values() for row in rows]
            column = "mean" if "mean" in view.data else "p50"
            assert [row[column] for row in rows] == pytest.approx(view.data[column].tolist(), rel=1e-4)
