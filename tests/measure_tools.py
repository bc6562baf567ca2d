"""What every measure must pass, and slow views of one run for its twin: taps in NumPy, torch modules."""

from __future__ import annotations

import numpy as np
import torch
from test_slow_twin import Affine, twin_of
from tools import make_dataset, make_spec, options_of, outcome_of_each, runs_of, stack_of, train_runs

from bnexp.training import train

SPEC = """
data: digits
model: {{hidden: [7, 5], activation: {activation}, norm: {norms}, placement: {placement}, {model}}}
train: {{epochs: {epochs}, batch_size: 8, lr: {lr}, {train}}}
seeds: {seeds}
probe: {probe}
measure: {measure}
"""


def study(
    measure="[]",
    norms="[standardize, full, gamma, beta]",
    activation="relu",
    placement="pre",
    model="",
    train="",
    epochs=2,
    lr="0.1",
    seeds=2,
    probe=21,
    n_inputs=6,
    n_classes=3,
):
    text = SPEC.format(
        measure=measure,
        norms=norms,
        activation=activation,
        placement=placement,
        model=model,
        train=train,
        epochs=epochs,
        lr=lr,
        seeds=seeds,
        probe=probe,
    )
    spec, dataset = make_spec(text), make_dataset(n_train=50, n_inputs=n_inputs, n_classes=n_classes)
    return spec, dataset, runs_of(spec, dataset)


def trained(spec, dataset, runs):
    """Each epoch of a float64 stack with the arrays of that moment."""
    stack = stack_of(runs)
    epochs = train(stack, dataset, torch.device("cpu"), options_of(spec), torch.float64)
    return [(epoch, epoch.arrays()) for epoch in epochs]


def rows(epoch, table, index=0):
    """labels → column → value, for one run of the stack."""
    return {
        record.labels: dict(zip(record.columns, record.values[index].tolist(), strict=True))
        for record in epoch.records
        if record.table == table and (record.present is None or record.present[index])
    }


def probe_of(dataset, probe):
    """Features [in, sample] and targets of the probe set."""
    chosen = [i * len(dataset.train.features) // probe for i in range(probe)]
    return dataset.train.features[chosen].astype(np.float64).T, dataset.train.targets[chosen]


def numpy_taps(run, arrays, index, x):
    """Per layer, tap → values [unit, sample], by the batch's own statistics: the definition written out."""
    model, switches = run.setting.model, run.switches
    g = {
        "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
        "tanh": np.tanh,
        "relu": lambda a: np.maximum(a, 0),
        "linear": lambda a: a,
    }[model.activation]
    found = []
    for layer in range(1, len(model.hidden) + 2):
        bias = arrays.get(f"bias{layer}")
        a = arrays[f"weight{layer}"][index] @ x + (0 if bias is None else bias[index][:, None])
        taps = {"preactivation": a}
        if layer <= len(model.hidden):
            if model.placement == "post":
                a = taps["activation"] = g(a)
            if switches.center or switches.scale:
                root = np.sqrt(a.var(1, keepdims=True) + model.eps) if switches.scale else 1
                a = taps["standardized"] = (a - switches.center * a.mean(1, keepdims=True)) / root
            if switches.gamma or switches.beta:
                a = arrays[f"gamma{layer}"][index][:, None] * a + arrays[f"beta{layer}"][index][:, None]
                taps["affine"] = a
            if model.placement == "pre":
                a = taps["activation"] = g(a)
        found.append(taps)
        x = a
    return found


def module_twin(run, arrays, index):
    """torch modules with the weights, γ, β and running statistics of one run."""
    names = ("weight", "bias", "gamma", "beta")
    twin = twin_of(run, {name: torch.from_numpy(a) for name, a in arrays.items() if name.startswith(names)}, index)
    norms = [m for m in twin if isinstance(m, torch.nn.BatchNorm1d | Affine)]
    for layer, norm in enumerate(norms, start=1):
        if norm.weight is not None:
            norm.weight.data = torch.from_numpy(arrays[f"gamma{layer}"][index])
            norm.bias.data = torch.from_numpy(arrays[f"beta{layer}"][index])
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean = torch.from_numpy(arrays[f"running_mean{layer}"][index])
            norm.running_var = torch.from_numpy(arrays[f"running_variance{layer}"][index])
    return twin


def check_training_is_untouched(measure, **options):
    """Curves, outcomes and final arrays are the same bits with and without the measure."""
    for norms in ("[standardize, full]", "[none, affine]"):
        found = []
        for wanted in (measure, "[]"):
            model, train_ = "noise: santurkar, ghost_size: 4", "momentum: 0.9"
            outcomes = outcome_of_each(*study(wanted, norms, model=model, train=train_, **options))
            curves = {
                run_id: (tuple(line for line in lines if line.startswith("curves:")), *rest)
                for run_id, (lines, *rest) in outcomes.items()
            }
            found.append(curves)
        assert found[0] == found[1]


def check_alone_equals_stacked(measure, activation="relu", seeds=3, **options):
    """In float32 a run's rows are the same bytes whatever its neighbours."""
    for norms in ("[standardize, full, gamma, beta]", "[none, affine]", "[center]", "[scale]"):
        spec, dataset, runs = study(measure, norms, activation, lr="[0.1, 0.7]", seeds=seeds, **options)
        together = outcome_of_each(spec, dataset, runs)
        assert all(outcome_of_each(spec, dataset, [run])[run.id] == together[run.id] for run in runs)
        some = runs[1:4]  # neighbours and place differ
        assert outcome_of_each(spec, dataset, some) == {run.id: together[run.id] for run in some}


def check_cadence(table, measure, first=0, **options):
    """Rows at the first, every second and the last of five epochs."""
    epochs = train_runs(*study(f"{{{measure}: {{every: 2}}}}", epochs=5, **options))
    assert [epoch.number for epoch in epochs if rows(epoch, table)] == [n for n in (0, 2, 4, 5) if n >= first]
    epochs = train_runs(*study(f"{{{measure}: {{every: 0}}}}", epochs=3, **options))
    assert [epoch.number for epoch in epochs if rows(epoch, table)] == [n for n in (0, 3) if n >= first]


def check_quarantine(measure, **options):
    """A neighbour that leaves the finite numbers changes nothing."""
    spec, dataset, runs = study(measure, lr="[0.1, 1e30]", **options)
    calm = [run for run in runs if run.setting.train.lr == 0.1]
    together = outcome_of_each(spec, dataset, runs)
    assert all("diverged" in together[run.id][1] for run in runs if run not in calm)
    assert outcome_of_each(spec, dataset, calm) == {run.id: together[run.id] for run in calm}
