"""What every measure must pass, and slow views of one run for its twin: taps in NumPy, torch modules."""

from __future__ import annotations

import re

import numpy as np
import torch
from test_slow_twin import Affine, optimizer_of, scheduler_of, twin_of
from tools import make_dataset, make_spec, options_of, outcome_of_each, runs_of, stack_of, train_runs

from bnexp.rng import stream
from bnexp.training import train

SPEC = """
data: digits
model: {{hidden: {hidden}, activation: {activation}, norm: {norms}, placement: {placement}, {model}}}
train: {{epochs: {epochs}, batch_size: {batch_size}, lr: {lr}, {train}}}
seeds: {seeds}
probe: {probe}
measure: {measure}
"""
WITHOUT, MIXED = "[none, affine]", "[standardize, full, gamma, beta]"  # one structure each
STRUCTURES = (MIXED, WITHOUT, "[center]", "[scale]")


def study(
    measure="[]",
    norms=MIXED,
    activation="relu",
    placement="pre",
    model="",
    train="",
    *,
    hidden="[7, 5]",
    epochs=2,
    lr="0.1",
    batch_size=8,
    seeds=2,
    probe=21,
    n_inputs=6,
    n_classes=3,
    dataset=None,
):
    """A spec, its data set (50 rows, so six steps an epoch and two rows left) and its runs."""
    text = SPEC.format(**{name: value for name, value in locals().items() if name != "dataset"})
    spec = make_spec(text)
    dataset = dataset or make_dataset(n_train=50, n_inputs=n_inputs, n_classes=n_classes)
    return spec, dataset, runs_of(spec, dataset)


def trained(spec, dataset, runs):
    """Each epoch of a float64 stack with the arrays of that moment."""
    stack = stack_of(runs)
    epochs = train(stack, dataset, "cpu", options_of(spec), "float64")
    return [(epoch, epoch.arrays()) for epoch in epochs]


def rows(epoch, table, index=0):
    """labels → column → value, for one run of the stack."""
    return {
        record.labels: dict(zip(record.columns, record.values[index].tolist(), strict=True))
        for record in epoch.records
        if record.table == table and (record.present is None or record.present[index])
    }


def rows_of(epochs, table, index=0):
    """(epoch, labels) → column → value, for one run of the stack."""
    return {(epoch.number, *labels): row for epoch in epochs for labels, row in rows(epoch, table, index).items()}


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


def loss_of(twin, x, t):
    if t.is_floating_point():
        return torch.nn.functional.mse_loss(twin(x)[:, 0], t)
    return torch.nn.functional.cross_entropy(twin(x), t)


def training_of(twin, run, dataset, optimizer=None):
    """Train torch modules as a user would; yield (epoch, optimizer, x, t) just before the first step of each epoch."""
    optimizer = optimizer or optimizer_of(twin, run.setting)
    scheduler = scheduler_of(optimizer, run.setting)
    x, t = torch.from_numpy(dataset.train.features).double(), torch.from_numpy(dataset.train.targets)
    t = t.double() if t.is_floating_point() else t
    size = run.structure.batch_size
    for epoch in range(1, run.setting.train.epochs + 1):
        order = stream(run.seed, "order", epoch).permutation(len(x))
        for start in range(0, len(x) - size + 1, size):
            chosen = order[start : start + size]
            if start == 0:
                yield epoch, optimizer, x[chosen], t[chosen]
            optimizer.zero_grad()
            loss_of(twin, x[chosen], t[chosen]).backward()
            optimizer.step()
        scheduler.step()


# --- what every measure must pass -------------------------------------------------------------------------------------


def check_training_is_untouched(
    measure, *, model="noise: santurkar, ghost_size: 4", train="momentum: 0.9", groups=(MIXED, WITHOUT), **options
):
    """Curves, outcomes and final arrays are the same bits with and without the measure."""
    for norms in groups:
        found = []
        for wanted in (measure, "[]"):
            outcomes = outcome_of_each(*study(wanted, norms, model=model, train=train, **options))
            curves = {
                run_id: (tuple(line for line in lines if line.startswith("curves:")), *rest)
                for run_id, (lines, *rest) in outcomes.items()
            }
            found.append(curves)
        assert found[0] == found[1]


def check_alone_equals_stacked(
    measure, activation="relu", *, tables=(), groups=STRUCTURES, lr="[0.1, 0.7]", seeds=3, **options
):
    """In float32 a run's rows are the same bytes whatever its neighbours; ``tables`` (the measure's own) have rows."""
    seen = set()
    for norms in groups:
        spec, dataset, runs = study(measure, norms, activation, lr=lr, seeds=seeds, **options)
        together = outcome_of_each(spec, dataset, runs)
        assert all(outcome_of_each(spec, dataset, [run])[run.id] == together[run.id] for run in runs)
        some = runs[1:4]  # neighbours and place differ
        assert outcome_of_each(spec, dataset, some) == {run.id: together[run.id] for run in some}
        seen |= {line.partition(":")[0] for lines, *_ in together.values() for line in lines}
    assert seen >= set(tables or re.findall(r"\w+", measure)[:1])


def check_cadence(table, measure, start=0, **options):
    """Rows at every second epoch, at each, at none between; and always at the last and at ``start``, if it is one."""
    for every, last, due in ((2, 5, {2, 4, 5}), (1, 3, {1, 2, 3}), (0, 3, {3}), (1, 0, set())):
        epochs = train_runs(*study(f"{{{measure}: {{every: {every}}}}}", epochs=last, **options))
        due = due | ({start} & set(range(last + 1)))
        assert [epoch.number for epoch in epochs if rows(epoch, table)] == sorted(due)


def check_quarantine(measure, **options):
    """Neighbours that leave the finite numbers change nothing: many among the others, or one before or after them."""
    for norms in (MIXED, "none"):
        spec, dataset, runs = study(measure, norms, lr="[0.1, 1e30]", **options)
        calm = [run for run in runs if run.setting.train.lr == 0.1]
        wild = [run for run in runs if run not in calm]
        alone = outcome_of_each(spec, dataset, calm)
        for stack in (runs, [wild[0], *calm], [*calm, wild[0]]):
            together = outcome_of_each(spec, dataset, stack)
            assert all("diverged" in together[run.id][1] for run in stack if run in wild)
            assert alone == {run.id: together[run.id] for run in calm}
