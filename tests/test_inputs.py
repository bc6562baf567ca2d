"""Everything that is wrong with a study is told at once, whatever it is that is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from tools import ROOT, Silent

import bnexp
from bnexp.errors import DataError, SpecError
from bnexp.experiment import Request, run_experiment
from bnexp.inputs import MAX_DATASETS, load_datasets, read_inputs, with_other_mistakes
from bnexp.loading import load_spec

GOOD = "a,b,y\n" + "".join(f"{i},{i % 7},{'yes' if i % 2 else 'no'}\n" for i in range(60))
BAD = GOOD.replace("\n3,3,", "\n3,x,").replace("\n5,5,", "\n,5,")


@pytest.fixture
def study(tmp_path):
    """Write the files of a study, and try it; gives what is said."""
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "bad.csv").write_text(BAD)
    rows = np.random.default_rng(0).normal(size=(60, 2))
    np.savez(tmp_path / "good.npz", x=rows, y=np.arange(60) % 2)

    def attempt(text: str, *overrides: str) -> BaseException:
        path = tmp_path / "study.yaml"
        path.write_text(text)
        with pytest.raises((SpecError, DataError)) as caught:
            bnexp.train(str(path), overrides, out=tmp_path / "out", progress=False)
        assert not (tmp_path / "out").exists()
        return caught.value

    return attempt


SEVERAL = """variants:
  - data: {name: npz, path: good.npz}
  - data: {name: csv, path: bad.csv, target: y}
model: {norm: [none, full]}
"""


CELLS = ("bad.csv:row 5, column 'b': error", "bad.csv:row 7, column 'a': error")


def test_mistakes_of_the_spec_come_with_those_of_its_data_files(study):
    text = "data: {name: csv, path: bad.csv, target: y}\ntrain: {epochs: many, lrr: 1}\nseeds: 2\n"
    said = str(study(text, "model.norm=ful"))
    for words in ("study.yaml:2:17", "study.yaml:2:23", "override 'model.norm=ful'", *CELLS):
        assert words in said


def test_a_data_file_is_read_only_where_the_spec_names_it_rightly(study):
    said = str(study("data: {name: csv, path: bad.csv, target: y, test: 2}\ntrain: {epochs: many}\n"))
    assert "data.test" in said
    assert "train.epochs" in said
    assert "bad.csv:" not in said
    said = str(study("data: {name: csv, path: bad.csv, target: y}\ntrain: {epochs: many}\n", "data.path=gone.csv"))
    assert "gone.csv" in said
    assert "bad.csv:" not in said


def test_a_mistake_beside_sound_data_is_told_alone(study):
    error = study("data: {name: csv, path: good.csv, target: y}\ntrain: {epochs: many}\n")
    assert isinstance(error, SpecError)
    assert len(error.problems) == len(str(error).splitlines()) // 3 == 1


CLAIM = """claims:
  - {claim: c, where: {data: DATA}, a: {norm: full}, b: {norm: none}, metric: fit_r2, expect: greater}
"""


def test_traps_claims_and_data_files_are_told_together(study):
    """A batch that is too large for the sound file, a claim on it that cannot be, and cells of the other file."""
    said = str(study(f"{SEVERAL}train: {{batch_size: 300, epochs: 1}}\n{CLAIM.replace('DATA', 'npz')}"))
    for words in ("300 rows per step", "fit_r2 does not exist for data npz, a classification", *CELLS):
        assert said.count(words) == 1, words
    assert said.index("study.yaml:5") < said.index("study.yaml:7") < said.index("bad.csv")


def test_a_claim_on_data_that_cannot_be_read_is_not_judged(study):
    error = study(f"{SEVERAL}train: {{batch_size: 8, epochs: 1}}\n{CLAIM.replace('DATA', 'csv')}")
    assert isinstance(error, DataError)
    assert "fit_r2" not in str(error)


def places(error):
    return [problem.where.split(":", 1)[1] for problem in error.problems]


CLAIMS = """data: digits
model: {norm: [none, full]}
train: {lr: [0.1, 1]}
claims:
  - {claim: c, where: {lr: 1}, a: {norm: full}, b: {norm: none}, metric: test_accuracyy, expect: greater}
  - {claim: c, where: {lr: 2}, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: less}
  - {claim: c, a: {norm: full}, b: {norm: none}, metric: fit_loss, expect: les}
"""


def test_claims_are_told_in_one_go(study):
    """One asks for what is not recorded, one for a setting that is not there, one is ill formed and not one setting."""
    error = study(CLAIMS)
    assert [place.split(":")[0] for place in places(error)] == ["5", "6", "7", "7"]
    assert "test_accuracyy is not recorded" in str(error)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("data: {name: foo, path: d.csv, target: y}\n", ["1:14"]),
        ("data: [{name: csv}]\ntrain: {lr: x}\n", ["1:7", "2:13"]),
        ("train: {lr: x}\n", ["1:1", "1:13"]),
        (
            "data: digits\nvariants:\n- {model.activation: tanh}\n- {train: {btch: 3}, model: {activation: tanh}}\n",
            ["4:12"],
        ),
    ],
)
def test_a_mistake_brings_no_others_that_are_none(study, text, where):
    assert places(study(text)) == where


def test_all_that_is_sound_gives_inputs():
    spec = load_spec(ROOT / "configs" / "quickstart.yaml")
    inputs = read_inputs(spec, 100_000)
    assert len(inputs.runs) == len(spec.settings) * len(spec.seeds)
    assert set(inputs.datasets) == {setting.data for setting in spec.settings}
    summary = run_experiment(spec, Request(), Silent(), dry_run=True)
    assert summary.outline.runs == inputs.runs


def test_only_files_of_ones_own_are_looked_into_beside_mistakes(monkeypatch):
    """MNIST would be fetched, and generated rows have no mistakes."""
    looked: list[str] = []

    def load(fields):
        looked.append(fields.name)
        raise DataError(f"{fields.path}: wrong")

    monkeypatch.setattr("bnexp.inputs.load_dataset", load)
    spec = load_spec(ROOT / "configs" / "quickstart.yaml")
    own = [spec.settings[0].data.model_copy(update={"name": "csv", "path": str(n)}) for n in range(MAX_DATASETS + 5)]
    found = with_other_mistakes(SpecError([], data=[spec.settings[0].data, *own]))
    assert looked == ["csv"] * MAX_DATASETS
    assert len(str(found).splitlines()) == MAX_DATASETS
    assert load_datasets([]) == ({}, "")
