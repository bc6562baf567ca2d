"""What every measure must keep to: it changes no training, it sees one run at a time, it reads when it is due."""

from __future__ import annotations

import torch
from test_slow_twin import optimizer_of, scheduler_of
from tools import make_dataset, make_spec, outcome_of_each, runs_of, train_runs

from bnexp.rng import stream

TEXT = """
data: digits
model: {{hidden: {hidden}, activation: {activation}, norm: {norms}, placement: {placement}, {model}}}
train: {{epochs: {epochs}, batch_size: {batch_size}, lr: {lr}, {train}}}
seeds: 2
probe: 21
measure: {measure}
"""
MIXED = "[standardize, full, gamma, beta]"


def study(
    measure,
    norms=MIXED,
    activation="tanh",
    placement="pre",
    hidden="[7, 5]",
    model="",
    train="",
    epochs=3,
    lr="0.2",
    batch_size=12,
    n_classes=3,
    dataset=None,
):
    dataset = dataset or make_dataset(n_train=62, n_classes=n_classes)
    text = TEXT.format(**{name: value for name, value in locals().items() if name != "dataset"})
    spec = make_spec(text.replace(", }", "}"))
    return spec, dataset, runs_of(spec, dataset)


def rows_of(epochs, table, index):
    """A run's rows of a table: (epoch, labels) → its columns."""
    return {
        (epoch.number, *record.labels): dict(zip(record.columns, record.values[index].tolist(), strict=True))
        for epoch in epochs
        for record in epoch.records
        if record.table == table and (record.present is None or record.present[index])
    }


def assert_touches_nothing(measure, **kwargs):
    """Losses, outcomes and final arrays are the same bits with the measure and without any."""
    found = []
    for measures in (measure, "[]"):
        spec, dataset, runs = study(measures, **kwargs)
        found.append(
            {
                run_id: ([line for line in lines if line.startswith("curves:")], outcome, arrays)
                for run_id, (lines, outcome, arrays) in outcome_of_each(spec, dataset, runs).items()
            }
        )
    assert found[0] == found[1]


def assert_sees_one_run_at_a_time(measure, table, **kwargs):
    """A run's rows, float32, are the same bytes alone and in a stack of all norms that share its structure."""
    spec, dataset, runs = study(measure, **kwargs)
    for stack in (runs, runs[:3]):
        together = outcome_of_each(spec, dataset, stack)
        for run in stack:
            alone = outcome_of_each(spec, dataset, [run])
            assert alone[run.id] == together[run.id]
    assert any(line.startswith(f"{table}:") for lines, _, _ in together.values() for line in lines)


def assert_survives_a_wild_neighbour(measure, **kwargs):
    """A run that leaves the finite numbers changes nothing of the others."""
    spec, dataset, runs = study(measure, **kwargs, lr="[0.2, 1e30]")
    calm = [run for run in runs if run.setting.train.lr < 1]
    wild = next(run for run in runs if run not in calm)
    before = outcome_of_each(spec, dataset, calm)
    for slot in (0, len(calm)):
        together = outcome_of_each(spec, dataset, [*calm[:slot], wild, *calm[slot:]])
        assert "diverged" in together[wild.id][1]
        assert {run.id: together[run.id] for run in calm} == before


def epochs_with_rows(measure, table, **kwargs):
    spec, dataset, runs = study(measure, **kwargs)
    return sorted({key[0] for key in rows_of(train_runs(spec, dataset, runs), table, 0)})


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
            rows = order[start : start + size]
            if start == 0:
                yield epoch, optimizer, x[rows], t[rows]
            optimizer.zero_grad()
            loss_of(twin, x[rows], t[rows]).backward()
            optimizer.step()
        scheduler.step()
