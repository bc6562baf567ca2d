"""A study whose failed runs are silently dropped cannot be produced: whoever renders it counts them (rule 5)."""

from __future__ import annotations

import csv
import io
import json

import pytest
from outcomes import DIVERGED, A, B, study

from bnexp.answer import answer_of
from bnexp.comparison import compare_runs, list_claims
from bnexp.formats import WRITERS
from bnexp.page import render_page
from bnexp.results import load_results
from bnexp.sheets import sheets_of

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
