"""The study kept in results/showcase: it reads, and its page says what its CSVs say."""

from __future__ import annotations

import re

import pytest
from test_page import Page
from tools import ROOT

from bnexp.comparison import compare_runs, list_claims
from bnexp.page import render_page
from bnexp.results import load_results

FOLDER = ROOT / "results" / "showcase"
AGAIN = "run: bnexp report results/showcase -o results/showcase/report.html"


@pytest.fixture(scope="module")
def results():
    return load_results([FOLDER])[0]


def test_every_run_is_there(results):
    assert set(results.runs["status"]) == {"done"}
    assert len(results.runs) == len(results.spec.settings) * len(results.spec.seeds) == 150
    assert {row.verdict.answer for row in list_claims(results)} >= {"supported", "undecided"}
    assert all(comparison.best_effects and comparison.best_speed for comparison in compare_runs(results))


def test_the_page_is_the_one_that_is_made_now(results):
    """All its texts; the charts' paths may differ in a last digit between machines."""
    kept = Page((FOLDER / "report.html").read_text(encoding="utf-8"))
    made = Page(render_page([results], [compare_runs(results)]))
    for tag in ("h1", "h2", "h3", "h4", "p", "li", "th", "td", "small", "dt", "dd", "span", "pre"):
        assert kept.text(tag) == made.text(tag), AGAIN


def test_it_is_small_and_names_no_place_of_its_maker():
    assert (FOLDER / "report.html").stat().st_size < 3_000_000
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_000_000
    for name in ("meta.json", "spec.yaml", "report.html"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not re.search(r"/(home|tmp|root|work|Users)/", text)
