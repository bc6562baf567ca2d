"""Learning curves: what is shown first, which views there are, and the numbers in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from studies import study

from bnexp import figures_training
from bnexp.comparison import compare_runs
from bnexp.figures import figures_of

SPEC = """
name: small
data: digits
model: {norm: [none, full]}
train: {lr: [0.1, 1], epochs: 3}
seeds: 4
"""
LOSS = [2.3, 1.1, 0.4, 0.2]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study whose curves.csv has losses and accuracies of every split, by a formula."""
    found = study(tmp_path_factory.mktemp("curves") / "s", SPEC)
    rows = []
    for index, run in enumerate(found.runs["run"]):
        for epoch, loss in enumerate(LOSS):
            split = {"train": 1.0, "val": 1.2, "test": 1.4}
            losses = {f"{name}_loss": loss * by * (1 + 0.3 * (index % 5)) for name, by in split.items()}
            right = {f"{name}_accuracy": 1 / (1 + value) for name, value in zip(split, losses.values(), strict=True)}
            rows.append({"run": run, "epoch": epoch, **losses, **right})
    pd.DataFrame(rows).to_csv(found.folder / "curves.csv", index=False)
    found._read.clear()
    return found


@pytest.fixture(scope="module")
def figures(results):
    return {figure.name: figure for figure in figures_of(results, compare_runs(results)[0])[0]}


def view_of(figure, *picked):
    return next(view for view in figure.views if view.picked == picked)


def test_what_was_compared_stands_first(figures):
    assert list(figures)[:2] == ["accuracy", "loss"]
    assert figures["accuracy"].first.picked == ("test", "linear")
    assert figures["loss"].first.picked == ("training", "log")
    assert figures["accuracy"].choices == {"rows": ("training", "validation", "test"), "scale": ("linear",)}
    assert figures["loss"].choices == {"rows": ("training", "validation", "test"), "scale": ("log", "linear")}
    assert len(figures["accuracy"].views) == 3
    assert len(figures["loss"].views) == 6


@pytest.mark.parametrize(("split", "column"), [("training", "train"), ("validation", "val"), ("test", "test")])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_losses_are_geometric_means_on_the_log_scale_and_means_on_the_linear_one(
    results, figures, split, column, scale
):
    curves = results.table("curves").merge(results.runs[["run", "norm", "lr"]], on="run")
    values = curves[(curves["norm"] == "full") & (curves["lr"] == 1) & (curves["epoch"] == 2)][f"{column}_loss"]
    scaled, back = (np.log(values), np.exp) if scale == "log" else (values, float)
    low, high = scipy.stats.t.interval(0.95, len(values) - 1, scaled.mean(), scipy.stats.sem(scaled))
    view = view_of(figures["loss"], split, scale)
    (drawn,) = view.data[
        (view.data["panel"] == "lr 1") & (view.data["norm"] == "full") & (view.data["epoch"] == 2)
    ].to_dict("records")
    assert drawn["n"] == 4
    assert (drawn["mean"], drawn["low"], drawn["high"]) == pytest.approx((back(scaled.mean()), back(low), back(high)))
    (rows,) = view.spec["datasets"].values()
    assert [row["mean"] for row in rows] == pytest.approx(list(view.data["mean"]), rel=1e-4)
    assert view.caption.startswith(f"{split.capitalize()} loss")
    assert ("geometric means" in view.caption) == (scale == "log")


def test_the_metric_itself_may_be_a_loss_of_all_training_rows(results):
    (comparison,) = compare_runs(results, metric="train_loss")
    first, second = figures_of(results, comparison)[0][:2]
    assert (first.name, first.first.picked, second.name) == ("loss", ("training", "log"), "accuracy")
    columns = figures_training._columns("fit_loss", "loss", pd.DataFrame({"fit_loss": [1.0], "train_loss": [1.0]}))
    assert columns == {"fit_loss": "all training rows", "train_loss": "training"}
    columns = figures_training._columns("test_loss_batch", "loss", pd.DataFrame({"test_loss_batch": [1.0]}))
    assert columns == {"test_loss_batch": "test, batch statistics"}


def test_views_that_were_not_recorded_are_not_offered(tmp_path):
    found = study(tmp_path / "s", SPEC)
    (figure,) = [f for f in figures_of(found, compare_runs(found)[0])[0] if f.name == "loss"]
    assert figure.choices == {"rows": ("training",), "scale": ("log", "linear")}


def test_a_loss_of_zero_is_left_out_of_the_log_scale_alone(results, tmp_path):
    found = study(tmp_path / "s", SPEC)
    curves = results.table("curves").copy()
    curves.loc[curves["epoch"] == 3, "train_loss"] = 0.0
    curves.to_csv(found.folder / "curves.csv", index=False)
    found._read.clear()
    loss = next(f for f in figures_of(found, compare_runs(found)[0])[0] if f.name == "loss")
    log, linear = view_of(loss, "training", "log"), view_of(loss, "training", "linear")
    assert set(log.data["epoch"]) == {0, 1, 2}
    assert "4 points are left out" in log.caption
    assert set(linear.data["epoch"]) == {0, 1, 2, 3}
    assert "left out" not in linear.caption


def test_all_views_together_stay_small(results, monkeypatch):
    monkeypatch.setattr(figures_training, "MOST_ROWS", 6 * 4 * 3)  # views × lines × epochs
    loss = next(f for f in figures_of(results, compare_runs(results)[0])[0] if f.name == "loss")
    assert sum(len(view.data) for view in loss.views) == 6 * 4 * 3
    assert all(set(view.data["epoch"]) == {0, 2, 3} for view in loss.views)
