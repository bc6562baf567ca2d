"""The command that adds seeds: where it is offered, and that it does what it says."""

from __future__ import annotations

import shlex
import shutil

import hostile
import pytest
from tools import Silent, make_spec

from bnexp.comparison import list_claims
from bnexp.experiment import Request, run_experiment
from bnexp.growth import _twice, growth
from bnexp.results import load_results

SPEC = """
name: small
data: {name: xor, samples: 40}
model: {hidden: [3, 3], norm: [none, full]}
train: {epochs: 1, batch_size: 10}
seeds: 2
claims: [{claim: c, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}]
"""


@pytest.mark.parametrize(
    ("seeds", "text"),
    [((0, 1, 2), "seeds=6"), ((3, 4), "seeds=3..6"), ((0, 5), "'seeds=[0,5,6,7]'"), ((5,), "seeds=5..6")],
)
def test_as_many_again(seeds, text):
    assert _twice(seeds) == text


def test_the_command_adds_seeds(tmp_path):
    folder = tmp_path / "small study"
    run_experiment(make_spec(SPEC), Request(out=folder, workers=1), Silent())
    before = (folder / "runs.csv").read_text()
    (results,) = load_results([folder])
    hint = growth(results, list_claims(results))
    assert hint.startswith("2 seeds are few; as many again: bnexp train ")
    words = shlex.split(hint.partition("bnexp ")[2])
    answer = hostile.ask([*words, "--workers", "1", "-q"], 600)
    assert (answer.code, answer.fault) == (0, "")
    assert set(before.splitlines()) < set((folder / "runs.csv").read_text().splitlines())
    assert len(load_results([folder])[0].runs) == 8


def test_where_it_is_not_offered(tmp_path):
    folder = tmp_path / "small"
    run_experiment(make_spec(SPEC, "seeds=8", "claims=[]"), Request(out=folder, workers=1), Silent())
    (results,) = load_results([folder])
    assert growth(results, ()) == ""
    run_experiment(make_spec(SPEC), Request(out=tmp_path / "few", workers=1), Silent())
    shutil.rmtree(tmp_path / "few/shards")
    (results,) = load_results([tmp_path / "few"])
    assert growth(results, list_claims(results)) == ""
