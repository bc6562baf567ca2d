"""What is true of batch norm on paper, held against the code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tools import initial_running, initialize, make_dataset, make_spec, outcome_of_each, runs_of, train_runs

from bnexp.arrays import as_arrays
from bnexp.data import load_dataset
from bnexp.gradients import loss_and_gradients
from bnexp.network import Batch, calibrate, forward, init_ids
from bnexp.norms import NORMS, Statistics, affine_transform, normalize_by_batch, normalize_by_statistics
from bnexp.plan import DataShape, structure_of
from bnexp.spec import DataFields, NormName

F64 = torch.float64


def network(text, dataset=None, dtype=F64):
    dataset = dataset or make_dataset(n_train=40)
    spec = make_spec(f"data: digits\n{text}")
    runs = runs_of(spec, dataset)
    return spec, dataset, runs, initialize(runs[0].structure, runs, dtype)


def rows_of(dataset, n_runs=1):
    return torch.from_numpy(dataset.train.features).double().T.expand(n_runs, -1, -1)


def test_the_table_of_norms_is_the_contract_s():
    table = {name: "".join(str(int(switch)) for switch in switches) for name, switches in NORMS.items()}
    assert table == {
        "none": "0000",
        "standardize": "1100",
        "full": "1111",
        "affine": "0011",
        "center": "1000",
        "scale": "0100",
        "gamma": "1110",
        "beta": "1101",
    }
    assert set(NormName.__args__) == set(NORMS)


@pytest.mark.parametrize(
    ("placement", "norm", "expected"),
    [
        ("pre", "none", 89_610),
        ("pre", "standardize", 89_410),
        ("pre", "full", 89_810),
        ("post", "standardize", 89_610),
        ("post", "full", 90_010),
    ],
)
def test_parameter_counts(placement, norm, expected):
    spec = make_spec(f"data: mnist\nmodel: {{hidden: [100, 100], norm: {norm}, placement: {placement}}}")
    structure = structure_of(spec.settings[0], DataShape("classification", 60_000, 784, 10))
    assert structure.n_parameters(NORMS[norm]) == expected


def test_parameter_counts_equal_the_tensors():
    for norm, switches in NORMS.items():
        for placement in ("pre", "post"):
            for activation in ("relu", "linear"):
                model = f"norm: {norm}, placement: {placement}, activation: {activation}, hidden: [5, 4]"
                text = f"model: {{{model}}}\nseeds: 1"
                _, _, runs, parameters = network(text)
                count = sum(
                    p.numel()
                    for name, p in parameters.items()
                    if not (name.startswith("gamma") and not switches.gamma)
                    and not (name.startswith("beta") and not switches.beta)
                )
                assert runs[0].structure.n_parameters(switches) == count, (norm, placement, activation)


def test_gamma_root_and_beta_mean_return_the_input():
    a = 3 + 2 * torch.randn(2, 5, 40, dtype=F64)
    normalized, (mean, variance) = normalize_by_batch(a, True, True, 1e-5)
    y = affine_transform(normalized, torch.sqrt(variance + 1e-5), mean)
    assert (y - a).abs().max() <= 1e-12 * a.abs().max()


def test_gamma_equal_to_the_sd_does_not_when_the_variance_is_near_epsilon():
    a = 3 + 1e-3 * torch.randn(2, 5, 40, dtype=F64)
    normalized, (mean, variance) = normalize_by_batch(a, True, True, 1e-5)
    y = affine_transform(normalized, torch.sqrt(variance), mean)
    # y − μ = (a − μ)·SD/sqrt(var + ε): with var = 1e-6 and ε = 1e-5 only .3 of each deviation comes back.
    assert (y - a).abs().max() > 0.5 * (a - mean[:, :, None]).abs().max()


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu", "linear"])
def test_identity_start_gives_the_logits_of_none(placement, activation):
    shape = f"placement: {placement}, activation: {activation}, hidden: [7, 6, 5]"
    _, dataset, none, plain = network(f"model: {{norm: none, {shape}}}\nseeds: 3")
    init = "gamma_init: identity, beta_init: identity"
    _, _, full, parameters = network(f"model: {{norm: full, {init}, {shape}}}\nseeds: 3", dataset)
    x = rows_of(dataset, 3)
    structure = full[0].structure
    running = initial_running(structure, 3, F64)
    calibrate(*as_arrays((parameters, running)), structure, full, x[0].numpy())
    expected = forward(plain, x, none[0].structure).logits
    for given in (None, running):  # by the batch of all rows, and as model.eval() does
        logits = forward(parameters, x, structure, given).logits
        assert (logits - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_affine_started_as_standardize_starts_as_standardize(placement):
    shape = f"placement: {placement}, activation: tanh, hidden: [7, 6, 5]"
    _, dataset, plain_runs, plain = network(f"model: {{norm: standardize, {shape}}}\nseeds: 2")
    init = "gamma_init: standardize, beta_init: standardize"
    _, _, runs, parameters = network(f"model: {{norm: affine, {init}, {shape}}}\nseeds: 2", dataset)
    x = rows_of(dataset, 2)
    calibrate(as_arrays(parameters), [], runs[0].structure, runs, x[0].numpy())
    expected = forward(plain, x, plain_runs[0].structure).logits
    logits = forward(parameters, x, runs[0].structure).logits
    assert (logits - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("norm", ["standardize", "gamma"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
@pytest.mark.parametrize("hidden", ["[64, 64]", "[5]", "[9, 8, 7, 6]"])
def test_without_beta_the_network_is_odd_about_the_mean(norm, activation, hidden):
    """Antithetic rows: f(x) + f(−x) is constant, after training too."""
    half = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
    dataset = make_dataset(n_train=48, n_inputs=2, n_classes=2)
    dataset.train.features[:] = np.concatenate([half, -half])
    text = f"model: {{norm: {norm}, activation: {activation}, hidden: {hidden}}}\nseeds: 2"
    spec, _, runs, _ = network(text + "\ntrain: {batch_size: full, epochs: 5, lr: 0.3}\nmeasure: []", dataset)
    arrays = train_runs(spec, dataset, runs, F64)[-1].arrays()
    parameters = {
        name: torch.from_numpy(array) for name, array in arrays.items() if name[:4] in ("weig", "bias", "gamm", "beta")
    }
    logits = forward(parameters, rows_of(dataset, 2), runs[0].structure).logits
    sums = logits[:, :, :24] + logits[:, :, 24:]
    assert (sums - sums[:, :, :1]).abs().max() <= 1e-12


def test_the_floor_without_beta_is_the_even_part_of_the_bump():
    data = load_dataset(DataFields(name="bump", samples=64, validation=0.0))
    targets = data.train.targets.astype(float)
    even = (targets + targets[::-1]) / 2  # row n−1−i is minus row i
    assert np.array_equal(data.train.features, -data.train.features[::-1])
    assert even.var() / targets.var() == pytest.approx(0.3573, abs=5e-5)


def test_beta_breaks_the_symmetry():
    half = np.random.default_rng(0).normal(size=(24, 2)).astype(np.float32)
    dataset = make_dataset(n_train=48, n_inputs=2, n_classes=2)
    dataset.train.features[:] = np.concatenate([half, -half])
    _, _, runs, parameters = network("model: {norm: full, activation: tanh, beta_init: 0.5}\nseeds: 1", dataset)
    logits = forward(parameters, rows_of(dataset), runs[0].structure).logits
    sums = logits[:, :, :24] + logits[:, :, 24:]
    assert (sums - sums[:, :, :1]).abs().max() > 1e-3


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_neutral_gamma_and_beta_are_standardization(placement, activation):
    shape = f"placement: {placement}, activation: {activation}, hidden: [6, 5]"
    _, dataset, runs, plain = network(f"model: {{norm: standardize, {shape}}}\nseeds: 2")
    _, _, full_runs, full = network(f"model: {{norm: full, {shape}}}\nseeds: 2", dataset)
    x, targets = rows_of(dataset, 2), torch.from_numpy(dataset.train.targets).expand(2, -1)
    ours = loss_and_gradients(plain, Batch(x, targets), runs[0].structure)
    theirs = loss_and_gradients(full, Batch(x, targets), full_runs[0].structure)
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(gradient, theirs.gradients[name]) for name, gradient in ours.gradients.items())


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_after_the_activation_the_next_layer_absorbs_gamma_and_beta(activation):
    """W' = W·diag(γ), b' = b + Wβ: ``full`` after the activation can be written as ``standardize``."""
    shape = f"placement: post, activation: {activation}, hidden: [6, 5]"
    text = f"model: {{norm: full, gamma_init: 1.7, beta_init: -0.4, {shape}}}\nseeds: 2"
    _, dataset, runs, full = network(text)
    folded = {name: tensor.clone() for name, tensor in full.items() if name[:4] in ("weig", "bias")}
    for layer in (1, 2):
        weight = full[f"weight{layer + 1}"]
        folded[f"bias{layer + 1}"] += (weight @ full[f"beta{layer}"][:, :, None])[:, :, 0]
        folded[f"weight{layer + 1}"] = weight * full[f"gamma{layer}"][:, None, :]
    x = rows_of(dataset, 2)
    for given in (None, [Statistics(torch.zeros(2, w, dtype=F64), torch.full((2, w), 0.3, dtype=F64)) for w in (6, 5)]):
        expected = forward(full, x, runs[0].structure, given).logits
        logits = forward(folded, x, runs[0].structure, given).logits
        assert (logits - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_all_norms_share_initial_weights_and_batches():
    dataset = make_dataset()
    ids = []
    for placement in ("pre", "post"):
        for norm in NORMS:
            text = f"model: {{norm: {norm}, placement: {placement}}}\nseeds: 2\ntrain: {{epochs: 1}}\nmeasure: []"
            spec, _, runs, _ = network(text, dataset, torch.float32)
            outcomes = train_runs(spec, dataset, runs)[-1].outcomes
            ids.append([(outcome.init_id, outcome.order_id) for outcome in outcomes])
    assert all(found == ids[0] for found in ids)
    assert ids[0][0] != ids[0][1]


def test_initial_ids_are_of_the_float32_weights():
    _, _, runs, wide = network("seeds: 2", dtype=F64)
    _, _, _, narrow = network("seeds: 2", dtype=torch.float32)
    assert init_ids(wide, runs[0].structure) == init_ids(narrow, runs[0].structure)


def test_pre_and_post_none_are_bit_equal():
    found = []
    for placement in ("pre", "post"):
        spec, dataset, runs, _ = network(
            f"model: {{norm: none, placement: {placement}}}\nseeds: 2\ntrain: {{epochs: 2}}"
        )
        outcomes = outcome_of_each(spec, dataset, runs)
        found.append({run_id: (outcome, arrays) for run_id, (_, outcome, arrays) in outcomes.items()})
    assert found[0] == found[1]


def test_running_statistics_make_evaluation_the_given_one():
    a = torch.randn(1, 3, 20, dtype=F64)
    _, statistics = normalize_by_batch(a, True, True, 1e-5)
    by_batch, _ = normalize_by_batch(a, True, True, 1e-5)
    assert (normalize_by_statistics(a, statistics, True, True, 1e-5) - by_batch).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("scheme", "spread"), [("linear", 1 / 3), ("glorot", 2 * 10 / (10 + 4000)), ("he", 2), ("gaussian", 0.09)]
)
def test_initial_spread(scheme, spread):
    """Variance of the weights times fan-in (10): linear 1/3, he 2, glorot 2·in/(in + out), gaussian in·sd²."""
    from bnexp.network import draw_layer

    weight, bias = draw_layer(0, 1, 10, 4000, scheme, 0.3 / 10**0.5)
    assert weight.var() * 10 == pytest.approx(spread, rel=0.03)
    assert (bias == 0).all() == (scheme != "linear")
