"""Specs: axes, variants, overrides, and every mistake at once, each in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import ROOT, make_spec

from bnexp import source
from bnexp.data import load_dataset
from bnexp.errors import SpecError
from bnexp.loading import load_spec, resolve
from bnexp.norms import NORMS
from bnexp.plan import DataShape, make_plan, make_runs
from bnexp.spec import DataFields, StudyFields, leaf, leaves, setting_fields

SHAPE = DataShape("classification", 1000, 64, 10)


def problems_of(text, *overrides):
    with pytest.raises(SpecError) as caught:
        make_spec(text, *overrides)
    return caught.value.problems


def shapes(spec, shape=SHAPE):
    return {setting.data: shape for setting in spec.settings}


def test_leaf_names_are_unique():
    names = [leaf(section, name) for section, name, _ in setting_fields()]
    names += [*StudyFields.model_fields, "name", "question", "seeds", "measure", "variants", "claims"]
    assert len(names) == len(set(names))
    assert len(leaves()) == sum(1 for _ in setting_fields())


def test_every_field_says_what_it_means():
    for section, name, info in setting_fields():
        assert info.description, f"{section}.{name}"
    assert all(info.description for info in StudyFields.model_fields.values())


def test_lists_are_axes_and_the_first_field_varies_slowest():
    spec = make_spec("data: digits\nmodel: {hidden: [[8], [4, 4]], norm: [none, full]}\ntrain: {lr: [0.1, 1]}")
    assert spec.axes == ("hidden", "norm", "lr")
    shown = [(s.shown("hidden"), s.shown("norm"), s.shown("lr")) for s in spec.settings]
    assert shown[:4] == [("8", "none", "0.1"), ("8", "none", "1"), ("8", "full", "0.1"), ("8", "full", "1")]
    assert len(shown) == 8


def test_one_architecture_is_not_an_axis():
    spec = make_spec("data: digits\nmodel: {hidden: [8, 4]}\ntrain: {adam_betas: [0.8, 0.9]}")
    assert spec.axes == ()
    assert spec.settings[0].model.hidden == (8, 4)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("[4, 1]", (4, 1)), ("5..7", (5, 6, 7))],
)
def test_seeds(text, seeds):
    assert make_spec(f"data: digits\nseeds: {text}").seeds == seeds


def test_variants_are_multiplied_with_the_axes_and_replace_their_keys():
    spec = make_spec(
        "data: digits\nmodel: {norm: [none, full]}\ntrain: {lr: 0.1}\nvariants:\n"
        "  - {train.lr: [1, 2]}\n  - {model: {norm: beta}, train: {optimizer: adam}}"
    )
    shown = [(s.shown("norm"), s.shown("optimizer"), s.shown("lr")) for s in spec.settings]
    assert shown == [
        ("none", "sgd", "1"),
        ("none", "sgd", "2"),
        ("full", "sgd", "1"),
        ("full", "sgd", "2"),
        ("beta", "adam", "0.1"),
    ]


def test_a_setting_that_two_variants_make_is_an_error():
    found = problems_of("data: digits\nvariants:\n  - {train.lr: [1, 2]}\n  - {train.lr: 2}")
    assert found[0].where == "test.yaml:4:5"
    assert "repeats a setting of variant 1" in found[0].message


def test_overrides_replace_whole_values():
    spec = make_spec(
        "data: {name: digits, validation: 0.2}\nmodel: {norm: [none, full]}",
        "train.lr=0.03,0.1",
        "model.hidden=[64,64],[32,32]",
        "seeds=0..19",
        "model.norm=beta",
        "data=mnist",
        "measure.activations.every=5",
        "evaluate=running,batch",
    )
    assert spec.axes == ("hidden", "lr")
    assert (spec.settings[0].data.name, spec.settings[0].data.validation) == ("mnist", 0.2)
    assert len(spec.seeds) == 20
    assert spec.measure["activations"] == {"every": 5}
    assert spec.study.evaluate == ("running", "batch")


@pytest.mark.parametrize(
    ("override", "way_out"),
    [
        ("data={name: xor, samples: 400}", "data.name=… data.samples=…"),
        ("model={norm: none}", "model.norm=…"),
        ("train=5", "train.FIELD=…"),
    ],
)
def test_an_override_of_a_whole_section_shows_how_to_set_its_fields(override, way_out):
    (text,) = map(str, problems_of("data: digits", override))
    assert text.startswith(f"override {override!r}: error: ")
    assert text.endswith(f"set each by itself: {way_out}")


def test_an_override_that_every_variant_hides_is_refused():
    text = "data: digits\nvariants:\n  - {data: digits, train.lr: 0.1}\n  - {data: xor, train: {lr: 0.5}}\n"
    found = problems_of(text, "train.lr=1", "data=blobs", "train.epochs=3", "seeds=2")
    assert [(problem.where, problem.message) for problem in found] == [
        (f"override {override!r}", f"every variant sets {path} itself; change it there, in the file")
        for override, path in (("data=blobs", "data.name"), ("train.lr=1", "train.lr"))
    ]
    one_is_free = text.replace("train.lr: 0.1", "train.epochs: 5")
    spec = make_spec(one_is_free, "train.lr=1", "seeds=2")
    assert [setting.train.lr for setting in spec.settings] == [1, 0.5]


def test_overrides_pass_the_same_checks():
    found = problems_of("data: digits", "train.lrr=1", "lr=3", "train.lr=-1", "nonsense", "model.norm=ful")
    where = [problem.where for problem in found]
    assert all(place.startswith("override '") for place in where)
    text = "\n".join(map(str, found))
    assert "did you mean 'train.lr'?" in text
    assert "greater than 0" in text
    assert "expected key=value" in text
    assert "did you mean 'full'?" in text


def test_all_mistakes_come_at_once_with_their_places():
    text = "\n".join(
        [
            "data: {name: digits, valdation: 0.2}",
            "model: {norm: [none, standardise], hidden: [64, 0]}",
            "train: {lr: [0.1, true, abc], epochs: 1.5, momentum: .nan, batch_size: ful}",
            "modle: {}",
            "seeds: -1",
            "evaluate: [runing]",
            "measure: [activation, shfit]",
            "claims: [{claim: a, expct: less, a: {norm: none}, b: {norm: full}, metric: fit_loss, expect: less}]",
        ]
    )
    found = problems_of(text)
    places = {problem.where.removeprefix("test.yaml:"): str(problem) for problem in found}
    expected = {
        "1:22": "did you mean 'validation'?",
        "2:22": "did you mean 'standardize'?",
        "2:49": "greater than or equal to 1",
        "3:19": "not True",
        "3:25": "valid number",
        "3:39": "valid integer",
        "3:54": "finite",
        "3:72": "did you mean 'full'?",
        "4:1": "did you mean 'model'?",
        "5:8": "a count (10), a list",
        "6:12": "did you mean 'running'?",
        "7:11": "did you mean 'activations'?",
        "7:23": "did you mean 'shift'?",
        "8:21": "did you mean 'expect'?",
    }
    for place, words in expected.items():
        assert words in places.get(place, ""), (place, words, places)
    assert len(places) == len(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {lr: 0.1}", "data is required"),
        ("data: digits\ntrain: {lr: []}", "empty list"),
        ("data: digits\ntrain: {lr: [1, 1.0]}", "twice"),
        ("data: {name: csv, path: [a, b], target: y}", "one value"),
        ("data: digits\nmodel: {ghost_size: 12}", "12 does not divide the batch of 32 rows"),
        ("data: digits\nmodel: {ghost_size: 1}", "1 row has no variance"),
        ("data: digits\nmodel: {ghost_size: 8}\ntrain: {last_batch: keep}", "needs last_batch drop"),
        ("data: digits\nmodel: {norm: standardize}\ntrain: {only: norm}", "learns neither"),
        ("data: digits\nmeasure: {shift: {steps: -1}}", "shift.steps: input should be greater than or equal to 0"),
        ("data: digits\nmeasure: {ics: {steps: 1}}", "ics.steps: no such option"),
        ("data: digits\nmodel: {gamma_init: identity}", "both gamma_init and beta_init"),
        ("data: digits\nmodel: {norm: affine, gamma_init: identity, beta_init: identity}", "needs norm full"),
        ("data: digits\nmodel: {gamma_init: standardize, beta_init: standardize}", "needs norm affine"),
        ("data: digits\nmodel: {weight_init: gaussian}", "weight_sd"),
        ("data: digits\ntrain: {nesterov: true}", "momentum above 0"),
        ("data: digits\ntrain: {optimizer: adam, momentum: 0.9}", "is sgd's"),
        ("data: digits\ntrain: {batch_size: 1}", "no variance"),
        ("data: {name: csv}", "needs the path"),
        ("data: {name: digits, samples: 5}", "no meaning for data digits"),
        ("data: {name: xor, samples: 5}", "pairs"),
        ("data: {name: bump, label_noise: 0.5}", "regression"),
        ("data: digits\nname: ../x", "cannot name a folder"),
        ("data: digits\nname: con", "cannot name a folder"),
        ("data: digits\nname: 7", "quote it"),
        ("data: digits\nvariants: [3]", "mapping"),
        ("- 1", "mapping of fields"),
        ("data: 3", "mapping of fields"),
    ],
)
def test_what_cannot_be(text, words):
    assert words in "\n".join(str(problem) for problem in problems_of(text))


def test_impossible_with_these_data():
    spec = make_spec("data: digits\ntrain: {batch_size: [32, 2000]}")
    with pytest.raises(SpecError, match="only 1000 training rows") as caught:
        make_runs(spec, shapes(spec))
    assert caught.value.problems[0].where == "test.yaml:2:21"
    spec = make_spec("data: digits\ntrain: {batch_size: 37, last_batch: keep}")
    with pytest.raises(SpecError, match="would hold 1 of"):
        make_runs(spec, shapes(spec))
    none = make_spec("data: digits\nmodel: {norm: none}\ntrain: {batch_size: 37, last_batch: keep}")
    assert make_runs(none, shapes(none))


def test_the_resolved_spec_reads_back_as_itself(tmp_path):
    (tmp_path / "in").mkdir()
    text = """
question: "no: 'quotes' #and 1e-3"
data: {name: csv, path: ../rows.csv, target: y}
model: {norm: [none, full], hidden: [[8, 8], [4]], eps: 1e-05}
train: {lr: [1e-3, 1], adam_betas: [0.8, 0.99]}
seeds: [3, 1]
measure: {activations: {every: 3}}
variants: [{train.lr: 2}, {data: {path: x.csv}}]
claims: [{claim: a, each: [hidden, path, lr], a: {norm: none}, b: {norm: full}, metric: fit_loss, expect: less}]
"""
    (tmp_path / "in" / "study.yaml").write_text(text, encoding="utf-8")
    spec = load_spec(tmp_path / "in" / "study.yaml")
    written = source.dump(dict(spec.document))
    again = resolve(source.parse(written, "spec.yaml"), (), "other", Path("/somewhere/else"))
    assert again == spec
    assert again.study_sha256() == spec.study_sha256()
    assert again.settings[0].data.path == str(tmp_path / "rows.csv")
    assert again.settings[-1].data.path == str(tmp_path / "in" / "x.csv")


def test_a_study_is_known_by_what_decides_its_numbers():
    plain = make_spec("data: digits\nmodel: {norm: [none, full]}")
    same = make_spec("name: other\nquestion: why\ndata: {name: digits, validation: 0.1}\nmodel: {norm: [none, full]}")
    assert plain.study_sha256() == same.study_sha256()
    assert plain.claims_sha256() != same.claims_sha256()
    for change in ("train.lr=0.2", "seeds=11", "probe=64", "measure=parameters", "model.norm=full,none"):
        assert make_spec("data: digits\nmodel: {norm: [none, full]}", change).study_sha256() != plain.study_sha256()


def test_defaults_do_not_name_a_run():
    assert make_spec("data: digits").settings[0].key == '{"data.name": "digits"}'


def test_plan_order_and_shards():
    spec = make_spec("data: digits\nmodel: {norm: [none, standardize, full]}\ntrain: {lr: [0.1, 1]}\nseeds: 5")
    plan = make_plan(make_runs(spec, shapes(spec)))
    ids = [run.id for shard in plan for run in shard.runs]
    assert ids[:3] == ["norm=none,lr=0.1,seed=0", "norm=none,lr=1,seed=0", "norm=none,lr=0.1,seed=1"]
    # standardize and full are one structure: γ, β learned are masks on the update.
    assert ids[10:14] == [f"norm={n},lr={lr},seed=0" for n in ("standardize", "full") for lr in ("0.1", "1")]
    assert [len(shard.runs) for shard in plan] == [8, 2, 8, 8, 4]
    assert len({shard.name for shard in plan}) == 5
    assert plan == make_plan(make_runs(spec, shapes(spec)))


def test_large_networks_make_small_shards():
    spec = make_spec("data: digits\nmodel: {hidden: [2048, 2048], norm: none}\nseeds: 8")
    assert [len(shard.runs) for shard in make_plan(make_runs(spec, shapes(spec)))] == [1] * 8


def test_an_extended_study_keeps_its_shards():
    small = make_spec("data: digits\ntrain: {lr: [0.1]}\nseeds: 10")
    large = make_spec("data: digits\ntrain: {lr: [0.1, 1]}\nseeds: 12")
    old = make_plan(make_runs(small, shapes(small)))
    new = make_plan(make_runs(large, shapes(large)), [{run.key: run.id for run in shard.runs} for shard in old])
    assert [shard.name for shard in new[: len(old)]] == [shard.name for shard in old]
    assert sorted(run.key for shard in new for run in shard.runs) == sorted(
        r.key for r in make_runs(large, shapes(large))
    )


def test_all_norms_share_two_dozen_structures_at_most():
    spec = make_spec(f"data: digits\nmodel: {{norm: [{', '.join(NORMS)}]}}")
    structures = {shard.structure for shard in make_plan(make_runs(spec, shapes(spec)))}
    assert {(s.center, s.scale) for s in structures} == {(False, False), (True, True), (True, False), (False, True)}
    assert len(structures) == 4


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_can_be_planned(path):
    spec = load_spec(path)
    assert spec.question
    known = {fields: (60_000, 784, 10) for fields in {s.data for s in spec.settings} if fields.name == "mnist"}
    for fields in {setting.data for setting in spec.settings} - set(known):
        dataset = load_dataset(fields)
        known[fields] = (len(dataset.train), dataset.n_inputs, dataset.n_outputs)
    shaped = {
        fields: DataShape("regression" if n == 1 else "classification", rows, n_in, n)
        for fields, (rows, n_in, n) in known.items()
    }
    assert make_plan(make_runs(spec, shaped))


def test_data_fields_are_hashable_and_equal_by_value():
    assert len({DataFields(name="digits"), DataFields(name="digits")}) == 1


def overridden(measure):
    text = f"data: digits\nmeasure: {measure}\n"
    return resolve(source.parse(text, "x.yaml"), ["measure.shift.steps=1"], "x", Path("."))


@pytest.mark.parametrize("measure", ["shift", "[shift]", "{shift: {}}"])
def test_an_override_of_one_option_of_a_measure(measure):
    assert overridden(measure).measure["shift"]["steps"] == 1


@pytest.mark.parametrize("measure", ["[{shift: {steps: 1}}]", "5", "[1, 2]"])
def test_an_override_of_a_malformed_measure_list_says_what_is_wrong_with_the_list(measure):
    with pytest.raises(SpecError) as error:
        overridden(measure)
    assert "x.yaml:2:" in str(error.value)
