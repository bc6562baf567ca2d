"""The same network under another norm: the same outputs, for every activation, placement and depth."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from measure_tools import WITHOUT, study
from test_slow_twin import twin_of
from tools import train_runs

from bnexp.conversion import Network, folds, to_full, to_standardize
from bnexp.network import forward, one_run
from bnexp.norms import NORMS, Statistics

F64 = torch.float64
ACTIVATIONS = ["sigmoid", "tanh", "relu", "linear"]
HIDDEN = ["[7]", "[7, 5]", "[6, 7, 5]"]


@cache
def trained(norms, activation, placement, hidden):
    """Runs with their networks after three epochs in float64, and 40 rows [1, in, row]."""
    shape = {"activation": activation, "placement": placement, "hidden": hidden}
    spec, dataset, runs = study("[]", norms, **shape, model="eps: 1e-3", train="momentum: 0.5")
    arrays = train_runs(spec, dataset, runs, F64)[-1].arrays()
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items() if name != "test_correct"}
    networks = []
    for index in range(len(runs)):
        own = one_run(tensors, index)
        layers = range(1, 1 + sum(name.startswith("running_mean") for name in own))
        running = [Statistics(own[f"running_mean{i}"], own[f"running_variance{i}"]) for i in layers]
        parameters = {name: tensor for name, tensor in own.items() if not name.startswith("running")}
        networks.append(Network(parameters, running, runs[index].structure))
    return runs, networks, torch.from_numpy(dataset.train.features[:40]).double().T[None]


def outputs(network, x):
    return forward(network.parameters, x, network.structure, network.running).logits


def outputs_by_batch(network, x):
    return forward(network.parameters, x, network.structure).logits


def outputs_of_modules(run, network, x):
    """By torch.nn in eval mode, filled with a network's numbers."""
    twin = twin_of(run, network.parameters, 0)
    norms = [module for module in twin if hasattr(module, "running_mean")]
    for layer, (norm, running) in enumerate(zip(norms, network.running, strict=True), start=1):
        norm.running_mean.copy_(running.mean[0])
        norm.running_var.copy_(running.variance[0])
        if norm.affine:
            norm.weight.data.copy_(network.parameters[f"gamma{layer}"][0])
            norm.bias.data.copy_(network.parameters[f"beta{layer}"][0])
    return twin.eval()(x[0].T).T[None].detach()


def run_of(norm, activation, placement, hidden):
    shape = {"activation": activation, "placement": placement, "hidden": hidden}
    return study("[]", norm, **shape, model="eps: 1e-3", train="momentum: 0.5")[2][0]


def assert_equal(ours, theirs):
    assert theirs.std() > 1e-3
    assert (ours - theirs).abs().max() <= 1e-10


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_without_a_norm_is_full_for_any_statistics(activation, placement, hidden):
    runs, networks, x = trained(WITHOUT, activation, placement, hidden)
    generator = torch.Generator().manual_seed(0)
    for run, network in zip(runs, networks, strict=True):
        statistics = [
            Statistics(
                torch.randn(1, width, dtype=F64, generator=generator),
                torch.rand(1, width, dtype=F64, generator=generator) + 0.1,
            )
            for width in run.structure.hidden
        ]
        full = to_full(network, statistics)
        assert_equal(outputs(full, x), outputs(network, x))
        if run.setting.model.norm == "none":
            assert_equal(
                outputs_of_modules(run_of("full", activation, placement, hidden), full, x), outputs(network, x)
            )
            assert_equal(outputs(full, x), outputs_of_modules(run, network, x))


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_and_by_the_batch_whose_statistics_they_are(activation, placement):
    _, networks, x = trained(WITHOUT, activation, placement, "[7, 5]")
    for network in networks:
        taps = forward(network.parameters, x, network.structure, with_taps=True).taps
        inputs = [here["preactivation" if placement == "pre" else "activation"] for here in taps[:-1]]
        full = to_full(network, [Statistics(a.mean(-1), a.var(-1, correction=0)) for a in inputs])
        assert_equal(outputs_by_batch(full, x), outputs(network, x))


FOLDING = [
    *((norm, activation, "post") for norm in ("full", "gamma", "beta") for activation in ACTIVATIONS),
    *((norm, "linear", "pre") for norm in ("full", "gamma", "beta")),
    ("gamma", "relu", "pre"),
]


def test_those_that_fold_are_these():
    for norm, switches in NORMS.items():
        for activation in ACTIVATIONS:
            for placement in ("pre", "post"):
                run = run_of(norm, activation, placement, "[7]")
                assert folds(run.structure, switches) == ((norm, activation, placement) in FOLDING)


def with_odd_gammas(network, norm):
    """The same network with a γ of 0 and some below 0 in every layer, where γ is learned."""
    parameters = {name: tensor.clone() for name, tensor in network.parameters.items()}
    for name, tensor in parameters.items():
        if name.startswith("gamma") and norm != "beta":
            tensor[0, 0], tensor[0, 1], tensor[0, 2] = 0, -tensor[0, 1], -1.7
    return network._replace(parameters=parameters)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(("norm", "activation", "placement"), FOLDING)
def test_what_folds_is_standardize(norm, activation, placement, hidden):
    runs, networks, x = trained(norm, activation, placement, hidden)
    plain_run = run_of("standardize", activation, placement, hidden)
    for run, trained_network in zip(runs, networks, strict=True):
        for network in (trained_network, with_odd_gammas(trained_network, norm)):
            plain = to_standardize(network, run.switches)
            assert plain.structure == plain_run.structure
            assert not any(name.startswith(("gamma", "beta")) for name in plain.parameters)
            assert_equal(outputs(plain, x), outputs(network, x))
            assert_equal(outputs_by_batch(plain, x), outputs_by_batch(network, x))
            ours, theirs = outputs_of_modules(plain_run, plain, x), outputs_of_modules(run, network, x)
            assert_equal(ours, theirs)
            assert_equal(outputs(plain, x), ours)


def test_a_conversion_changes_nothing_of_what_it_is_given():
    runs, networks, _ = trained("gamma", "relu", "pre", "[7, 5]")
    network = with_odd_gammas(networks[0], "gamma")
    before = {name: tensor.clone() for name, tensor in network.parameters.items()}
    means = [statistics.mean.clone() for statistics in network.running]
    to_standardize(network, runs[0].switches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.parameters.items())
    assert all(torch.equal(s.mean, mean) for s, mean in zip(network.running, means, strict=True))


def test_a_gamma_of_zero_silences_its_unit():
    runs, networks, _ = trained("gamma", "relu", "pre", "[7, 5]")
    plain = to_standardize(with_odd_gammas(networks[0], "gamma"), runs[0].switches)
    assert (plain.parameters["weight2"][0, :, 0] == 0).all()
    assert (plain.parameters["weight2"][0, :, 3] != 0).any()


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_beta_before_a_curve_is_not_absorbed(activation):
    runs, networks, _ = trained("full", activation, "pre", "[7, 5]")
    with pytest.raises(ValueError, match=f"before {activation}, standardize cannot absorb"):
        to_standardize(networks[0], runs[0].switches)


def test_only_a_norm_without_statistics_becomes_full():
    _, networks, _ = trained("full", "tanh", "pre", "[7, 5]")
    with pytest.raises(ValueError, match="without statistics"):
        to_full(networks[0], networks[0].running)
