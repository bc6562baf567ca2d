"""The page: one file that loads nothing, says the comparison's numbers, and escapes what it did not write."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from studies import study

from bnexp.comparison import NOT_COVERED, Estimate, Row, compare_runs
from bnexp.errors import StorageError
from bnexp.figures import figures_of
from bnexp.page import json_block, render_page, typeset, write_report
from bnexp.page_origins import provenance, settings_table
from bnexp.page_tables import tables_of
from bnexp.summary import side_of, summary_of
from bnexp.wording import BASELINE_FAILED, difference_text, estimate_text

SPEC = """
name: small
question: Does it help?
data: digits
model: {norm: [none, standardize, full]}
train: {lr: [0.1, 0.3], epochs: 3}
seeds: 6
claims:
  - {claim: Full is better., source: a paper, each: [activation, placement], a: {norm: full}, b: {norm: none},
     metric: fit_loss, tune: lr, expect: less}
"""
VIEWS = 1 + 2 + 1 + 2 * 3 + 2 * 2 + 2  # accuracy; loss, two scales; lr; activations, lr × tap; lr × unit; weights, lr
EVIL = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser makes of the text: tags with their attributes, ids, and the text of each element by tag."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, *tags):
        return "".join(data for tag, data in self.texts if tag in tags)

    def count(self, tag):
        return sum(1 for name, _ in self.tags if name == tag)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    def status(setting, seed):
        return "idle" if (setting.model.norm, setting.train.lr) == ("none", 0.1) else "done"

    return study(tmp_path_factory.mktemp("page") / "s", SPEC, status, ("curves", "activations", "units", "parameters"))


@pytest.fixture(scope="module")
def text(results):
    return render_page([results], [compare_runs(results)])


def test_structure(text, results):
    page = Page(text)
    assert page.open == []
    assert page.text("h1") == "small"
    assert "Does it help?" in page.text("p")
    assert NOT_COVERED in page.text("li")
    assert page.count("figure") == page.count("figcaption") == 6
    assert page.count("svg") == 6
    for heading in ("Answer", "Claims", "Results", "Settings", "Provenance", "How conclusions are drawn", "Words"):
        assert heading in page.text("h2")
    assert "1. Full is better." in page.text("h3")
    assert "1 undecided" in page.text("p")
    assert "name: small" in page.text("pre")
    labels = [attributes["aria-label"] for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(labels) == VIEWS
    assert all(len(label) > 40 for label in labels)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert page.count("nav") == 0


def test_nothing_is_loaded(text):
    page = Page(text)
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "action", "poster", "background"} & set(attributes), tag
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), tag
    assert page.count("link") == page.count("iframe") == page.count("object") == 0
    style = page.text("style")
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "unsafe-eval" not in policy


def test_the_policy_allows_exactly_the_pages_scripts(text):
    scripts = re.findall(r'<script type="module">(.*?)</script>', text, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {sources};" in text
    kinds = [attributes.get("type") for tag, attributes in Page(text).tags if tag == "script"]
    assert kinds == ["application/json"] * VIEWS + ["module"] * 2


def test_the_charts_of_the_page_are_whole(text):
    blocks = re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)
    for block in blocks:
        assert not set("<>&") & set(block)
        assert json.loads(block)["spec"]["$schema"].endswith(".json")


def test_the_tables_have_the_comparisons_numbers(text, results):
    cells = [data for tag, data in Page(text).texts if tag == "td"]
    (comparison,) = compare_runs(results)
    assert comparison.best_rows
    for row in (*comparison.rows, *comparison.best_rows):
        assert typeset(estimate_text(row.estimate, comparison.metric)) in cells
        assert typeset(difference_text(row, comparison.metric)) in cells
    assert BASELINE_FAILED in cells
    assert "0/6" in cells


def test_accuracies_are_in_percent_and_ratios_have_a_sign(results):
    (accuracy,) = compare_runs(results)
    (ratio,) = compare_runs(results, metric="train_loss")
    heads = [[name for name, _ in tables_of(one)[0].head] for one in (accuracy, ratio)]
    assert "difference to norm=none, percentage points [95\u00a0%]" in heads[0]
    assert "ratio to norm=none [95\u00a0%]" in heads[1]
    texts = [cell.text for table in tables_of(ratio) for block in table.blocks for row in block.rows for cell in row]
    assert any(cell.startswith("× 0.") for cell in texts)


def test_the_order_of_rows_and_numbered_notes(results):
    (comparison,) = compare_runs(results)
    best, equal, *_ = tables_of(comparison)
    assert [row[0].text for row in best.blocks[0].rows] == ["none", "standardize", "full"]
    assert [row[1].text for row in best.blocks[0].rows] == ["0.3"] * 3
    assert [row[0].text for row in equal.blocks[0].rows] == ["0.1"] * 3 + ["0.3"] * 3
    assert equal.blocks[0].breaks == {3}
    assert [row[-1].text for row in equal.blocks[0].rows] == ["", "1", "1", "", "", ""]
    (note,) = equal.notes
    assert note.startswith("difference: median by rank, failed runs worst, p of the sign test, McNemar's p")
    assert best.shared == ["lr 0.3 at the grid's edge: the best may lie beyond"]


def test_blocks_and_folding_of_large_tables(tmp_path):
    more = SPEC.replace("[none, standardize, full]", "[none, full], placement: [pre, post], activation: [tanh, relu]")
    results = study(tmp_path / "s", more.replace("[0.1, 0.3]", "[0.01, 0.03, 0.1, 0.3, 1, 3, 10]"), tables=())
    best, equal, *_ = tables_of(compare_runs(results)[0])
    assert [block.heading for block in equal.blocks] == ["activation tanh", "activation relu"]
    assert [name for name, kind in equal.head if kind == "setting"] == ["lr", "norm", "placement"]
    assert (best.folded, equal.folded) == (False, True)
    assert "<details>\n<summary>At equal lr</summary>" in render_page([results], [compare_runs(results)])


def test_the_summary_says_what_was_found_and_what_not(results):
    (comparison,) = compare_runs(results)
    said = summary_of(results, comparison)
    paragraphs = " ".join(one.text for one in said)
    items = [item for one in said for item in one.items]
    assert "6 settings, 6 seeds each: 36 finished runs" in paragraphs
    assert "commonest fault" in paragraphs
    assert "0 diverged and 6 ended without having learned" in paragraphs
    assert "edge of the grid" in paragraphs
    assert items[0].startswith("none: ")
    assert "(n = 6)" in items[0]
    assert f"{BASELINE_FAILED} at 0.1" in items[-1]


def test_the_side_of_an_interval():
    replace = dataclasses.replace
    intervals = {"better": (0.1, 0.2), "worse": (-0.2, -0.1), "open": (-0.1, 0.2), "no interval": (None, None)}
    base = Estimate(6, 0.1, 0.1, 0.2, 0.1, "raw", "mean difference")
    row = Row({"norm": "full"}, False, 6, 6, 0, 0, None, None, None, {}, base)
    for side, (low, high) in intervals.items():
        found = replace(row, difference=replace(base, low=low, high=high))
        assert side_of(found, higher_is_better=True) == side
    tie = replace(base, center=0.0, low=0.0, high=0.0, kind="median difference")
    failed = replace(row, difference=tie, n_failed=6, n_baseline=6, n_baseline_failed=6)
    assert side_of(failed, True) == "neither"
    assert side_of(replace(failed, n_baseline_failed=3), True) == "open"
    ratio = replace(base, low=0.2, high=0.9, scale="log", kind="ratio of geometric means")
    assert side_of(replace(row, difference=ratio), higher_is_better=False) == "better"


def test_everything_written_by_others_is_escaped(tmp_path):
    evil = json.dumps(EVIL)
    spec = SPEC.replace("Does it help?", evil).replace("Full is better.", evil).replace("a paper", evil)
    results = study(tmp_path / "s", spec.replace("seeds: 6", "seeds: 2"), tables=("curves",))
    results.meta.update(
        git={"revision": EVIL, "dirty": True},
        sessions=[{"command": EVIL, "ended": EVIL}],
        versions={EVIL: EVIL},
        data=[{"name": EVIL, "sha256": EVIL}],
        claims_sha256=[{"since": EVIL}],
    )
    comparisons = [dataclasses.replace(one, notes=(EVIL,)) for one in compare_runs(results)]
    text = render_page([results], [comparisons])
    page = Page(text)
    assert page.count("img") == 0
    assert page.open == []
    assert "onerror=alert(1)>" not in text
    assert EVIL in page.text("p")
    assert all(EVIL in page.text(tag) for tag in ("li", "td", "th", "pre"))
    assert "<b>" not in text


def test_packed_data_is_the_charts_data(text, results):
    """The page's script turns ``of`` and ``at`` back into texts; here the same is done by hand."""
    blocks = [json.loads(b) for b in re.findall(r'<script type="application/json">(.*?)</script>', text, re.S)]
    views = [view for figure in figures_of(results, compare_runs(results)[0])[0] for view in figure.views]
    assert [tuple(block["picked"]) for block in blocks] == [view.picked for view in views]
    for block, spec in zip([one["spec"] for one in blocks], [view.spec for view in views], strict=True):
        assert set(block["datasets"]) == set(spec["datasets"])
        for name, columns in block["datasets"].items():
            cells = [c if isinstance(c, list) else [c["of"][at] for at in c["at"]] for c in columns.values()]
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
            assert rows == spec["datasets"][name]


def test_figures_made_of_anything_are_escaped(results, monkeypatch):
    made, left_out = figures_of(results, compare_runs(results)[0])
    loss = next(figure for figure in made if figure.name == "loss")
    view = dataclasses.replace(loss.first, picked=(EVIL, '" onclick="x'), caption=EVIL, alt=f'"{EVIL}')
    figure = dataclasses.replace(
        loss,
        title=EVIL,
        views=(view, *loss.views[1:]),
        choices={EVIL: (EVIL, "training"), "b": ('" onclick="x', "log")},
    )
    monkeypatch.setattr("bnexp.page.figures_of", lambda *_: ([figure], [*left_out, EVIL]))
    page = Page(render_page([results], [compare_runs(results)]))
    assert page.open == []
    assert page.count("img") == 0
    assert not any("onclick" in attributes for _, attributes in page.tags)
    assert sum(attributes.get("type") == "radio" for _, attributes in page.tags) == 4
    assert [attributes["value"] for _, attributes in page.tags if "checked" in attributes] == list(view.picked)
    assert all(EVIL in page.text(tag) for tag in ("h4", "legend", "label", "p"))


def test_one_view_is_shown_and_the_others_wait(text):
    page = Page(text)
    views = [attributes for _, attributes in page.tags if attributes.get("class") == "view"]
    assert len(views) == VIEWS
    assert sum("hidden" not in attributes for attributes in views) == 6
    assert all("hidden" in attributes for _, attributes in page.tags if attributes.get("class") == "choices")
    checked = [attributes["name"] for _, attributes in page.tags if "checked" in attributes]
    groups = {attributes["name"] for _, attributes in page.tags if attributes.get("type") == "radio"}
    assert sorted(checked) == sorted(groups)
    assert page.count("fieldset") == page.count("legend") == len(groups) + 1  # and the boxes of the norms


def test_json_blocks_keep_their_values():
    value = {"a": EVIL + "&\u2028", "b": [1, None]}
    block = json_block(value)
    assert json.loads(block) == value
    assert not set("<>&\u2028") & set(block)
    with pytest.raises(ValueError):
        json_block({"a": float("nan")})


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("3.8e-05", "3.8·10⁻⁵"),
        ("× 1.8e+04 [1.14e+04, 2.84e+09]", "× 18\u202f000 [11\u202f400, 2.84·10⁹]"),
        ("-1.5 [-2.1, +0.9]", "−1.5 [−2.1, +0.9]"),
        ("lr 0.1, sign-flip, 64-64, x3, 1.2.3", "lr 0.1, sign-flip, 64-64, x3, 1.2.3"),
        ("-1.2e-07", "−1.2·10⁻⁷"),
    ],
)
def test_typeset(given, shown):
    assert typeset(given) == shown


def test_several_studies_are_sections_of_their_own(tmp_path, results):
    other = study(tmp_path / "t", SPEC.replace("seeds: 6", "seeds: 2"), tables=())
    third = study(tmp_path / "u", SPEC.replace("small", "small--2").replace("seeds: 6", "seeds: 2"), tables=())
    page = Page(render_page([results, other, third], [compare_runs(one) for one in (results, other, third)]))
    ids = [a["id"] for tag, a in page.tags if tag == "section"]
    assert len(set(ids)) == 5
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [f"#{one}" for one in ids[:3]]
    assert "nothing is pooled" in page.text("p")


def test_studies_of_one_name_are_told_apart_by_their_folders(tmp_path):
    two = [study(tmp_path / name, SPEC.replace("seeds: 6", "seeds: 2"), tables=()) for name in ("t", "u")]
    page = Page(render_page(two, [compare_runs(one) for one in two]))
    assert [text for tag, text in page.texts if tag == "a"] == [str(one.folder) for one in two]
    assert all(str(one.folder) in page.text("h2") for one in two)


def test_a_study_that_has_not_begun(tmp_path):
    results = study(tmp_path / "s", SPEC, lambda setting, seed: "pending", tables=())
    text = render_page([results], [compare_runs(results)])
    assert "None of the 36 runs has finished." in text
    assert "<figure" not in text
    assert '<script type="module">' not in text
    assert "script-src 'none';" in text


def test_written_files(tmp_path, results):
    output = tmp_path / "deep" / "my report.html"
    written = write_report([results], output, ["svg"])
    assert written[0] == output
    named = ("accuracy", "loss", "learning-rate", "activations", "unit", "parameters")
    ends = ("svg", "csv", "txt")
    assert sorted(path.name for path in written[1:]) == sorted(f"small-{n}.{end}" for n in named for end in ends)
    assert {path.parent for path in written[1:]} == {tmp_path / "deep" / "my report-figures"}
    assert all(path.read_bytes().startswith(b"<svg") for path in written[1:] if path.suffix == ".svg")
    assert output.read_bytes().startswith(b"<!doctype html>")
    assert output.stat().st_size < 3_000_000
    assert b"\r" not in output.read_bytes()
    assert sorted(path.name for path in output.parent.iterdir()) == ["my report-figures", "my report.html"]


def test_the_page_is_the_same_each_time(results, text):
    assert render_page([results], [compare_runs(results)]) == text


def test_a_page_that_cannot_be_written(tmp_path):
    results = study(tmp_path / "s", SPEC, lambda setting, seed: "pending", tables=())
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="File exists"):
        write_report([results], tmp_path / "file" / "report.html")


def test_settings_and_provenance(results):
    varied, fixed = settings_table(results)
    assert [(name, values) for name, values, _ in varied] == [("norm", "none, standardize, full"), ("lr", "0.1, 0.3")]
    assert ("epochs", "3") in [(name, values) for name, values, _ in fixed]
    assert ("seeds", "0 to 5") in [(name, values) for name, values, _ in fixed]
    assert dict(provenance(results))["device"] == "<b>cpu</b>, 1 thread(s) per process"
    gpu = "cuda (NVIDIA H200)"
    for device, exact, difference, words in (
        ("cpu", True, 0.0, "the same bytes on the same machine"),
        ("cpu", False, 1e-7, "differs in its last bits"),
        (gpu, None, None, "the same GPU model, torch and stack sizes; not"),
        (gpu, True, 0.0, "stack sizes; alone, two runs of the first stack had the same bits"),
        (
            gpu,
            False,
            2.34e-7,
            "stack sizes; alone, two runs of the first stack differed after three steps, by at most 2.3e-07",
        ),
        (gpu, False, None, "the same GPU model, torch and stack sizes; not"),
    ):
        meta = {**results.meta, "device": device, "exact_stack": exact, "stack_difference": difference}
        said = dict(provenance(dataclasses.replace(results, meta=meta)))["again"]
        assert words in said
        assert "not promised elsewhere" in said


def test_the_page_says_which_machines_computed_what(results):
    one, other = {"device": "cpu", "blas": "Zen", "host": "a"}, {"device": "cpu", "blas": "SkylakeX", "host": "b"}
    kinds = [{**one, "shards": ["x1", "x2"]}, {**other, "shards": ["x3"]}]
    said = dict(provenance(dataclasses.replace(results, meta={**results.meta, "computed_by": kinds})))["computed by"]
    assert said == "2 shards by device cpu, blas Zen, host a; 1 shards by device cpu, blas SkylakeX, host b"
    for known in (kinds[:1], [], [3], None):
        assert "computed by" not in dict(
            provenance(dataclasses.replace(results, meta={**results.meta, "computed_by": known}))
        )


LOADED = "import sys; print('torch' in sys.modules)"


@pytest.mark.parametrize(("module", "loads"), [("bnexp.page", False), ("torch", True)])
def test_the_page_needs_no_torch(module, loads):
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; {LOADED}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(loads)
