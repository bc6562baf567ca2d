"""The page's table of runs: every run in its row, as many rows as a page bears, nothing made up."""

from __future__ import annotations

import re

import pytest
from studies import accuracy, study

from bnexp.comparison import compare_runs
from bnexp.page import render_page
from bnexp.page_runs import MISSING, MOST_ROWS, runs_table, shown_seeds
from bnexp.results import planned_runs

SPEC = """
name: small
data: digits
model: {norm: [none, standardize, full], placement: [pre, post]}
train: {lr: [0.3, 0.00001], epochs: 3}
seeds: 6
"""


def ending(setting, seed):
    if seed == 5:
        return "pending"
    if setting.train.lr < 0.1 and seed == 0:
        return "diverged"
    return "idle" if setting.model.norm == "none" and seed == 1 else "done"


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return study(tmp_path_factory.mktemp("runs") / "s", SPEC, ending, ())


def test_every_run_has_its_row(results):
    table = runs_table(results)
    assert [name for name, _ in table.head[:7]] == [
        "norm", "placement", "lr", "seed", "status", "learned", "diverged in epoch",
    ]  # fmt: skip
    assert [name for name, _ in table.head[7:]] == ["val accuracy, %", "test accuracy, %", "train loss"]
    rows = texts(table)
    planned = planned_runs(results.spec)
    assert len(rows) == table.total == len(planned) == 72
    assert table.left_out == ""
    by_place = {(row[0], row[2], row[3]): row for row in rows}
    for setting, seed in planned.values():
        row = by_place[setting.model.norm, setting.shown("lr"), str(seed)]
        how = ending(setting, seed)
        assert row[4] == {"idle": "done"}.get(how, how)
        assert row[5] == {"done": "yes", "idle": "no", "diverged": "no", "pending": MISSING}[how]
        assert (row[6] == MISSING) == (how != "diverged")
        if how == "done":
            assert row[8] == f"{100 * accuracy(setting, seed):.1f}"
        if how in ("diverged", "pending"):
            assert row[7:] == [MISSING] * 3


def test_rows_stand_by_setting_and_numbers_to_the_right(results):
    table = runs_table(results)
    assert [row[3] for row in texts(table)] == [str(seed) for seed in range(6)] * 12
    kinds = [kind for _, kind in table.head]
    assert kinds == ["setting", "setting", "number", "number", "setting", "setting"] + ["number"] * 4
    for row in table.rows:
        assert [cell.kind for cell in row] == kinds


def test_norm_none_has_no_placement(results):
    assert {row[1] for row in texts(runs_table(results)) if row[0] == "none"} == {MISSING}
    assert {row[1] for row in texts(runs_table(results)) if row[0] != "none"} == {"pre", "post"}


def test_how_the_runs_ended_is_said(results):
    planned = [ending(*place) for place in planned_runs(results.spec).values()]
    lead = runs_table(results).lead
    assert f"{planned.count('diverged')} diverged" in lead
    assert f"{planned.count('pending')} pending" in lead
    assert f"{planned.count('done') + planned.count('idle')} done, of which {planned.count('done')} learned" in lead


def test_a_table_without_divergence_has_no_column_for_it(tmp_path):
    table = runs_table(study(tmp_path / "s", SPEC, tables=()))
    assert "diverged in epoch" not in [name for name, _ in table.head]


@pytest.mark.parametrize(("n_settings", "n"), [(1, 10), (12, 10), (MOST_ROWS // 2, 2), (MOST_ROWS, 1), (9999, 1)])
def test_whole_seeds_are_shown(n_settings, n):
    assert list(shown_seeds(range(10), n_settings)) == list(range(n))


def test_a_large_study_shows_its_first_seeds_and_names_the_file(tmp_path):
    results = study(tmp_path / "s", SPEC.replace("seeds: 6", "seeds: 50"), tables=())
    table = runs_table(results)
    assert len(table.rows) == MOST_ROWS == 240
    assert {row[3] for row in texts(table)} == {str(seed) for seed in range(20)}
    assert "240 of 600 runs, those of the first 20 seeds; runs.csv has all" in table.left_out
    assert table.total == 600
    page = render_page([results], [compare_runs(results)])
    assert "<summary>240 of 600 runs</summary>" in page
    assert table.left_out in page


def test_a_study_without_a_finished_run_has_none(tmp_path):
    results = study(tmp_path / "s", SPEC, lambda setting, seed: "pending", tables=())
    assert runs_table(results) is None
    assert "<h2>Runs</h2>" not in render_page([results], [compare_runs(results)])


def test_the_page_sorts_by_what_is_typed_not_by_how_it_is_set(results):
    page = render_page([results], [compare_runs(results)])
    assert '<td class="number" data-value="1e-05">1·10⁻⁵</td>' in page
    assert re.search(r'<div class="runs">\n<p class="controls" hidden>', page)
    assert 'aria-live="polite"' in page
