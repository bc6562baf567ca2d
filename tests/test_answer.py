"""The head of a report says what the verdicts say, with n and interval, and names what is not shown."""

from __future__ import annotations

import pytest
from outcomes import DIVERGED, A, B, study
from test_items import table, with_items

from bnexp.answer import answer_of
from bnexp.comparison import compare_runs, list_claims, not_covered
from bnexp.page_claims import claim_parts
from bnexp.wording import estimate_text

CLAIM = "{claim: Full is better., a: {norm: full}, b: {norm: none}, metric: test_accuracy, expect: greater}"
ONE = f"data: digits\nmodel: {{norm: [none, full]}}\nseeds: 10\nclaims:\n  - {CLAIM}\n"
MANY = f"""
data: digits
model: {{norm: [none, full], activation: [sigmoid, tanh, relu, linear]}}
seeds: 10
claims:
  - {CLAIM[:-1]}, each: activation}}
  - {{claim: They are equal., where: {{activation: tanh}}, a: {{norm: full}}, b: {{norm: none}}, metric: test_accuracy,
     expect: equal, within: 0.03, why: a point}}
"""


def answer(results):
    return answer_of(results, compare_runs(results), list_claims(results))


def values(fields, seed):
    return {"test_accuracy": (A if fields["norm"] == "full" else B)[seed]}


def test_one_claim_is_one_sentence_with_n_and_interval(tmp_path):
    results = study(tmp_path, ONE, values)
    (row,) = list_claims(results)
    (sentence,) = answer(results).sentences
    assert sentence.startswith("“Full is better.” is supported: full ")
    assert estimate_text(row.a.estimate, "test_accuracy") in sentence
    assert "[+" in sentence
    assert sentence.endswith("10 pairs.")
    assert answer(results).not_shown == [not_covered()]


def test_accuracy_in_general_uses_the_second_interval(tmp_path):
    results = with_items(tmp_path, {"none": table(1), "full": table(2)})
    (row,) = list_claims(results)
    found = answer(results)
    low, high = row.a.difference.items
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in found.sentences[0]
    assert found.sentences[0].endswith("over other seeds and other test rows.")
    assert found.not_shown[-1] == not_covered("all")
    assert "other test rows" not in found.not_shown[-1]


def test_many_questions_are_counted_and_the_odd_one_is_told(tmp_path):
    def outcome(fields, seed):
        worse = fields["activation"] == "relu" and fields["norm"] == "full"
        return {"test_accuracy": 0.5 + 0.01 * seed if worse else values(fields, seed)["test_accuracy"]}

    found = answer(study(tmp_path, MANY, outcome))
    assert found.sentences[0] == "The claims ask 5 questions: 3 supported, 1 contradicted, 1 undecided."
    assert "(activation sigmoid) is supported" in found.sentences[1]
    assert "(activation relu) is contradicted" in found.sentences[2]
    assert len(found.sentences) == 3
    assert found.not_shown[1] == "Undecided: claim 2."


def test_failed_runs_and_missing_ones_are_said(tmp_path):
    def outcome(fields, seed):
        if fields["norm"] == "none":
            return DIVERGED
        return None if seed == 9 else values(fields, seed)

    found = answer(study(tmp_path, ONE, outcome))
    assert "norm none failed in every pair, norm full in none, 9 pairs" in found.sentences[0]
    assert found.not_shown[0] == "Provisional (runs are missing): claim 1."


def test_without_claims_the_differences_are_told_as_descriptive(tmp_path):
    results = study(tmp_path, ONE.partition("claims:")[0], values)
    found = answer(results)
    assert found.sentences[0].startswith("full against norm=none, test accuracy: +")
    assert "(n = 10 pairs); the interval holds better values only." in found.sentences[0]
    assert "nothing was tested" in found.not_shown[0]


def test_nothing_yet_and_nothing_to_compare(tmp_path):
    assert "none of the 20 runs has finished" in answer(study(tmp_path, ONE, lambda f, s: None)).sentences[0]
    lone = study(tmp_path, "data: digits\nseeds: 3\n", values, name="t")
    assert answer(lone).sentences == ["Nothing was compared: no setting has a baseline that it differs from."]


@pytest.mark.parametrize("name", ["first", "second"])
def test_claims_of_the_page(tmp_path, name):
    results = study(tmp_path, MANY, values, name=name)
    first, second = claim_parts(list_claims(results))
    assert (first.number, first.text) == (1, "Full is better.")
    assert [name for name, _ in first.table.head][:4] == ["activation", "verdict", "a: full", "b: none"]
    assert [row[0].text for row in first.table.blocks[0].rows] == ["sigmoid", "tanh", "relu", "linear"]
    verdicts = [cell for row in first.table.blocks[0].rows for cell in row if cell.kind.startswith("verdict")]
    assert {(cell.text, cell.kind) for cell in verdicts} == {("✓ supported", "verdict supported")}
    assert ("why", "a point") in second.facts
    assert ("where", "activation tanh") in second.facts
