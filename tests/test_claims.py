"""Claims: their grammar, the settings of each side, what check says, and both sides' numbers against plain formulas."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from outcomes import study
from studies import accuracy
from studies import study as tiny_study
from test_cli import bnexp
from tools import ROOT, make_spec

from bnexp import source
from bnexp.claim_checks import claim_problems, taps_of
from bnexp.claim_grammar import KnobMetric, TableMetric
from bnexp.claim_wording import heading, planned_lines, row_lines
from bnexp.claims import metric_text, resolve_claims
from bnexp.comparison import claim_records, compare_runs, list_claims, resolvable, to_records
from bnexp.errors import SpecError
from bnexp.loading import resolve
from bnexp.results import load_results
from bnexp.tables import study_tables

GRID = """
data: digits
model: {norm: [none, standardize, full], placement: [pre, post], activation: [sigmoid, relu], hidden: [[8, 8], [4]]}
train: {lr: [0.1, 1], epochs: 4}
seeds: 10
"""
WHERE = "where: {placement: pre, activation: relu, hidden: [4]}"
AB = "a: {norm: full}, b: {norm: none}"


def claim(text, metric="fit_loss", expect="less", grid=GRID, overrides=()):
    return make_spec(f"{grid}claims:\n  - {{claim: c, {text}, metric: {metric}, expect: {expect}}}", *overrides)


def problems_of(*words, **options):
    with pytest.raises(SpecError) as caught:
        claim(*words, **options)
    return caught.value.problems


def texts(settings, *leaves):
    return {value: tuple(setting.shown(leaf) for leaf in leaves) for value, setting in settings.items()}


# --- grammar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("test_accuracy", "test_accuracy"),
        ("{table: activations, column: sd, layer: 1, tap: affine}", "activations sd, layer 1, tap affine, last epoch"),
        ("{table: curves, column: test_loss, over: mean}", "curves test_loss, mean over epochs"),
        ("{table: curves, column: test_loss, epoch: 3}", "curves test_loss, epoch 3"),
        ("{largest: train.lr, such_that: learned}", "largest lr such that learned"),
        ('{smallest: lr, such_that: [fit_accuracy, ">=", 0.99]}', "smallest lr such that fit_accuracy >= 0.99"),
    ],
)
def test_every_form_of_metric(metric, words):
    tune = "" if "such_that" in metric else ", tune: lr"
    spec = claim(f"{WHERE}, {AB}{tune}", metric)
    assert metric_text(spec.claims[0].metric) == words
    written = source.dump(dict(spec.document))
    again = resolve(source.parse(written, "spec.yaml"), (), "other", Path("/elsewhere"))
    assert again == spec
    assert again.claims_sha256() == spec.claims_sha256()
    assert again.document == spec.document
    assert spec.study_sha256() == make_spec(GRID).study_sha256()


def test_all_fields_round_trip_with_their_defaults_written_out():
    text = (
        "{claim: c, source: s, where: {train.lr: 1e-1, hidden: [8, 8]}, each: activation, a: {model.norm: full, "
        "placement: post}, b: {norm: full, model.placement: pre}, metric: {table: units, column: p50, layer: 1, "
        "tap: affine, unit: 0}, expect: equal, within: 0.5, why: w}"
    )
    spec = make_spec(f"{GRID}claims: [{text}]")
    (said,) = spec.document["claims"]
    assert said["where"] == {"lr": 0.1, "hidden": [8, 8]}
    assert said["each"] == ["activation"]
    assert said["a"] == {"norm": "full", "placement": "post"}
    assert said["metric"] == {"table": "units", "column": "p50", "over": "last", "layer": 1, "tap": "affine", "unit": 0}
    assert isinstance(spec.claims[0].metric, TableMetric)
    assert resolve(source.parse(source.dump(dict(spec.document)), "x"), (), "o", Path("/e")) == spec


@pytest.mark.parametrize(
    ("within", "metric", "margin"),
    [
        ("0.01", "test_accuracy", 0.01),
        ("1", "test_accuracy", 1.0),
        ("10%", "fit_loss", math.log(1.1)),
        ("x1.25", "fit_loss", math.log(1.25)),
        ("x2", "{largest: lr, such_that: learned}", math.log(2)),
    ],
)
def test_margins(within, metric, margin):
    tune = "" if "such_that" in metric else ", tune: lr"
    spec = claim(f"{WHERE}, {AB}{tune}, within: {within}, why: w", metric, "equal")
    assert spec.claims[0].margin == pytest.approx(margin)


@pytest.mark.parametrize(
    ("text", "metric", "expect", "place", "words"),
    [
        (f"{WHERE}, {AB}, tune: lr", "fit_loss", "equal", "within", "expect: equal needs within"),
        (f"{WHERE}, {AB}, tune: lr", "fit_loss", "equal", "why", "why this margin"),
        (f"{WHERE}, {AB}, tune: lr, within: 5%, why: w", "test_accuracy", "equal", "within", "a number in its units"),
        (f"{WHERE}, {AB}, tune: lr, within: 0.5, why: w", "fit_loss", "equal", "within", "10% or x1.25 is expected"),
        (f"{WHERE}, {AB}, tune: lr, within: -1, why: w", "fit_loss", "equal", "within", "a number above 0"),
        (f"{WHERE}, {AB}, tune: lr, within: x1, why: w", "fit_loss", "equal", "within", "a number above 0"),
        (f"{WHERE}, {AB}, tune: lr, within: true, why: w", "fit_loss", "equal", "within", "a number above 0"),
        (f"{WHERE}, {AB}, tnue: lr", "fit_loss", "less", "tnue", "did you mean 'tune'?"),
        (f"{WHERE}, {AB}, tune: lr", "fit_loss", "les", "expect", "did you mean 'less'?"),
        (f"{WHERE}, {AB}, tune: lr", "7", "less", "metric", "a column of runs.csv, {table, column"),
        (f"{WHERE}, {AB}, tune: lr", "{table: curves}", "less", "metric.column", "is required"),
        (f"{WHERE}, {AB}, tune: lr", "{table: a, column: b, over: avg}", "less", "metric.over", "'sum', not 'avg'"),
        (f"{WHERE}, {AB}, tune: lr", "{table: a, column: b, over: max, epoch: 1}", "less", "metric", "exclude"),
        (f"{WHERE}, {AB}", "{largest: lr}", "less", "metric.such_that", "is required"),
        (f"{WHERE}, {AB}", "{largest: lr, smallest: lr, such_that: learned}", "less", "metric", "one of largest and"),
        (
            f"{WHERE}, {AB}",
            "{largest: lr, such_that: [fit_loss, 3]}",
            "less",
            "metric.such_that",
            "learned, or [column",
        ),
        (f"{WHERE}, {AB}", "{largest: lr, such_taht: learned}", "less", "metric.such_taht", "mean 'such_that'?"),
        (f"{WHERE}, {AB}", "{largest: norm, such_that: learned}", "less", "metric", "norm stands in a already"),
        (f"{WHERE}, {AB}", "{largest: only, such_that: learned}", "less", "metric", "no numbers: all"),
        (f"{WHERE}, {AB}, tune: lr", "{largest: lr, such_that: learned}", "less", "tune", "nothing is tuned"),
        (f"{WHERE}, a: {{}}, b: {{}}", "fit_loss", "less", "a", "at least 1"),
        (f"{WHERE}, a: {{norm: full}}", "fit_loss", "less", "b", "is required"),
        (f"{WHERE}, a: {{norm: full}}, b: {{lr: 1}}", "fit_loss", "less", "b", "lr, norm stands on one side only"),
        (f"{WHERE}, a: {{norm: full}}, b: {{norm: full}}", "fit_loss", "less", "b", "a and b are the same"),
        ("where: {norm: full, lr: 1}, " + AB, "fit_loss", "less", "a", "norm stands in where already"),
        ("where: {lr: 1, train.lr: 1}, " + AB, "fit_loss", "less", "where", "no such field"),
        (f"where: {{lr: 1}}, each: [lr], {AB}", "fit_loss", "less", "each", "lr stands in where already"),
        (f"each: [depth], {AB}, tune: lr", "fit_loss", "less", "each", "no such field 'depth'"),
        (f"{WHERE}, {AB}, tune: lrr", "fit_loss", "less", "tune", "did you mean 'lr'?"),
        (f"where: {{activaton: relu}}, {AB}, tune: lr", "fit_loss", "less", "where", "did you mean 'activation'?"),
        (f"where: {{activation: rleu}}, {AB}, tune: lr", "fit_loss", "less", "where", "'relu'?; activation is: sig"),
        (f"where: {{hidden: [8, 9]}}, {AB}, tune: lr", "fit_loss", "less", "where", "no hidden=8-9 in this study"),
        (f"where: {{lr: [0.1, 1]}}, {AB}", "fit_loss", "less", "where.lr", "name the field in each"),
        (f"where: {{hidden: [[4], [8, 8]]}}, {AB}", "fit_loss", "less", "where.hidden", "name the field in each"),
        (f"{WHERE}, {AB}, tune: lr, source: 3", "fit_loss", "less", "source", "valid string"),
    ],
)
def test_what_a_claim_cannot_be(text, metric, expect, place, words):
    found = problems_of(text, metric, expect)
    assert all(problem.where.startswith("test.yaml:") for problem in found)
    matching = [problem for problem in found if words in problem.message]
    assert matching, [str(problem) for problem in found]
    assert matching[0].path.startswith(f"claims.{place}")


def test_the_example_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = readme.split("## Claims")[1].split("```yaml\n")[1].split("```")[0]
    others = re.findall(r"^    # (metric: \{.*?\})  ", example, re.M)
    assert len(others) == 2
    for metric in ("metric: fit_loss", *others):
        text = example.replace("metric: fit_loss", metric)
        text = text.replace("within: x1.25", "within: 0.1") if "saturated" in metric else text  # not a ratio
        spec = make_spec(GRID + (text.replace("tune: lr", "") if "such_that" in metric else text))
        assert len(resolve_claims(spec)) == 2
        tasks = {spec.settings[0].data: "classification"}
        assert claim_problems(spec, study_tables(spec, ["classification"]), tasks) == []


def test_a_claim_is_a_mapping_in_a_list():
    for text, words in (("claims: 3", "claims is a list"), ("claims: [3]", "a claim is a mapping")):
        with pytest.raises(SpecError, match=words):
            make_spec(f"data: digits\n{text}")


def test_all_problems_of_all_claims_come_with_those_of_the_file():
    assert make_spec(f"{GRID}claims:\n").claims == ()
    text = f"""{GRID}evaluate: [runing]
claims:
  - {{claim: c, a: {{norm: ful}}, b: {{norm: none}}, metric: fit_loss, expect: less, tune: lr}}
  - {{claim: c, {AB}, metric: fit_loss, expect: less, tune: lr}}
  - {{claim: c, where: {{train.lr: 3}}, {AB}, metric: fit_loss, expect: les}}
  - {{claim: c, where: {{train.lr: 3}}, {AB}, metric: fit_loss, expect: less}}
"""
    with pytest.raises(SpecError) as caught:
        make_spec(text)
    places = [problem.where for problem in caught.value.problems]
    expected = ["6:12", "8:26", "9:19", "9:36", "10:34", "10:98", "11:34"]
    assert places == [f"test.yaml:{place}" for place in expected]
    assert str(caught.value).count("claims=[]") == 1
    assert "claims=[]" in caught.value.problems[-1].message


def test_a_broken_grid_is_not_blamed_on_the_claims():
    with pytest.raises(SpecError) as caught:
        make_spec(f"{GRID.replace('full', 'ful')}claims: [{{claim: c, {AB}, metric: fit_loss, expect: less}}]")
    assert len(caught.value.problems) == 1


# --- the settings of each side ----------------------------------------------------------------------------------------


def test_both_sides_are_single_settings():
    spec = claim(f"where: {{activation: relu, train.lr: 1e-1, hidden: [8, 8], placement: post}}, {AB}")
    (question,) = resolve_claims(spec)
    assert (question.title, question.knob, question.each) == ("claim 1", None, {})
    assert question.where == {"activation": "relu", "lr": "0.1", "hidden": "8-8", "placement": "post"}
    assert question.a.fields == {"norm": "full"}
    leaves = ("norm", "activation", "lr", "hidden")
    assert texts(question.a.settings, *leaves, "placement") == {"": ("full", "relu", "0.1", "8-8", "post")}
    assert texts(question.b.settings, *leaves) == {"": ("none", "relu", "0.1", "8-8")}


def test_none_is_at_both_placements_and_counts_once():
    where = "where: {activation: relu, lr: 1, hidden: [4]}"
    spec = claim(f"{where}, each: [placement], {AB}")
    assert [q.each for q in resolve_claims(spec)] == [{"placement": "pre"}, {"placement": "post"}]
    for question in resolve_claims(spec):
        assert texts(question.a.settings, "norm", "placement") == {"": ("full", question.each["placement"])}
        assert texts(question.b.settings, "norm") == {"": ("none",)}
    sides = claim(f"{where}, a: {{norm: none, placement: post}}, b: {{norm: full, placement: post}}")
    assert texts(resolve_claims(sides)[0].a.settings, "norm") == {"": ("none",)}
    only_pre = GRID.replace("placement: [pre, post]", "placement: pre") + "variants: [{model.norm: [none, full]}]\n"
    two = only_pre.replace(
        "[{model.norm: [none, full]}]", "[{model.norm: none}, {model: {norm: full, placement: post}}]"
    )
    question = resolve_claims(claim(f"{where.replace('where: {', 'where: {placement: post, ')}, {AB}", grid=two))[0]
    assert texts(question.b.settings, "norm", "placement") == {"": ("none", "pre")}


def test_each_asks_once_per_combination_that_a_side_has():
    spec = claim(f"where: {{lr: 1}}, each: [activation, hidden, placement], {AB}")
    titles = [question.title for question in resolve_claims(spec)]
    assert len(titles) == 8
    assert titles[0] == "claim 1, activation=sigmoid, hidden=8-8, placement=pre"
    grid = (
        "data: digits\nvariants:\n  - {model: {norm: [none, full]}, train: {lr: [1, 2]}}\n"
        "  - {model.norm: beta, train.lr: 9}\n"
    )
    assert [q.each for q in resolve_claims(claim(f"each: [lr], {AB}", grid=grid))] == [{"lr": "1"}, {"lr": "2"}]


def test_a_combination_that_one_side_lacks():
    grid = "data: digits\nvariants:\n  - {model.norm: [none, full], train.lr: 1}\n  - {model.norm: full, train.lr: 2}\n"
    (problem,) = problems_of(f"each: [lr], {AB}", grid=grid)
    assert "for lr=2: no setting has lr=2, norm=none" in problem.message


def test_tune_and_the_ends_of_a_knob_keep_its_grid():
    for text, metric in (
        (f"{WHERE}, {AB}, tune: train.lr", "fit_loss"),
        (f"{WHERE}, {AB}", "{largest: lr, such_that: learned}"),
    ):
        (question,) = resolve_claims(claim(text, metric))
        assert question.knob == "lr"
        assert texts(question.a.settings, "norm", "lr") == {"0.1": ("full", "0.1"), "1": ("full", "1")}
        assert list(question.b.settings) == ["0.1", "1"]


def test_the_fields_still_free_are_named_with_their_values():
    a, b = problems_of(f"where: {{hidden: [4]}}, {AB}, tune: lr")
    assert a.path == "claims.a"
    assert "still free are activation (sigmoid, relu), placement (pre, post)" in a.message
    assert "still free is activation (sigmoid, relu); fix it in where, a and b, or name it in each" in b.message
    (both,) = problems_of(f"where: {{hidden: [4], activation: relu}}, each: [placement], {AB}")
    assert both.path == "claims"
    assert "for placement=pre and 1 more: not one setting: still free is lr (0.1, 1)" in both.message
    assert "or one in tune" in both.message


def test_an_override_that_takes_a_value_away_shows_the_way_out():
    text = f"where: {{placement: pre, activation: relu, hidden: [4], lr: 1}}, {AB}"
    found = problems_of(text, overrides=["train.lr=0.3"])
    assert "no lr=1 in this study; lr is: 0.3; to train without claims, add the override claims=[]" in found[0].message
    spec = claim(text, overrides=["train.lr=0.3", "claims=[]"])
    assert spec.claims == ()
    assert spec.document["claims"] == []
    found = problems_of(text, overrides=["claims=[{claim: c}]"])
    assert found[0].where == "override 'claims=[{claim: c}]'"


def test_thousands_of_settings_are_resolved_fast():
    rates = ", ".join(f"{i / 1000}" for i in range(1, 1251))
    grid = f"data: digits\nmodel: {{norm: [none, full], placement: [pre, post]}}\ntrain: {{lr: [{rates}]}}\n"
    claims = "".join(
        f"  - {{claim: c, each: [placement, lr], {AB}, metric: fit_loss, expect: less}}\n"
        f"  - {{claim: c, each: [placement], {AB}, metric: fit_loss, tune: lr, expect: less}}\n"
        for _ in range(3)
    )
    spec = make_spec(f"{grid}claims:\n{claims}")
    began = time.perf_counter()
    assert len(resolve_claims(spec)) == 3 * (2500 + 2)
    assert time.perf_counter() - began < 5  # 0.2 s on the machine it was written on


# --- what will be recorded --------------------------------------------------------------------------------------------

MIXED = """
data: digits
model: {norm: [none, standardize, full]}
train: {lr: [0.1, 1], epochs: 2}
variants: [{data: digits}, {data: {name: bump, validation: 0}}]
"""


def checked(metric, data="digits", text="tune: lr", expect="less", grid=MIXED):
    spec = claim(f"where: {{data: {data}}}, {AB}, {text}".rstrip(", "), metric, expect, grid)
    tasks = {s.data: "regression" if s.data.name == "bump" else "classification" for s in spec.settings}
    if problems := claim_problems(spec, study_tables(spec, tasks.values()), tasks):
        raise SpecError(problems)


@pytest.mark.parametrize(
    ("metric", "data"),
    [
        ("fit_accuracy", "digits"),
        ("test_loss", "digits"),
        ("fit_unexplained", "bump"),
        ("train_r2", "bump"),
        ("{table: curves, column: fit_unexplained}", "bump"),
        ("{table: curves, column: test_accuracy, over: max}", "digits"),
        ("{table: activations, column: sd, layer: 1, tap: activation}", "digits"),
        ("{table: activations, column: sd, layer: 3}", "digits"),
        ("{table: units, column: p85, layer: 2, tap: preactivation, unit: 21, epoch: 2}", "digits"),
        ("{table: parameters, column: weight_norm, layer: 3, over: sum}", "digits"),
    ],
)
def test_metrics_that_are_recorded(metric, data):
    checked(metric, data)


@pytest.mark.parametrize(
    ("metric", "data", "path", "words"),
    [
        ("fit_accuracy", "bump", "metric", "does not exist for data bump, a regression"),
        ("test_unexplained", "digits", "metric", "does not exist for data digits, a classification"),
        ("fit_los", "digits", "metric", "did you mean 'fit_loss'?; metrics: train_loss"),
        ("fit_loss_batch", "digits", "metric", "evaluate: [batch] records it"),
        ("n_parameters", "digits", "metric", "not recorded"),
        ("val_loss", "bump", "metric", "data.validation is 0"),
        ("test_loss", "bump", "tune", "test rows choose nothing: val_loss is not recorded: data.validation is 0"),
        ("{table: curves, column: test_loss}", "bump", "tune", "validation chooses for test_loss"),
        ("{table: activation, column: sd}", "digits", "metric.table", "did you mean 'activations'?; tables of this"),
        ("{table: runs, column: fit_loss}", "digits", "metric.table", "measure: switches tables on"),
        ("{table: parameters, column: norm, layer: 1}", "digits", "metric.column", "columns: weight_norm, bias_norm"),
        ("{table: curves, column: tset_loss}", "digits", "metric.column", "did you mean 'test_loss'?"),
        ("{table: activations, column: sd, layr: 1, tap: activation}", "digits", "metric.layr", "mean 'layer'?"),
        ("{table: curves, column: fit_loss, layer: 1}", "digits", "metric.layer", "curves.csv has no labels"),
        ("{table: activations, column: sd, layer: 1}", "digits", "metric", "free is tap (preactivation, "),
        ("{table: activations, column: sd}", "digits", "metric", "free are layer (1, 2, 3), tap (preactivation"),
        ("{table: units, column: sd, layer: 1, tap: activation}", "digits", "metric", "unit (0, 21, 42, 63)"),
        ("{table: activations, column: sd, layer: 4, tap: activation}", "digits", "metric.layer", "layer is: 1, 2, 3"),
        ("{table: activations, column: sd, layer: 1, tap: affine}", "digits", "metric.tap", "no tap affine on both"),
        ("{table: units, column: sd, layer: 1, tap: activation, unit: 5}", "digits", "metric.unit", "0, 21, 42, 63"),
        ("{table: parameters, column: weight_norm, layer: 1, epoch: 9}", "digits", "metric.epoch", "epochs is 2"),
        ('{largest: lr, such_that: [fit_r2, ">", 0.5]}', "digits", "metric.such_that", "a classification"),
    ],
)
def test_metrics_that_are_not_recorded(metric, data, path, words):
    with pytest.raises(SpecError) as caught:
        checked(metric, data, "" if "such_that" in metric else "tune: lr")
    problem = caught.value.problems[0]
    assert (problem.path, problem.where.split(":")[0]) == (f"claims.{path}", "test.yaml")
    assert words in problem.message
    assert caught.value.problems[-1].message.endswith("claims=[]")


def test_margins_of_table_columns():
    metric = "{table: parameters, column: weight_norm, layer: 1}"
    checked(metric, text="tune: lr, within: 10%, why: w", expect="equal")
    with pytest.raises(SpecError, match="compared as a ratio"):
        checked(metric, text="tune: lr, within: 3, why: w", expect="equal")
    raw = "{table: activations, column: mean, layer: 1, tap: activation}"
    with pytest.raises(SpecError, match="compared as a difference"):
        checked(raw, text="tune: lr, within: 10%, why: w", expect="equal")


def test_taps_are_those_that_training_records(tmp_path):
    from tools import make_dataset, runs_of, train_runs

    spec = make_spec(
        "data: digits\nmodel: {hidden: [8, 4], norm: [none, standardize, affine, full, scale, beta], "
        "placement: [pre, post]}\ntrain: {epochs: 1}\nseeds: 1"
    )
    dataset = make_dataset()
    for run in runs_of(spec, dataset):
        (first, *_) = train_runs(spec, dataset, [run])
        read = [r.labels for r in first.records if r.table == "activations" and (r.present is None or r.present[0])]
        expected = [(str(layer), tap) for layer in (1, 2, 3) for tap in taps_of(run.setting, layer)]
        assert read == expected


# --- both sides' numbers ----------------------------------------------------------------------------------------------

A = [0.91, 0.93, 0.95, 0.92, 0.94, 0.96, 0.97, 0.9, 0.93, 0.95]
B = [0.89, 0.94, 0.9, 0.91, 0.9, 0.93, 0.96, 0.88, 0.91, 0.9]
TWO = f"""data: digits
model: {{norm: [none, full]}}
seeds: 10
claims: [{{claim: c, {AB}, metric: METRIC, expect: less}}]
"""
LRS = TWO.replace("seeds", "train: {lr: [0.1, 1, 10]}\nseeds")


def one(results):
    (row,) = list_claims(results)
    return row


def test_a_raw_difference_against_scipy(tmp_path):
    values = {"full": A, "none": B}
    body = TWO.replace("METRIC", "test_accuracy")
    row = one(study(tmp_path, body, lambda f, s: {"test_accuracy": values[f["norm"]][s]}))
    expected = scipy.stats.ttest_rel(A, B).confidence_interval(0.95)
    difference = row.a.difference
    assert (row.a.estimate.center, row.b.estimate.center) == pytest.approx((np.mean(A), np.mean(B)), abs=1e-9)
    assert difference.center == pytest.approx(np.mean(A) - np.mean(B), abs=1e-9)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert (row.a.n, row.a.n_learned, row.a.paired, row.n_unfinished, row.notes) == (10, 10, True, 0, ())
    lines = dict(row_lines(row))
    assert lines["a − b"] == "+2.4 [+1.0, +3.8] points, 10 pairs"


def test_a_ratio_against_scipy(tmp_path):
    values = {"full": A, "none": B}
    row = one(study(tmp_path, TWO.replace("METRIC", "fit_loss"), lambda f, s: {"fit_loss": values[f["norm"]][s]}))
    logs = scipy.stats.ttest_rel(np.log(A), np.log(B)).confidence_interval(0.95)
    assert row.a.difference.center == pytest.approx(scipy.stats.gmean(A) / scipy.stats.gmean(B), abs=1e-9)
    assert (row.a.difference.low, row.a.difference.high) == pytest.approx(tuple(np.exp(logs)), abs=1e-9)
    assert row.a.estimate.center == pytest.approx(scipy.stats.gmean(A), abs=1e-9)


def test_failed_runs_are_ranked_worst(tmp_path):
    def outcome(fields, seed):
        if fields["norm"] == "full" and seed < 6:
            return {"status": "diverged", "learned": "false"} if seed < 3 else {"fit_loss": 0.01, "learned": "false"}
        return {"fit_loss": 1 + seed / 10}

    row = one(study(tmp_path, TWO.replace("METRIC", "fit_loss"), outcome))
    assert (row.a.n, row.a.n_learned, row.a.n_diverged) == (10, 4, 3)
    assert row.a.difference.kind == "median ratio"
    assert row.a.difference.center == math.inf
    assert dict(row_lines(row))["a / b"] == "a failed in the middle pair, interval [1, ∞], 10 pairs"


def test_each_side_at_its_own_best_by_the_other_seeds(tmp_path):
    test = {("full", "0.1"): 0.9, ("full", "1"): 0.95, ("full", "10"): 0.2}
    test |= {("none", "0.1"): 0.3, ("none", "1"): 0.5, ("none", "10"): 0.92}
    wobble = [0.001 * s for s in range(10)]

    def outcome(fields, seed):
        right = test[fields["norm"], fields["lr"]] + wobble[seed]
        return {"val_accuracy": right, "test_accuracy": right - 0.01 * (fields["norm"] == "none")}

    body = LRS.replace("METRIC", "test_accuracy, tune: lr")
    row = one(study(tmp_path, body, outcome))
    assert row.tuned_by == "val_accuracy"
    assert (row.a.chosen, row.b.chosen) == ({"1": 10}, {"10": 10})
    assert row.a.estimate.center == pytest.approx(0.95 + np.mean(wobble))
    assert row.a.difference.center == pytest.approx(0.04)
    assert row.b.edges == ("10",)
    lines = dict(row_lines(row))
    assert lines["lr"] == "each side at its best, chosen for each seed by val_accuracy of the other seeds"


def test_nothing_is_tuned_by_test_rows(tmp_path):
    body = LRS.replace("METRIC", "test_accuracy, tune: lr")
    row = one(study(tmp_path, body, lambda f, s: {"test_accuracy": A[s]}))
    assert (row.a.estimate, row.a.difference, row.tuned_by) == (None, None, "")
    assert "no val_accuracy was recorded, and test rows choose nothing" in row.notes[0]


def test_the_largest_rate_at_which_a_run_learned(tmp_path):
    reach = {"full": [1, 10, 10, 1, 10, 10, 1, 10, 10, 10], "none": [0.1, 1, 1, 0.1, 1, 1, 1, 0.1, 1, 1]}

    def outcome(fields, seed):
        learned = float(fields["lr"]) <= reach[fields["norm"]][seed]
        return {"fit_accuracy": 0.995 if learned else 0.1, "learned": str(learned).lower()}

    for metric in ("{largest: lr, such_that: learned}", '{largest: lr, such_that: [fit_accuracy, ">=", 0.99]}'):
        name = "learned" if "learned" in metric else "threshold"
        row = one(study(tmp_path, LRS.replace("METRIC", metric), outcome, name))
        assert row.metric.scale == "log"
        assert row.a.values == dict(enumerate(map(float, reach["full"])))
        assert row.a.estimate.center == pytest.approx(scipy.stats.gmean(reach["full"]))
        ratio = scipy.stats.gmean(np.divide(reach["full"], reach["none"]))
        assert row.a.difference.center == pytest.approx(ratio)
        assert (row.n_runs, row.n_unfinished) == (60, 0)
    smallest = one(study(tmp_path, LRS.replace("METRIC", "{smallest: lr, such_that: learned}"), outcome, "smallest"))
    assert smallest.a.values == dict.fromkeys(range(10), 0.1)


def test_seeds_that_learn_at_no_rate_fail(tmp_path):
    def outcome(fields, seed):
        learned = fields["norm"] == "full" or (seed < 2 and fields["lr"] == "0.1")
        return {"fit_accuracy": 0.9, "learned": str(learned).lower()}

    metric = "{largest: lr, such_that: learned}"
    row = one(study(tmp_path, LRS.replace("METRIC", metric), outcome))
    assert (row.b.n, row.b.n_learned, row.b.n_diverged) == (10, 2, 0)
    lines = row_lines(row)
    assert ("", "none [none, 0.1], median; 10 seeds, 2 with one") in lines
    assert dict(lines)["a / b"] == "b failed in the middle pair, interval [100, ∞], 10 pairs"
    never = one(
        study(tmp_path, LRS.replace("METRIC", metric), lambda f, s: {"fit_loss": 1, "learned": "false"}, "never")
    )
    assert dict(row_lines(never))["a / b"] == "both sides failed in every run, 10 pairs"


def test_unfinished_runs_are_said(tmp_path):
    def outcome(fields, seed):
        return None if seed > 6 and fields["lr"] == "10" else {"fit_loss": A[seed] * float(fields["lr"])}

    row = one(study(tmp_path, LRS.replace("METRIC", "fit_loss, tune: lr"), outcome))
    assert (row.n_runs, row.n_unfinished) == (60, 6)
    assert ("note", "6 of 60 runs are not finished") in row_lines(row)
    ends = one(study(tmp_path, LRS.replace("METRIC", "{largest: lr, such_that: learned}"), outcome, "ends"))
    assert (ends.a.n, ends.a.n_missing) == (7, 3)
    nothing = one(study(tmp_path, TWO.replace("METRIC", "fit_loss"), lambda f, s: None, "nothing"))
    assert ("", "no finished runs") in row_lines(nothing)
    assert dict(row_lines(nothing))["a / b"] == "–"


TABLES = """
name: t
data: digits
model: {norm: [none, full], placement: [pre, post]}
train: {lr: [0.1, 0.3]}
seeds: 6
claims:
"""


def table_rows(tmp_path, *claims, status=lambda setting, seed: "done", meta=None):
    lines = "".join(f"  - {{claim: c, {text}, expect: less}}\n" for text in claims)
    folder = tmp_path / "t"
    results = tiny_study(folder, TABLES + lines, status, ("curves", "activations", "units", "parameters"))
    if meta:
        found = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**found, **meta}))
        results = load_results([folder])[0]
    return list_claims(results)


def test_table_metrics_over_epochs_and_labels(tmp_path):
    fixed = f"where: {{lr: 0.3, placement: post}}, {AB}"
    metric = "metric: {table: activations, column: mean, layer: 1, tap: activation, over: OVER}"
    rows = table_rows(
        tmp_path,
        *(f"{fixed}, {metric.replace('OVER', over)}" for over in ("mean", "max", "last", "sum")),
        f"{fixed}, {metric.replace('over: OVER', 'epoch: 2')}",
        f"{fixed}, metric: {{table: activations, column: saturated, layer: 1, tap: activation, over: mean}}",
        f"{fixed}, metric: {{table: units, column: p85, layer: 2, tap: activation, unit: 3}}",
    )
    # studies.py: mean = 0.1·epoch + place of the tap, which is 1 for activation; epochs 0 to 3
    assert [row.a.estimate.center for row in rows] == pytest.approx([1.15, 1.3, 1.3, 4.6, 1.2, 0.15, 8])
    assert all(row.a.difference.center == pytest.approx(0) for row in rows)
    assert rows[0].metric.scale == "raw"


def test_table_metrics_as_ratios_with_a_chooser(tmp_path):
    metric = "metric: {table: parameters, column: gamma_norm, layer: 1}"
    text = f"where: {{norm: full, placement: pre}}, a: {{lr: 0.3}}, b: {{lr: 0.1}}, {metric}"
    tuned = (
        f"each: [placement], {AB}, tune: lr, metric: {{table: parameters, column: weight_norm, layer: 2, over: sum}}"
    )
    ratio, *rows = table_rows(
        tmp_path, text, tuned, meta={"log_columns": {"parameters": ["weight_norm", "gamma_norm"]}}
    )
    assert ratio.a.estimate.center == pytest.approx(scipy.stats.gmean([2.0 + s for s in range(6)]))
    assert ratio.a.difference.center == pytest.approx(1)
    assert [row.tuned_by for row in rows] == ["train_loss"] * 2
    assert [row.a.estimate.center for row in rows] == pytest.approx([10] * 2)  # 1 + 2 + 3 + 4


def test_in_tables_only_a_diverged_run_failed(tmp_path):
    def status(setting, seed):
        if setting.model.norm == "none":
            return "idle"
        return "diverged" if seed == 0 else "done"

    metric = "metric: {table: activations, column: mean, layer: 1, tap: activation}"
    (row,) = table_rows(tmp_path, f"where: {{lr: 0.3, placement: pre}}, {AB}, {metric}", status=status)
    assert (row.b.n, row.b.n_learned, row.b.estimate.kind) == (6, 0, "mean")
    assert (row.a.n_learned, row.a.n_diverged, row.a.estimate.kind) == (5, 1, "median")
    assert "1 of 6 diverged" in row.a.note
    assert row.a.difference.kind == "median difference"


def test_a_table_that_is_not_there_is_said(tmp_path):
    folder = tmp_path / "t"
    text = f"{TABLES}  - {{claim: c, where: {{lr: 0.3, placement: pre}}, {AB}, expect: less, metric: METRIC}}\n"
    for number, (metric, words) in enumerate(
        [
            ("{table: shift, column: x}", "no shift.csv was recorded"),
            ("{table: activations, column: x}", "no column of numbers x"),
            ("{table: activations, column: tap}", "no column of numbers tap"),
            ("{table: activations, column: mean, layer: 1}", "the metric names too few labels"),
            ("speed", "no such metric: speed"),
        ]
    ):
        row = one(tiny_study(folder / str(number), text.replace("METRIC", metric)))
        assert words in row.notes[0]
        assert row.a.estimate is None
        assert dict(row_lines(row))["a − b"] == "–"


def test_runs_of_none_count_once_wherever_they_were_trained(tmp_path):
    def status(setting, seed):
        return (
            "pending" if setting.model.norm == "none" and (setting.model.placement == "pre") == (seed < 3) else "done"
        )

    (row, other) = table_rows(
        tmp_path, f"where: {{lr: 0.3}}, each: [placement], {AB}, metric: test_accuracy", status=status
    )
    assert row.b.n == other.b.n == 6
    setting = other.question.b.settings[""]
    assert row.b.estimate.center == pytest.approx(np.mean([accuracy(setting, seed) for seed in range(6)]))


# --- what people see --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "sd"), [(5, 2), (7, 1.5), (13, 1), (21, 0.75), (44, 0.5)])
def test_what_n_resolves(n, sd):
    assert resolvable(n) <= sd < resolvable(n - 1)


def test_what_n_resolves_is_the_power_of_simulated_studies():
    draws = np.random.default_rng(0).normal(size=(100_000, 10))
    half = scipy.stats.t.ppf(0.975, 9) * draws.std(1, ddof=1) / math.sqrt(10)
    inside = np.abs(draws.mean(1)) + half <= resolvable(10)
    assert inside.mean() == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 100_000))
    assert resolvable(1) is None


def test_lines_of_check():
    spec = claim(f"{WHERE}, {AB}, tune: lr, within: 10%, why: w, source: s", expect="equal")
    (question,) = resolve_claims(spec)
    assert heading(question) == "claim 1: c"
    assert dict(planned_lines(question, 10)) == {
        "source": "s",
        "expect": "a equal to b within 10%",
        "why": "w",
        "metric": "fit_loss",
        "a": "norm=full, placement=pre, activation=relu, hidden=4",
        "b": "norm=none, placement=pre, activation=relu, hidden=4",
        "lr": "tuned, each side at its best of 0.1, 1",
        "n": "10 seeds on each side; resolves 1.2 SD of the paired difference in 80 % of studies",
    }
    assert dict(planned_lines(question, 1))["n"] == "1 seed on each side: no interval"
    assert isinstance(claim(f"{WHERE}, {AB}", "{largest: lr, such_that: learned}").claims[0].metric, KnobMetric)


def test_free_text_stays_in_one_line_and_moves_no_cursor():
    spec = make_spec(
        f'{GRID}claims: [{{claim: "a\\u202e[31m\\nb", {WHERE}, {AB}, tune: lr, metric: fit_loss, expect: less}}]'
    )
    assert heading(resolve_claims(spec)[0]) == "claim 1: a [31m b"


def test_a_knob_whose_values_make_differences(tmp_path):
    body = TWO.replace("seeds", "train: {momentum: [0, 0.5, 0.9]}\nseeds")
    body = body.replace("METRIC", "{largest: momentum, such_that: learned}")

    def outcome(fields, seed):
        return {"fit_loss": 1, "learned": str(fields["norm"] == "full" or float(fields["momentum"]) == 0).lower()}

    row = one(study(tmp_path, body, outcome))
    assert (row.metric.scale, row.a.estimate.center, row.b.estimate.center) == ("raw", 0.9, 0)
    assert row.a.difference.center == pytest.approx(0.9)
    assert ("", "0, mean; 10 seeds, 10 with one") in row_lines(row)


def test_records_say_what_trained_them(tmp_path):
    body = TWO.replace("METRIC", "fit_loss")
    results = study(tmp_path, body, lambda f, s: {"fit_loss": A[s], "test_accuracy": A[s]})
    found = json.loads((results.folder / "meta.json").read_text())
    versions = {"bnexp": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "numpy": "2"}
    (results.folder / "meta.json").write_text(json.dumps({**found, "versions": versions}))
    again = load_results([results.folder])[0]
    said = "bnexp 0.1.0, torch 2.13.0+cpu, python 3.11.7"
    assert {r["versions"] for r in to_records(compare_runs(again)[0])} == {said}
    records = claim_records(one(again))
    assert [(r["table"], r["side"], r["n"], r["versions"]) for r in records] == [
        ("claim 1", side, 10, said) for side in ("a", "b", "difference")
    ]
    assert one(results).versions == ""


CONFIG = """
name: small
data: {name: digits, subset: 200}
model: {hidden: [8, 8], norm: [none, full], placement: [pre, post]}
train: {epochs: 2, lr: [0.1, 1]}
seeds: 3
claims:
  - claim: Full fits better.
    where: {placement: pre}
    a: {norm: full}
    b: {norm: none}
    metric: fit_loss
    tune: lr
    expect: less
  - claim: Weights end alike.
    each: [placement]
    where: {train.lr: 1}
    a: {norm: full}
    b: {norm: none}
    metric: {table: parameters, column: weight_norm, layer: 2}
    expect: equal
    within: 10%
    why: because
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    (folder / "small.yaml").write_text(CONFIG)
    done = bnexp("train", "small.yaml", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    return folder


def test_check_says_what_would_run_and_trains_nothing(tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG)
    found = bnexp("check", "small.yaml", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "next: bnexp train small.yaml\n")
    assert found.stdout.startswith(bnexp("train", "small.yaml", "--dry-run", cwd=tmp_path).stdout)
    for words in ("claim 1: Full fits better.", "claim 2, placement=post: Weights", "tuned, each side at its best of"):
        assert words in found.stdout
    assert not (tmp_path / "results").exists()
    document = json.loads(bnexp("check", "small.yaml", "seeds=4", "--out", "x", "--json", cwd=tmp_path).stdout)
    assert (document["schema"], document["folder"], document["runs"], len(document["claims"])) == (1, "x", 32, 3)
    assert document["claims"][0]["n"] == 4
    assert document["claims"][0]["grid"] == {"a": ["0.1", "1"], "b": ["0.1", "1"]}
    assert document["claims"][0]["a"] == {"setting": {"norm": "full", "placement": "pre"}, "runs": 8}


@pytest.mark.parametrize("command", [["check"], ["train"], ["train", "--dry-run"]])
def test_wrong_claims_exit_2_before_anything_is_written(command, tmp_path):
    (tmp_path / "small.yaml").write_text(CONFIG.replace("layer: 2", "layer: 9").replace("weight_norm", "weigth_norm"))
    found = bnexp(*command, "small.yaml", cwd=tmp_path)
    assert found.returncode == 2
    assert "small.yaml:20:41: error: claims.metric.column: no column 'weigth_norm'" in found.stderr
    assert "claims.metric.layer: no layer 9" in found.stderr
    assert "did you mean 'weight_norm'?" in found.stderr
    found = bnexp(*command, "small.yaml", "train.lr=0.3", cwd=tmp_path)
    assert found.returncode == 2
    assert "no lr=1 in this study; lr is: 0.3" in found.stderr
    assert "claims=[]" in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "results").exists()
    assert bnexp("check", "small.yaml", "train.lr=0.3", "claims=[]", cwd=tmp_path).returncode == 0


def test_compare_lists_the_claims_after_the_tables(place):
    out = bnexp("compare", cwd=place).stdout
    assert out == (place / "first.txt").read_text()
    assert out.index("at equal lr") < out.index("claim 1: Full fits better.") < out.index("do not cover")
    assert "claim 2, placement=post: Weights end alike." in out
    for options in (["--where", "norm=full"], ["--metric", "fit_loss"]):
        assert "claim 1" not in bnexp("compare", *options, cwd=place).stdout
    assert "claim 1" in bnexp("compare", "--by", "placement", cwd=place).stdout


def test_claims_in_every_format(place):
    document = json.loads(bnexp("compare", "--format", "json", cwd=place).stdout)
    first, second, third = document["claims"]
    assert (first["claim"], first["tuned_by"], first["a"]["norm"], first["a"]["n"]) == (1, "fit_loss", "full", 3)
    assert [second["each"], third["each"]] == [{"placement": "pre"}, {"placement": "post"}]
    assert first["difference"]["kind"].startswith(("ratio", "median ratio"))
    assert first["versions"].startswith("bnexp ")
    assert "torch" in document["comparisons"][0]["rows"][0]["versions"]
    rows = list(csv.DictReader(io.StringIO(bnexp("compare", "--format", "csv", cwd=place).stdout)))
    claims = [row for row in rows if row["table"].startswith("claim ")]
    assert [row["side"] for row in claims] == ["a", "b", "difference"] * 3
    assert float(claims[2]["center"] or "nan") == pytest.approx(first["difference"]["center"] or math.nan, nan_ok=True)
    assert all(row["versions"].startswith("bnexp ") for row in rows)
    assert "**claim 1: Full fits better.**" in bnexp("compare", "--format", "markdown", cwd=place).stdout
    latex = bnexp("compare", "--format", "latex", cwd=place).stdout
    assert r"claim 1 & Full fits better. \\" in latex
    assert r"weight\_norm" in latex
    trained = json.loads(bnexp("train", "small.yaml", "--json", cwd=place).stdout)
    assert trained["claims"] == document["claims"]


def test_claims_may_change_without_training(place):
    (place / "other.yaml").write_text(CONFIG.replace("Full fits better.", "Full fits much better."))
    found = bnexp("train", "other.yaml", "--out", "results/small", cwd=place)
    assert found.returncode == 0, found.stderr
    assert "nothing was trained" in found.stderr
    assert "Full fits much better." in found.stdout
    assert bnexp("train", "small.yaml", cwd=place).returncode == 0
    log = json.loads((place / "results/small/meta.json").read_text())["log_columns"]
    assert "weight_norm" in log["parameters"]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("{table: shift, column: moved, layer: 1, tap: activation, since: begin}", "since is: previous, start"),
        ("{table: shift, column: moved, layer: 3, tap: activation, since: start}", "layer is: 1, 2"),
        ("{table: shift, column: moved, layer: 1, tap: activation, since: start, epoch: 0}", "begins with epoch 1"),
        ("{table: ics, column: relative, layer: 2, epoch: 0}", "begins with epoch 1"),
        ("{table: ics, column: relative, layer: 4}", "layer is: 1, 2, 3"),
        ("{table: identity, column: exact, layer: 1, epoch: 7}", "not read at epoch 7: every is 0"),
        ("{table: landscape, column: loss, step_rule: relativ}", "step_rule is: lr, relative"),
        ("{table: landscape, column: loss}", "still free is step_rule (lr, relative)"),
        ("{table: identity, column: exact, layer: 3}", "layer is: 1, 2"),
        ("{table: conversions, column: max_difference, conversion: none}", "conversion is: full, standardize"),
    ],
)
def test_rows_that_cannot_exist_are_found_before_training(metric, words):
    spec = make_spec(
        "data: digits\nmodel: {norm: [standardize, full]}\nmeasure: [shift, ics, landscape, identity]\nclaims:\n"
        f"  - {{claim: c, a: {{norm: full}}, b: {{norm: standardize}}, metric: {metric}, expect: less}}"
    )
    tasks = {setting.data: "classification" for setting in spec.settings}
    (problem,) = claim_problems(spec, study_tables(spec, {"classification"}), tasks)
    assert words in problem.message
