"""Tables in every format: the same numbers, and names that stay names."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from outcomes import A, B, only, study

from bnexp.comparison import (
    RULES,
    claim_records,
    compare_runs,
    effect_records,
    list_claims,
    speed_records,
    to_records,
)
from bnexp.console import _fitted, open_console
from bnexp.formats import as_csv, as_json, as_latex, as_markdown, latex
from bnexp.sheets import sheets_of
from bnexp.spec import leaves
from bnexp.untrusted import harmless

EVIL = r"=cmd|' /C calc'!A0 \input{/etc/passwd} $x^2$ 100% & #1 ~ {a_b} <b>*bold*</b> [l](http://x) | `code`"
SPEC = """
data: digits
model: {{norm: [none, standardize, gamma, beta, full]}}
seeds: 10
claims:
  - {{claim: {evil}, source: {evil}, a: {{norm: full}}, b: {{norm: none}}, metric: test_accuracy, expect: equal,
     within: 0.1, why: {evil}}}
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    def outcome(fields, seed):
        return {"test_accuracy": B[seed] if fields["norm"] == "none" else A[seed] - 0.001 * len(fields["norm"])}

    return study(tmp_path_factory.mktemp("formats"), SPEC.format(evil=json.dumps(EVIL)), outcome)


@pytest.fixture(scope="module")
def said(results):
    return compare_runs(results), list_claims(results)


def test_csv_has_no_formula_and_all_records(said):
    rows = list(csv.DictReader(io.StringIO(as_csv(*said))))
    assert {row["table"] for row in rows} == {"equal values", "claim 1", "effects, equal values"}
    assert all(not value.startswith(("=", "@", "\t", "\r")) for row in rows for value in row.values())
    assert rows[-4]["claim"] == f"'{EVIL}"
    difference = next(row for row in rows if row["side"] == "difference")
    assert (difference["verdict"], difference["after_correction"]) == ("supported", "True")
    assert float(difference["p"]) == said[1][0].verdict.p
    assert float(difference["equal_within"]) == said[1][0].a.difference.equal_within


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-x", "'-x"),
        ("@a", "'@a"),
        ("\t=1", "'\t=1"),
        ("a=1", "a=1"),
        (-1.5, -1.5),
        ("-1.5e-07", "-1.5e-07"),
        ("-1-1", "'-1-1"),
        (" =1", "' =1"),
    ],
)
def test_harmless(value, written):
    assert harmless(value) == written


def test_json_has_everything(said):
    document = json.loads(as_json(*said))
    (comparison,) = document["comparisons"]
    assert len(comparison["rows"]) == 5
    assert [record["effect_of"] for record in comparison["effects"]] == ["γ", "β", "interaction of γ with β"]
    assert document["claims"][0]["verdict"] == "supported"
    assert document["claims"][0]["text"] == EVIL
    assert "do not cover" in document["not_covered"]
    row = next(row for row in comparison["rows"] if row["norm"] == "full")
    assert {"effect_center", "effect_low", "p_sign_flip", "equal_within", "difference_items_low"} <= set(row)


def test_latex_has_no_command_from_a_name(said):
    text = as_latex(*said)
    ours = """begin end toprule midrule bottomrule textsuperscript par footnotesize begingroup endgroup noindent textbf
        linewidth times pm gamma beta leq geq cdot infty textbackslash textasciitilde textasciicircum textless
        textgreater"""
    made = {f"\\{name}" for name in ours.split()}
    assert set(re.findall(r"\\[A-Za-z]+", text)) <= made
    assert r"\textbackslash{}input\{/etc/passwd\}" in text
    bare = re.sub(r"\\.|\$\\[a-z]+\$|\$-\$", "", text)
    assert "$" not in bare
    assert "#" not in bare
    assert "^" not in bare
    assert latex("a [1] \\ %") == r"a {[}1{]} \textbackslash{} \%"


def test_markdown_keeps_names_as_text(said):
    text = as_markdown(*said)
    assert "<b>" not in text
    assert r"\*bold\*" in text
    assert "](http" not in text
    assert r"\`code\`" in text
    assert "test_accuracy" in text  # a word stays whole
    rows = [line for line in text.splitlines() if line.startswith("|")]
    bars = {len(sheet.heads) + 2 for sheet in sheets_of(said[0][0])}
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == bars


def test_sheets_fit_the_width(said):
    (comparison,) = said[0]
    sheet = sheets_of(comparison)[0]
    widths = {}
    for columns in (160, 100, 60, 40):
        console = open_console()
        console.width = columns
        table, _, cut = _fitted(console, sheet)
        widths[columns] = (len(table.columns), cut)
        console.begin_capture()
        console.print(table)
        assert all(len(line.rstrip()) <= columns for line in console.end_capture().splitlines())
    assert widths[160] == (len(sheet.heads), False)
    essential = sum(head.rank == 0 for head in sheet.heads)
    assert widths[40] == (essential, True)
    assert essential < widths[100][0] <= len(sheet.heads)


def test_every_row_has_n_and_an_interval_or_says_why_not(said, results):
    (comparison,) = said[0]
    for row in comparison.rows:
        for estimate in (row.estimate, row.difference, row.effect):
            if estimate is not None:
                assert estimate.n == 10
                assert estimate.low is not None or estimate.note
    assert only(results).rows[0].learned_share.low is not None


def test_ten_rules_in_words():
    assert [rule.number for rule in RULES] == list(range(1, 11))
    assert all(len(rule.text) > 100 and "{" not in rule.text for rule in RULES)


def test_no_column_is_taken_for_a_field_of_the_setting(said):
    (comparison,), rows = said
    own = {key for make in (to_records, effect_records, speed_records) for record in make(comparison) for key in record}
    own |= {key for row in rows for record in claim_records(row) for key in record}
    assert own & set(leaves()) == {"norm"}
