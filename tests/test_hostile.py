"""Hostile specs and overrides: one clear message or a plan, in two seconds and 300 MB, and nothing is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sizes import by_size

MOST_MB = 300
CHILDREN = 2  # processes at once
ASKED = {
    "traps": 10_000,
    "mutated": by_size(800, 10_000),
    "grown": by_size(300, 4_000),
    "overrides": by_size(500, 6_000),
    "extremes": by_size(100, 2_000),
}


def asked_for(kind: str, seed: int, count: int) -> dict:
    """What came of it in a process of its own."""
    script = Path(hostile.__file__)
    done = subprocess.run(
        [sys.executable, script, kind, str(seed), str(count)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ASKED)
def test_hostile_input_is_one_message_or_a_plan(kind, counted):
    count = ASKED[kind] if kind == "traps" else ASKED[kind] // CHILDREN
    seeds = range(1 if kind == "traps" else CHILDREN)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda seed: asked_for(kind, seed, count), seeds))
    codes = {code: sum(one["codes"].get(code, 0) for one in found) for code in ("0", "2")}
    counted(
        f"hostile input, {kind}: {sum(codes.values())} asked, {codes['2']} refused, {codes['0']} planned, "
        f"at most {max(one['slowest_s'] for one in found)} s and {max(one['most_mb'] for one in found)} MB"
    )
    assert [one["faults"][:3] for one in found] == [[]] * len(found)
    assert [one["created"] for one in found] == [[]] * len(found)
    assert kind == "extremes" or max(one["most_mb"] for one in found) < MOST_MB  # which train, and draw
    assert sum(codes.values()) == (len(hostile.traps()) + 5 if kind == "traps" else count * CHILDREN)
    assert min(codes.values()) > 0


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(hostile.SCALARS),
)
TREES = st.deferred(
    lambda: SCALARS | st.lists(TREES, max_size=3) | st.dictionaries(st.sampled_from(hostile.KEYS), TREES, max_size=3)
)
DOCUMENTS = st.dictionaries(st.sampled_from(hostile.KEYS[:16]), TREES, max_size=6)


@settings(
    max_examples=by_size(150, 2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(document=DOCUMENTS, with_data=st.booleans())
def test_documents_of_the_right_words(document, with_data, tmp_path):
    """As JSON, which is YAML: what hypothesis makes of the spec's own words."""
    path = tmp_path / "hostile.yaml"
    path.write_text(json.dumps({**document, **({"data": "bump", "seeds": 1} if with_data else {})}), encoding="utf-8")
    assert hostile.ask(["check", str(path), "--out", str(tmp_path / "none")]).fault == ""
    assert not (tmp_path / "none").exists()


NAMES = [
    "=1+1",
    "@SUM(A1)",
    "+x",
    "-x",
    'a"b',
    "a,b",
    "[red]x",
    "<b>x</b>",
    "x/../y",
    "seed=3",
    "NA",
    "1e5",
    "\u202ex",
    "{x}%s",
]


def test_names_from_a_csv_stay_names(tmp_path, monkeypatch):
    """Columns with such names are what a study varies: in run ids, CSVs, the terminal and the page."""
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    rows = [NAMES, *([str(i * (j % 6 + 1) % 7 % 3) for j in range(len(NAMES))] for i in range(60))]
    with open("rows.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    Path("rows.yaml").write_text(
        json.dumps(
            {
                "question": "<script>alert(1)</script> [bold]",
                "data": {"name": "csv", "path": "rows.csv"},
                "model": {"hidden": [2]},
                "train": {"epochs": 1},
                "seeds": 2,
                "variants": [{"data.target": name} for name in NAMES],
            }
        ),
        encoding="utf-8",
    )
    for words in (["check", "rows.yaml"], ["train", "rows.yaml", "--workers", "1"]):
        answer = hostile.ask(words, 600)
        assert (answer.code, answer.fault) == (0, "")
    for words in (["compare"], ["compare", "--format", "csv"], ["compare", "--format", "json"], ["report"]):
        answer = hostile.ask(words, 600)
        assert (answer.code, answer.fault) == (0, "")
    folder = Path("results/rows")
    for path in folder.rglob("*.csv"):
        with path.open(newline="", encoding="utf-8") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "@") or cell[:2] == "-x"]
    runs = pd.read_csv(folder / "runs.csv")
    assert set(runs["status"]) == {"done"}
    assert runs["run"].map(type).eq(str).all()
    assert runs["run"].is_unique
    assert len(runs) == 2 * len(NAMES)
    curves = pd.read_csv(folder / "curves.csv")
    assert set(curves["run"]) == set(runs["run"])
    page = Path("report.html").read_text(encoding="utf-8")
    assert "<b>x</b>" not in page
    assert "<script>alert" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "results", "rows.csv", "rows.yaml"]


@pytest.mark.parametrize(
    ("code", "out", "err"),
    [
        (1, "", "error: no"),
        (0, "plan", "Traceback (most recent call last)"),
        (2, "", "something"),
        (2, "half a plan", "error: no"),
        (2, "", "error: \x1b[2J"),
    ],
)
def test_that_a_bad_answer_is_seen(code, out, err):
    assert hostile.fault_of(code, out, err, 0.1)
    assert hostile.fault_of(0, "plan", "", 0.1) == "" != hostile.fault_of(0, "plan", "", 2.1)
