"""A column of a per-epoch table as the metric of ``compare``: its numbers by hand, its failures, its mistakes."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from studies import study
from test_cli import bnexp
from test_experiment import Silent
from tools import make_spec

from bnexp.claims import metric_text, table_metric
from bnexp.comparison import compare_runs, list_claims, to_records
from bnexp.comparison.metrics import DIVERGENCE, LEARNING, Metric
from bnexp.comparison.rows import make_row
from bnexp.comparison.selection import Outcome
from bnexp.console import print_comparisons
from bnexp.errors import UsageError
from bnexp.experiment import Request, run_experiment
from bnexp.results import load_results
from bnexp.wording import difference_text, estimate_text, is_percent, metric_title, notes_of

TEXT = "name: s\ndata: digits\nmodel: {norm: [none, full]}\ntrain: {lr: [0.1, 0.3]}\nseeds: 6\n"
ALL = ("curves", "activations", "units", "parameters")
INF = math.inf


def always(status):
    return lambda setting, seed: status


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Noise in weight_norm, so that differences have an interval; compared on logs."""
    folder = tmp_path_factory.mktemp("columns") / "s"
    study(folder, TEXT, tables=ALL)
    frame = pd.read_csv(folder / "parameters.csv")
    noise = np.random.default_rng(0).lognormal(size=len(frame))
    frame["weight_norm"] = (frame["weight_norm"] * noise).where(frame["epoch"] > 0)  # no value at epoch 0
    frame.to_csv(folder / "parameters.csv", index=False)
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "log_columns": {"parameters": ["weight_norm"]}}))
    return load_results([folder])[0]


def only(results, metric, **options):
    (comparison,) = compare_runs(results, metric=metric, **options)
    return comparison


def by_hand(results, norm, lr, over, layer=2):
    """weight_norm of each seed, by pandas alone."""
    frame = pd.read_csv(results.folder / "parameters.csv").query(f"layer == {layer}").dropna(subset="weight_norm")
    runs = frame.groupby("run")["weight_norm"].agg(over)
    return np.array([runs[f"norm={norm},lr={lr},seed={seed}"] for seed in range(6)])


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", ["mean", "max", "sum", "last"])
def test_means_and_ratios_against_pandas_and_scipy(results, over):
    comparison = only(results, f"parameters.weight_norm:layer=2{'' if over == 'last' else f',over={over}'}")
    assert (comparison.scale, comparison.tuned_by, len(comparison.rows)) == ("log", "train_loss", 4)
    for row in comparison.rows:
        values = by_hand(results, **row.setting, over=over)
        low, high = scipy.stats.t.interval(0.95, 5, np.log(values).mean(), scipy.stats.sem(np.log(values)))
        estimate = row.estimate
        assert (estimate.center, estimate.low, estimate.high) == pytest.approx(
            (scipy.stats.gmean(values), math.exp(low), math.exp(high))
        )
    full, none = (by_hand(results, norm, 0.3, over) for norm in ("full", "none"))
    expected = scipy.stats.ttest_rel(np.log(full), np.log(none)).confidence_interval(0.95)
    (row,) = (row for row in comparison.rows if row.setting == {"norm": "full", "lr": "0.3"})
    assert row.paired
    assert (row.difference.low, row.difference.high) == pytest.approx((math.exp(expected.low), math.exp(expected.high)))
    assert difference_text(row, comparison.metric).startswith("× ")


def test_one_epoch_and_raw_columns(results):
    comparison = only(results, "activations.mean:layer=1,tap=activation,epoch=2")
    assert (comparison.scale, comparison.higher_is_better) == ("raw", False)
    place = {"none": 1, "full": 3}  # studies.py: 0.1·epoch + place of the tap
    for row in comparison.rows:
        assert row.estimate.center == pytest.approx(0.2 + place[row.setting["norm"]])
    assert difference_text(comparison.rows[2], comparison.metric) == "+2"
    assert only(results, "units.p85:layer=2,tap=activation,unit=3").rows[0].estimate.center == pytest.approx(8)


def test_each_seed_at_the_rate_that_losses_of_the_others_choose(results):
    comparison = only(results, "parameters.weight_norm:layer=1")
    runs = results.runs.set_index("run")["train_loss"]
    for row in comparison.best_rows:
        norm, expected = row.setting["norm"], []
        for seed in range(6):
            logs = {
                lr: np.mean([math.log(runs[f"norm={norm},lr={lr},seed={s}"]) for s in range(6) if s != seed])
                for lr in (0.1, 0.3)
            }
            expected.append(by_hand(results, norm, min(logs, key=logs.get), "last", layer=1)[seed])
        assert list(row.values.values()) == pytest.approx(expected)
        assert row.chosen == {"0.3": 6}


def test_a_claim_of_the_same_column_has_the_same_numbers(tmp_path, results):
    text = (results.folder / "spec.yaml").read_text() + (
        "claims:\n  - {claim: c, a: {norm: full}, b: {norm: none}, tune: lr, expect: less, "
        "metric: {table: parameters, column: weight_norm, layer: 2, over: mean}}\n"
    )
    folder = tmp_path / "s"
    folder.mkdir()
    for path in results.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "spec.yaml").write_text(text)
    again = load_results([folder])[0]
    (claim,), comparison = list_claims(again), only(again, "parameters.weight_norm:layer=2,over=mean")
    none, full = comparison.best_rows
    assert (claim.a.difference, claim.a.estimate, claim.b.estimate) == (full.difference, full.estimate, none.estimate)
    assert claim.tuned_by == comparison.tuned_by
    assert claim.metric.name == comparison.metric


def test_curves_are_compared_as_the_metrics_of_runs(results):
    comparison = only(results, "curves.test_accuracy:over=mean")
    assert (comparison.metric, comparison.scale, comparison.higher_is_better) == ("test_accuracy", "raw", True)
    assert comparison.tuned_by == "val_accuracy"
    curves = pd.read_csv(results.folder / "curves.csv").groupby("run")["test_accuracy"].mean()
    expected = np.mean([curves[f"norm=none,lr=0.1,seed={seed}"] for seed in range(6)])
    row = comparison.rows[0]
    assert row.estimate.center == pytest.approx(expected)
    assert estimate_text(row.estimate, comparison.metric).startswith(f"{100 * expected:.1f} [")
    assert metric_title(comparison) == "curves test_accuracy, mean over epochs, %"


# --- failed runs and rows that do not exist ---------------------------------------------------------------------------


METRIC = "activations.mean:layer=1,tap=activation"


def test_what_did_not_learn_counts_as_measured_and_what_diverged_failed(tmp_path):
    def status(setting, seed):
        if setting.model.norm == "none":
            return "idle"
        return "diverged" if seed < 4 else "done"

    comparison = only(study(tmp_path / "s", TEXT, status), METRIC)
    none, full = comparison.rows[0], comparison.rows[2]
    assert (none.n, none.n_learned, none.n_failed, none.estimate.kind) == (6, 0, 0, "mean")
    assert (full.n_learned, full.n_diverged, full.n_failed, full.estimate.kind) == (2, 4, 4, "median")
    assert full.note.startswith("4 of 6 diverged")
    assert full.of_learned.kind == "mean of the 2 that did not diverge"
    assert "mean of the 2 that did not diverge: 3.3" in notes_of(full, comparison.metric)
    assert difference_text(full, comparison.metric) == "diverged"
    assert to_records(comparison)[2]["difference_center"] == math.inf


@pytest.mark.parametrize(
    ("norms", "words"),
    [({"none"}, "baseline diverged"), ({"full"}, "diverged"), ({"none", "full"}, "both diverged")],
)
@pytest.mark.parametrize("metric", [METRIC, "curves.test_accuracy", "curves.train_loss"])
def test_differences_to_and_of_diverged_runs_in_words(tmp_path, norms, words, metric):
    results = study(
        tmp_path / "s",
        TEXT,
        lambda setting, seed: "diverged" if setting.model.norm in norms else "done",
        ("curves", *ALL),
    )
    comparison = only(results, metric)
    assert difference_text(comparison.rows[2], comparison.metric) == words


def row_against(ours, theirs, metric, diverged=()):
    def runs(values):
        return {
            s: Outcome(s, s not in diverged, s in diverged, f"w{s}", f"o{s}", {metric.name: value})
            for s, value in enumerate(values)
        }

    return make_row({}, runs(ours), range(6), metric, runs(theirs), False)


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ([0.0] * 6, [1.0] * 6, "0"),
        ([1.0] * 6, [0.0] * 6, "baseline is 0"),
        ([INF] * 6, [1.0] * 6, "not finite"),
        ([1.0] * 6, [INF] * 6, "baseline not finite"),
        ([2.0] * 6, [1.0] * 6, "× 2"),
    ],
)
def test_zeros_and_infinities_are_no_failures(ours, theirs, words):
    for failing in (LEARNING, DIVERGENCE):
        metric = Metric("t.c", "log", False, failing)
        assert difference_text(row_against(ours, theirs, metric), metric.name) == words


def test_settings_without_the_row_have_no_number_and_are_no_error(results):
    comparison = only(results, "activations.mean:layer=1,tap=standardized")
    none, full = comparison.rows[0], comparison.rows[2]
    assert (none.estimate, none.note) == (None, "no activations.mean was recorded")
    assert (full.estimate.n, full.difference) == (6, None)
    assert difference_text(full, comparison.metric) == "–"
    assert only(results, "parameters.gamma_norm:layer=1").rows[0].estimate is None


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        ("parameters.gamma_norm:layer=3", {}),
        ("parameters.gamma_norm:layer=1", {"where": {"norm": "none"}}),
        ("curves.fit_loss", {}),
    ],
)
def test_a_column_without_any_number_is_an_error(tmp_path, results, metric, options):
    if metric == "curves.fit_loss":
        folder = tmp_path / "s"
        results = study(folder, TEXT)
        frame = pd.read_csv(folder / "curves.csv").assign(fit_loss=np.nan)
        frame.to_csv(folder / "curves.csv", index=False)
    with pytest.raises(UsageError, match="was not recorded for s"):
        only(results, metric, **options)


def test_a_study_without_finished_runs_has_empty_rows(tmp_path):
    comparison = only(study(tmp_path / "s", TEXT, always("pending"), ()), "shift.moved:layer=1")
    assert [row.n for row in comparison.rows] == [0] * 4
    assert comparison.metric_text == "shift moved, layer 1, last epoch"


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (
            "parametrs.weight_norm",
            "no table 'parametrs' is recorded; did you mean 'parameters'?; tables of this study: a",
        ),
        ("../s/runs.x", "TABLE.COLUMN:label=value"),
        ("runs.train_loss", "no table 'runs' is recorded"),
        ("parameters.weigth_norm:layer=1", "no column 'weigth_norm' in parameters.csv; did you mean 'weight_norm'?"),
        ("parameters.layer", "columns: weight_norm, gamma_norm"),
        ("activations.tap:layer=1", "no column 'tap'"),
        ("parameters.weight_norm", "not one row per run and epoch: still free is layer (1, 2, 3)"),
        ("activations.mean:layer=3,tap=affine", "no tap affine in activations.csv; tap is: preactivation"),
        ("activations.mean:tap=affine", "still free is layer (1, 2)"),
        ("units.p50:layer=1", "still free are tap (preactivation, activation, standardized, affine), unit (0, 3)"),
        ("parameters.weight_norm:layer=9", "layer: no layer 9 in parameters.csv; layer is: 1, 2, 3"),
        (
            "parameters.weight_norm:layr=1",
            "layr: no such label; did you mean 'layer'?; labels of parameters.csv: layer",
        ),
        ("curves.test_accuracy:layer=1", "curves.csv has no labels"),
        ("curves.test_acuracy", "did you mean 'test_accuracy'?"),
        ("parameters.weight_norm:layer=1,epoch=7", "epoch: no epoch 7 in parameters.csv; epoch is: 0, 1, 2, 3"),
        ("parameters.weight_norm:layer=1,epoch=x", "epoch: input should be a valid integer"),
        ("parameters.weight_norm:layer=1,over=median", "over: input should be 'mean', 'max', 'last' or 'sum', not"),
        ("parameters.weight_norm:over=max,epoch=1", "over and epoch exclude each other"),
        ("parameters.weight_norm:layer=1,layer=2", "the same name stands twice"),
        ("parameters.weight_norm:", "TABLE.COLUMN:label=value,over=mean is expected"),
        ("parameters.", "TABLE.COLUMN:label=value,over=mean is expected"),
        ("parameters.weight_norm:layer", "TABLE.COLUMN:label=value,over=mean is expected"),
        ("parameters.weight_norm:table=curves", "TABLE.COLUMN:label=value,over=mean is expected"),
        ("parameters", "parameters is a table; a column of it is named parameters.COLUMN"),
    ],
)
def test_mistakes_are_named(results, metric, words):
    with pytest.raises(UsageError) as caught:
        only(results, metric)
    assert str(caught.value).startswith("metric: ")
    assert words in str(caught.value)


def test_a_label_with_one_value_among_the_settings_kept_need_not_be_named(results):
    text = "activations.mean:layer=3"  # the output has its preactivation alone
    assert only(results, text).rows[0].estimate.center == pytest.approx(0.3)


def test_text_of_a_metric_and_back():
    assert metric_text(table_metric("ics.relative:layer=2,over=mean")) == "ics relative, layer 2, mean over epochs"
    assert metric_text(table_metric("curves.test_loss")) == "curves test_loss, last epoch"
    assert table_metric("t.c:tap=affine, epoch=3").epoch == 3


def test_only_accuracies_are_percentages():
    for name in ("test_accuracy", "train_accuracy", "val_accuracy_population"):
        assert is_percent(name)
    for name in ("test_loss", "ics.test_accuracy", "probe.some_accuracy", "some_accuracy_change"):
        assert not is_percent(name)


@pytest.mark.parametrize("format", ["table", "json", "csv", "markdown", "latex"])
def test_every_format_says_the_metric_in_words(results, capsys, format):
    print_comparisons([only(results, "parameters.weight_norm:layer=2,over=max")], format)
    text = "parameters weight_norm, layer 2, largest of all epochs"
    shown = capsys.readouterr().out
    assert (text.replace("_", "\\_") if format == "latex" else text) in shown
    if format == "csv":
        assert {row["metric"] for row in csv.DictReader(io.StringIO(shown))} == {text}
    if format == "json":
        assert {row["metric"] for row in json.loads(shown)["comparisons"][0]["rows"]} == {text}


def test_exit_codes_of_the_command(results, tmp_path):
    found = bnexp(
        "compare", results.folder, "--metric", "parameters.weight_norm:layer=2", "--format", "json", cwd=tmp_path
    )
    assert (found.returncode, found.stderr) == (0, f"next: bnexp report {results.folder}\n")
    row = json.loads(found.stdout)["comparisons"][0]["rows"][0]
    assert row["center"] == pytest.approx(scipy.stats.gmean(by_hand(results, "none", 0.1, "last")))
    found = bnexp("compare", results.folder, "--metric", "parameters.weight_norm", cwd=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: metric: not one row per run and epoch: still free is layer (1, 2, 3)\n"


def test_last_is_the_last_epoch_even_where_that_is_not_a_number(tmp_path):
    """A run whose value is nan in the end has no older one in its place, and none in a mean."""
    text = "data: digits\nmodel: {norm: [none, full]}\ntrain: {lr: 0.1, epochs: 3}\nseeds: 2\n"
    results = study(tmp_path / "nan", text, tables=("curves", "activations"))
    path = tmp_path / "nan" / "activations.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    odd = frame["run"].str.contains("norm=none,seed=1") & (frame["epoch"] == "3")
    frame.loc[odd, "sd"] = "nan"
    frame.to_csv(path, index=False, lineterminator="\n")
    results = load_results([tmp_path / "nan"])[0]
    for over in ("last", "mean", "max", "sum"):
        metric = f"activations.sd:layer=1,tap=preactivation,over={over}"
        (row,) = (row for row in compare_runs(results, metric=metric)[0].rows if row.setting["norm"] == "none")
        assert math.isfinite(row.values[0])
        assert math.isnan(row.values[1])


def test_labels_are_those_that_training_wrote_down(tmp_path):
    """One layer, one row per run and epoch: nothing in the rows says that layer is a label."""
    spec = make_spec(
        "name: one\ndata: {name: digits, subset: 200}\nmodel: {hidden: [5], norm: full}\ntrain: {epochs: 1}\nseeds: 2\n"
        "measure: {identity: {every: 1}}"
    )
    run_experiment(spec, Request(out=tmp_path / "one"), Silent())
    results = load_results([tmp_path / "one"])[0]
    assert results.labels("identity") == ("layer",)
    assert compare_runs(results, metric="identity.minibatch:layer=1")[0].rows[0].n == 2
