"""What a newcomer begins with: init, schema, explain, and the lesson."""

from __future__ import annotations

import json
import random
import re

import hostile
import jsonschema
import pytest
from sizes import by_size
from tools import ROOT

from bnexp import source
from bnexp.errors import SpecError, UsageError
from bnexp.glossary import GLOSSARY, look_up
from bnexp.loading import TOP, load_spec
from bnexp.schema import spec_schema
from bnexp.spec import MEASURES, SECTIONS
from bnexp.starting import SCHEMA_FILE, STARTERS, schema_text, starter

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
VALIDATOR = jsonschema.Draft7Validator(json.loads(schema_text()))


def ask(*words, code=0):
    answer = hostile.ask([str(word) for word in words], 600)
    assert (answer.code, answer.fault) == (code, ""), words


def mistakes(data):
    return [f"{list(error.path)}: {error.message[:200]}" for error in VALIDATOR.iter_errors(data)]


# --- the schema -------------------------------------------------------------------------------------------------------


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(VALIDATOR.schema)
    assert VALIDATOR.schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert set(VALIDATOR.schema["properties"]) == set(TOP)
    assert len(schema_text()) < 60_000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path):
    assert mistakes(source.read_file(path).data) == []


def fields_of(node, path=""):
    for name, one in node.get("properties", {}).items():
        yield f"{path}{name}", one
        for inner in (one, one.get("items", {}), *one.get("anyOf", ())):
            if isinstance(inner, dict):
                yield from fields_of(inner, f"{path}{name}.")


def test_every_field_has_a_description_and_a_default():
    schema = spec_schema()
    found = {**schema["definitions"], **{path: one for path, one in fields_of(schema) if "$ref" not in one}}
    assert len(found) > 80
    without = {path for path, one in found.items() if not one.get("description")}
    assert without <= {f"variants.{section}" for section in SECTIONS}  # parts of a spec, described where they are one
    required = {"data", "data.name", "name"}  # the file's stem names the study
    parts = {path for path in found if path.startswith("claims.") or path.split(".")[0] in ("measure", "variants")}
    assert {path for path, one in found.items() if "default" not in one} - parts <= required
    options = {f"measure.{name}.{option}" for name, model in MEASURES.items() for option in model.model_fields}
    assert options <= {path for path, one in found.items() if "default" in one}


def test_what_the_loader_takes_the_schema_takes(tmp_path):
    """Mutated specs, and values at the ends of what they can be; the schema may take more than the loader."""
    generator, taken = random.Random(0), 0
    hostile.write_data(tmp_path)
    for _ in range(by_size(400, 4000)):
        path = tmp_path / "one.yaml"
        path.write_bytes(hostile.mutated(generator).encode("utf-8", "surrogatepass"))
        try:
            load_spec(path)
        except SpecError:
            continue
        taken += 1
        assert mistakes(source.read_file(path).data or {}) == [], path.read_text()
    assert taken > 50


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"data": "mnits"},
        {"data": {"samples": 3}},
        {"data": "bump", "train": {"lr": "a"}},
        {"data": "bump", "train": {"lr": 0}},
        {"data": "bump", "train": {"lr": []}},
        {"data": "bump", "train": {"lrr": 1}},
        {"data": "bump", "train": {"adam_betas": [0.9]}},
        {"data": "bump", "model": {"hidden": [0]}},
        {"data": "bump", "model": {"hidden": 3}},
        {"data": "bump", "model": {"norm": ["full", "batch"]}},
        {"data": "bump", "seeds": "5..a"},
        {"data": "bump", "measure": {"shift": {"step": 3}}},
        {"data": "bump", "variants": [{"train.lrr": 1}]},
        {"data": "bump", "claims": [{"claim": "a"}]},
        {"data": "bump", "name": "../x"},
        {"dta": "bump"},
    ],
)
def test_what_is_wrong_both_refuse(data, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps(data))
    with pytest.raises(SpecError):
        load_spec(path)
    assert mistakes(data)


# --- init -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_is_a_spec_that_can_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask("init", name)
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    assert json.loads((tmp_path / SCHEMA_FILE).read_text(encoding="utf-8")) == VALIDATOR.schema
    assert mistakes(source.parse(text, name).data) == []
    assert load_spec(tmp_path / "config.yaml").name == name
    assert all(len(line) <= 120 for line in text.splitlines())
    ask("check", "config.yaml")
    ask("init", name, code=2)
    ask("init", name, "--force")
    ask("init", name, "-o", "more/other.yaml")
    assert (tmp_path / "more/other.yaml").read_text(encoding="utf-8") == text
    assert (tmp_path / "more" / SCHEMA_FILE).exists()


def test_no_starter_of_that_name():
    with pytest.raises(UsageError, match="did you mean 'lesson'"):
        starter("lesons")


def test_the_lesson_is_answered(tmp_path, monkeypatch):
    """Four questions, whose answers the page shows."""
    monkeypatch.chdir(tmp_path)
    ask("init", "lesson")
    ask("train", "config.yaml", "-q")
    ask("report", "results/lesson")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(load_spec(tmp_path / "config.yaml").claims) == 4
    assert len(re.findall(r"(supported|contradicted|undecided)</", page)) >= 4
    assert "no verdict" not in page


# --- explain ----------------------------------------------------------------------------------------------------------


def test_words_are_found_and_are_those_of_the_page():
    names = [name for word in GLOSSARY for name in word.names]
    assert len(set(names)) == len(names)
    for word in ("gamma", "Beta", "ICS", "placement", "shift", *SECTIONS["model"].model_fields["norm"].default.split()):
        assert look_up(word).meaning
    for measure in ("shift", "ics", "landscape", "rank", "identity", "activations"):
        assert look_up(measure)
    with pytest.raises(UsageError, match="did you mean 'gamma'"):
        look_up("gama")


def test_explain_prints_the_entry(capsys):
    from bnexp.cli import app

    with pytest.raises(SystemExit) as end:
        app(["explain", "ics"])
    assert end.value.code == 0
    assert " ".join(capsys.readouterr().out.split()) == f"ICS {look_up('ics').meaning}"
