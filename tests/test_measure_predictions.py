"""Drawn functions against torch modules in eval mode, and where the function is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measure_tools import (
    check_alone_equals_stacked,
    check_quarantine,
    check_training_is_untouched,
    module_twin,
    rows,
    study,
    trained,
)
from tools import make_dataset, make_spec, runs_of, train_runs

from bnexp.errors import SpecError
from bnexp.measures.predictions import input_grid


def with_population_statistics(twin, x, size):
    """Every norm's statistics from one pass of full batches, in stored order and train mode."""
    norms = [m for m in twin if isinstance(m, torch.nn.BatchNorm1d)]
    seen = {norm: [] for norm in norms}
    hooks = [norm.register_forward_hook(lambda m, inputs, out: seen[m].append(inputs[0].detach())) for norm in norms]
    twin.train()
    for start in range(0, len(x) - size + 1, size):
        twin(x[start : start + size])
    for hook in hooks:
        hook.remove()
    for norm in norms:
        norm.running_mean = torch.stack([a.mean(0) for a in seen[norm]]).mean(0)
        norm.running_var = torch.stack([a.var(0) for a in seen[norm]]).mean(0)
    return twin


def points_of(dataset):
    features = dataset.train.features
    count = {1: 201, 2: 21}[features.shape[1]]
    axes = [np.linspace(f.min(), f.max(), count) for f in features.T.astype(np.float64)]
    return [(x,) for x in axes[0]] if len(axes) == 1 else [(x1, x2) for x1 in axes[0] for x2 in axes[1]]


@pytest.mark.parametrize(("n_inputs", "n_classes"), [(1, 1), (1, 3), (2, 1), (2, 2)])
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norms", ["[none, affine]", "[standardize, full, gamma, beta]"])
def test_equals_the_twin(norms, placement, n_inputs, n_classes):
    spec, dataset, runs = study(
        "{predictions: {every: 1}}", norms, "tanh", placement, n_inputs=n_inputs, n_classes=n_classes, seeds=1
    )
    points = points_of(dataset)
    labels = [
        (f"{point[0]:.9g}", f"{point[1]:.9g}" if n_inputs == 2 else "", str(output))
        for point in points
        for output in range(n_classes)
    ]
    x = torch.from_numpy(dataset.train.features).double()
    for epoch, arrays in trained(spec, dataset, runs):
        for index, run in enumerate(runs):
            twin = module_twin(run, arrays, index).eval()
            running = twin(torch.tensor(points)).flatten().tolist()
            twin = with_population_statistics(twin, x, 8).eval()
            population = twin(torch.tensor(points)).flatten().tolist()
            found = rows(epoch, "predictions", index)
            assert list(found) == labels
            assert [row["value"] for row in found.values()] == pytest.approx(running, rel=1e-9, abs=1e-9)
            assert [row["value_population"] for row in found.values()] == pytest.approx(population, rel=1e-9, abs=1e-9)
            assert (running != population) == run.structure.normalizes


def test_a_linear_network_is_a_plane():
    spec, dataset, runs = study("[predictions]", "[none, full]", "linear", n_inputs=2, n_classes=1)
    for index in range(2):
        found = rows(train_runs(spec, dataset, [runs[index]])[-1], "predictions")
        values = np.array([row["value"] for row in found.values()]).reshape(21, 21)
        corner = values[0, 0]
        plane = corner + (values[:, :1] - corner) + (values[:1] - corner)
        assert np.abs(values - plane).max() < 1e-5 * np.abs(values).max()
        assert np.ptp(np.diff(values[:, 0])) < 1e-5 * np.abs(values).max()


def test_a_constant_feature_is_drawn_once():
    grid = input_grid(torch.tensor([[0.0, 2.0], [1.0, 2.0], [-3.0, 2.0]]))
    assert grid.shape == (21, 2)
    assert grid[[0, -1]].tolist() == [[-3, 2], [1, 2]]


def test_rows_of_csv_round_trip_and_have_no_negative_zero():
    grid = input_grid(torch.tensor([[-1.0], [1.0]]))
    labels = [f"{x:.9g}" for (x,) in grid.tolist()]
    assert labels[100] == "0"
    assert torch.equal(torch.tensor([[float(label)] for label in labels]), grid)


def test_more_features_are_refused_with_the_place():
    spec, dataset = make_spec("data: digits\nmeasure: [activations, predictions]"), make_dataset(n_inputs=64)
    with pytest.raises(SpecError, match="predictions draws inputs of one or two features; data digits has 64") as error:
        runs_of(spec, dataset)
    assert str(error.value).startswith("test.yaml:2:10: error: measure: ")
    assert runs_of(make_spec("data: digits"), dataset)


def test_more_features_are_refused_from_an_override():
    spec = make_spec("data: digits", "measure.predictions.every=1")
    with pytest.raises(SpecError, match="draws inputs of one or two features"):
        runs_of(spec, make_dataset(n_inputs=64))


@pytest.mark.parametrize("n_inputs", [1, 2])
def test_training_is_untouched(n_inputs):
    check_training_is_untouched("[predictions]", n_inputs=n_inputs)


@pytest.mark.parametrize(("activation", "placement", "n_inputs"), [("sigmoid", "pre", 1), ("relu", "post", 2)])
def test_alone_equals_stacked(activation, placement, n_inputs):
    check_alone_equals_stacked("[predictions]", activation, placement=placement, n_inputs=n_inputs, seeds=2 // n_inputs)


def test_cadence():
    for every, expected in ((2, [0, 2, 4, 5]), (0, [5])):  # 0: the final network alone
        epochs = train_runs(*study(f"{{predictions: {{every: {every}}}}}", epochs=5, n_inputs=1))
        assert [epoch.number for epoch in epochs if rows(epoch, "predictions")] == expected


def test_a_diverging_neighbour_changes_nothing():
    check_quarantine("[predictions]", n_inputs=1)
