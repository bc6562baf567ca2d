"""The estimate before a study: in proportion to what it is made of, and of the right size on any machine of today."""

from __future__ import annotations

import time

import pytest
from tools import Silent, make_spec

from bnexp.data import load_dataset
from bnexp.estimate import MEASURES, START, study_seconds, work_of
from bnexp.experiment import Request, run_experiment
from bnexp.plan import make_plan
from bnexp.recording import Options
from bnexp.spec import MEASURES as ALL_MEASURES
from bnexp.stacks import make_stacks

SPEC = """
data: digits
model: {hidden: [64, 64], norm: [none, full]}
train: {epochs: 40, lr: 0.1}
measure: [activations, parameters]
seeds: 16
"""


def estimated(*overrides):
    from tools import runs_of

    spec = make_spec(SPEC, *overrides)
    dataset = load_dataset(spec.settings[0].data)
    stacks = make_stacks(make_plan(runs_of(spec, dataset)), 1)
    return sum(work_of(stacks, Options.of(spec), {spec.settings[0].data: dataset}))


def test_it_is_in_proportion():
    one = estimated()
    assert estimated("train.epochs=80") == pytest.approx(2 * one, rel=0.05)
    assert estimated("seeds=32") == pytest.approx(2 * one, rel=0.1)
    assert estimated("measure=[]") < one < estimated("measure=[activations,parameters,identity]")
    assert estimated("evaluate=[running,population]") > one > estimated("evaluate_every=0")
    assert estimated("train.epochs=0") < 0.2 * one


def test_every_measure_has_its_cost():
    assert set(MEASURES) == set(ALL_MEASURES)


def test_what_is_finished_takes_no_time(tmp_path):
    spec = make_spec(SPEC, "train.epochs=1", "seeds=1")
    run_experiment(spec, Request(tmp_path / "x", "cpu", 1), Silent())
    outline = run_experiment(spec, Request(tmp_path / "x", "cpu", 1), Silent(), dry_run=True).outline
    assert (outline.seconds, outline.work) == (0.0, ())
    assert study_seconds([3.0, 4.0], 2) == START + 3.5


def test_it_is_of_the_right_size(tmp_path):
    """Within a factor of ten, which no busy or slow machine explains away; the best of two."""
    spec = make_spec(SPEC)
    took = []
    for index in range(2):
        began = time.perf_counter()
        summary = run_experiment(spec, Request(tmp_path / str(index), "cpu", 1), Silent())
        took.append(time.perf_counter() - began)
    assert summary.outline.seconds / 10 < min(took) < 10 * summary.outline.seconds
