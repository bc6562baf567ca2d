"""A study whose failed runs are silently dropped cannot be produced: whoever renders it counts them (rule 5)."""

from __future__ import annotations

import csv
import io
import itertools
import json

import pytest
from outcomes import DIVERGED, A, B, study

from bnexp import claim_wording
from bnexp.answer import answer_of
from bnexp.comparison import compare_runs, list_claims
from bnexp.formats import WRITERS
from bnexp.page import render_page
from bnexp.page_claims import claim_parts
from bnexp.results import load_results
from bnexp.sheets import sheets_of
from bnexp.summary import side_of, summary_of
from bnexp.wording import difference_text

SPEC = """
data: digits
model: {norm: [none, standardize, gamma, beta, full]}
seeds: 10
claims:
  - {claim: c, a: {norm: full}, b: {norm: none}, metric: test_accuracy, expect: less}
"""
IDLE, LOST = (2, 5), (7,)  # seeds of none that did not learn, and that diverged


def outcome(fields, seed):
    if fields["norm"] == "none" and seed in LOST:
        return DIVERGED
    learned = "false" if fields["norm"] == "none" and seed in IDLE else "true"
    return {"test_accuracy": (B if fields["norm"] == "none" else A)[seed], "learned": learned}


@pytest.fixture
def results(tmp_path):
    return study(tmp_path, SPEC, outcome)


def test_the_numbers(results):
    (comparison,) = compare_runs(results)
    none, *others = comparison.rows
    assert (none.n, none.n_learned, none.n_diverged, none.n_failed) == (10, 7, 1, 3)
    assert none.estimate.kind == "median"
    assert none.estimate.n == 10
    assert none.of_learned.kind.startswith("mean of the 7 that learned")
    for row in others:
        assert row.difference.kind == "median difference"
        assert row.difference.n == 10
        assert row.p_sign_flip is None
        assert row.effect is None
    (effects, *_) = comparison.effects
    assert effects.first is not None  # its four cells have no failed run: standardize, gamma, beta, full


def test_every_renderer_counts_them(results):
    comparisons, claims = compare_runs(results), list_claims(results)
    for name in ("markdown", "latex"):
        text = WRITERS[name](comparisons, claims)
        assert "7/10" in text
        assert "3 of 10 did not learn" in text
        assert "1/10" in text  # diverged
    rows = list(csv.DictReader(io.StringIO(WRITERS["csv"](comparisons, claims))))
    none = next(row for row in rows if row["norm"] == "none")
    assert (none["n"], none["n_learned"], none["n_diverged"]) == ("10", "7", "1")
    document = json.loads(WRITERS["json"](comparisons, claims))
    assert document["claims"][0]["b"]["n_learned"] == 7
    assert document["claims"][0]["difference"]["p_by"] == "sign test"
    cells = [cell for row in sheets_of(comparisons[0])[0].rows for cell in row]
    assert "7/10" in cells
    page = render_page([results], [comparisons])
    for text in (
        "7/10",
        "3 of 10 did not learn",
        "1 diverged and 2 ended without having learned",
        "of 10, 7 learned [35, 93] %",
    ):
        assert text in page
    assert "none failed" not in answer_of(results, comparisons, claims).sentences[0]
    assert "median" in answer_of(results, comparisons, claims).sentences[0]


def test_a_row_taken_out_of_the_csv_is_a_run_that_is_missing(results):
    """Deleting failed runs by hand does not make them never to have been: the spec says that they were asked for."""
    path = results.folder / "runs.csv"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not any(f"norm=none,seed={seed}" in line for seed in (*IDLE, *LOST))]
    path.write_text("".join(kept))
    cut = load_results([results.folder])[0]
    comparisons, claims = compare_runs(cut), list_claims(cut)
    assert comparisons[0].rows[0].n_missing == 3
    assert "seeds 2, 5, 7 not finished" in comparisons[0].rows[0].note
    assert "3 of 50 runs are not finished" in comparisons[0].notes
    assert "Provisional (runs are missing): claim 1." in answer_of(cut, comparisons, claims).not_shown
    assert "provisional: 3 of 20 runs are not finished" in WRITERS["markdown"](comparisons, claims)


# --- words ------------------------------------------------------------------------------------------------------------

PLAIN = "data: digits\nmodel: {norm: [none, full]}\nseeds: 10\n"


def test_partly_failed_is_not_neither(tmp_path):
    """A row of which nobody learned, against a baseline of which some did."""

    def some(fields, seed):
        learned = fields["norm"] == "none" and seed < 4
        return {"test_accuracy": 0.9 if learned else 0.1, "learned": str(learned).lower()}

    results = study(tmp_path, PLAIN, some)
    (comparison,) = compare_runs(results)
    assert difference_text(comparison.rows[1], comparison.metric) == "tie [−∞, +0.0]"
    assert side_of(comparison.rows[1], True) == "open"
    (sentence,) = answer_of(results, [comparison], ()).sentences
    assert "(10 of 10 did not learn) against norm=none (6 of 10 did not learn)" in sentence
    assert "median, n = 10 pairs" in sentence


def test_zero_losses_did_not_fail(tmp_path):
    claims = "claims:\n  - {claim: c, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}\n"
    results = study(tmp_path, PLAIN + claims, lambda f, s: {"fit_loss": 0.0, "test_accuracy": 1.0})
    (row,) = list_claims(results)
    assert "failed" not in claim_wording.difference_text(row)
    assert row.verdict.why == "all differences are identical and too few, or at a boundary"


def test_a_largest_value_counts_seeds_that_have_one(tmp_path):
    claims = """train: {lr: [0.1, 1]}
claims:
  - claim: c
    a: {norm: full}
    b: {norm: none}
    metric: {largest: lr, such_that: [fit_accuracy, ">=", 0.99]}
    expect: less
"""
    results = study(tmp_path, PLAIN + claims, lambda f, s: {"fit_accuracy": 0.95, "test_accuracy": 0.9})
    rows = list_claims(results)
    cells = [cell.small for row in claim_parts(rows)[0].table.blocks[0].rows for cell in row]
    assert cells.count("of 10, 0 with one") == 2
    assert rows[0].verdict.answer == "undecided"
    assert rows[0].verdict.why == "ties or too few certain pairs for the sign test"


def test_seeds_without_the_column_they_should_pass_by_are_left_out_and_said(tmp_path):
    claims = """train: {lr: [0.1, 1]}
claims:
  - claim: c
    a: {norm: full}
    b: {norm: none}
    metric: {largest: lr, such_that: [fit_accuracy, ">=", 0.5]}
    expect: greater
"""

    def outcome(fields, seed):
        return {"test_accuracy": 0.9, **({"fit_accuracy": 0.95} if fields["norm"] == "full" else {})}

    (row,) = list_claims(study(tmp_path, PLAIN + claims, outcome))
    assert (row.b.n, row.verdict.answer) == (0, "undecided")
    assert "b: fit_accuracy was not recorded in every run; seeds without it are left out" in row.notes


def test_a_metric_without_direction_has_no_better(tmp_path):
    results = study(tmp_path, PLAIN, lambda f, s: DIVERGED if f["norm"] == "full" else {"test_accuracy": 0.9})
    with (results.folder / "rank.csv").open("w", encoding="utf-8") as stream:
        stream.write("run,epoch,layer,stable_rank\n")
        pairs = itertools.product(range(10), (1, 2))
        stream.writelines(f'"norm=none,seed={seed}",1,{layer},{3 + seed / 10}\n' for seed, layer in pairs)
    (comparison,) = compare_runs(load_results([results.folder])[0], metric="rank.stable_rank:layer=1")
    assert not comparison.directed
    said = " ".join(text for one in summary_of(results, comparison) for text in (one.text, *one.items))
    assert "better" not in said
    assert "worse" not in said
