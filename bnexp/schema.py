"""The spec as JSON Schema (draft-07), for editors and validators; made from the fields of ``bnexp.spec``.

A schema cannot say what two fields must not be together, nor that a number is strict: what it accepts, ``bnexp check``
may still refuse.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from bnexp.claim_grammar import OPERATORS, Claim, KnobMetric, TableMetric
from bnexp.spec import DEFAULT_MEASURES, DEFAULT_SEEDS, MEASURES, NAME, SECTIONS, StudyFields, is_axis, setting_fields

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
_ARCHITECTURES = ("hidden", "teacher_hidden")  # one is a list already: an axis is a list of lists


def spec_schema() -> Schema:
    """The schema of a whole spec file."""
    sections = {name: _section(name) for name in SECTIONS}
    fields = {path: _field(name, info) for path, name, info in _fields()}
    return {
        "$schema": DRAFT,
        "title": "bnexp spec",
        "description": "What bnexp train runs. A list where a scalar is expected is an axis of the grid.",
        "type": "object",
        "additionalProperties": False,
        "anyOf": [{"required": ["data"]}, {"required": ["variants"]}],
        "properties": {
            "name": {**_text("results folder [the file's stem]"), "pattern": f"^{NAME}$"},
            "question": _text("what the study asks", ""),
            "data": {
                "anyOf": [_reference("data.name"), sections["data"]],
                "description": "data set: a name, or its fields",
            },
            "model": {**sections["model"], "description": "what is trained", "default": {}},
            "train": {**sections["train"], "description": "how it is trained", "default": {}},
            "seeds": _seeds(),
            **{name: _value(info) for name, info in StudyFields.model_fields.items()},
            "evaluate": _evaluate(),
            "measure": _measure(),
            "variants": _variants(sections),
            "claims": _claims(),
        },
        "definitions": fields,
    }


def _fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Every field of a setting: its path, its name, and what it may hold."""
    for section, name, info in setting_fields():
        yield f"{section}.{name}", name, info


def _section(section: str) -> Schema:
    fields = SECTIONS[section].model_fields
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _reference(f"{section}.{name}") for name in fields},
        "required": [name for name, info in fields.items() if info.is_required()],
    }


def _reference(path: str) -> Schema:
    return {"$ref": f"#/definitions/{path}"}


def _field(name: str, info: FieldInfo) -> Schema:
    """A field of a setting: one value, or an axis of several."""
    value = _value(info)
    if not is_axis(info):
        return value
    said: Schema = {key: value.pop(key) for key in ("description", "default") if key in value}
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}], **said}


def _value(info: FieldInfo) -> Schema:
    """One value of a field, with its description and default."""
    annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    found: Schema = _draft_07(adapter.json_schema())
    found["description"] = info.description or ""
    if not info.is_required():
        found["default"] = list(info.default) if isinstance(info.default, tuple) else info.default
    return found


def _draft_07(node: Any) -> Any:
    """Pydantic writes draft 2020-12: a fixed list is spelt otherwise there. Its titles repeat names."""
    if isinstance(node, list):
        return [_draft_07(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {key: _draft_07(value) for key, value in node.items() if key not in ("title", "default")}
    if "prefixItems" in found:
        found["items"] = found.pop("prefixItems")
        found["additionalItems"] = False
    return found


def _text(description: str, default: str | None = None) -> Schema:
    return {"type": ["string", "null"], "description": description, "default": default}


def _seeds() -> Schema:
    seed = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}
    return {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 1_000_000},
            {"type": "string", "pattern": r"^[0-9]{1,9}\.\.[0-9]{1,9}$"},
            {"type": "array", "items": seed, "minItems": 1, "uniqueItems": True},
        ],
        "description": "how many (n means 0..n−1), a list, or a range such as 0..9",
        "default": DEFAULT_SEEDS,
    }


def _evaluate() -> Schema:
    """One word, or a list of them."""
    listed = _value(StudyFields.model_fields["evaluate"])
    description, default = listed.pop("description"), listed.pop("default")
    return {"anyOf": [listed["items"], listed], "description": description, "default": default}


def _measure() -> Schema:
    name = {"enum": list(MEASURES)}
    options = {
        measure: {
            "type": ["object", "null"],
            "additionalProperties": False,
            "properties": {key: _value(info) for key, info in model.model_fields.items()},
            "description": model.__doc__ or "",
        }
        for measure, model in MEASURES.items()
    }
    return {
        "anyOf": [
            name,
            {"type": "array", "items": name, "uniqueItems": True},
            {"type": "object", "additionalProperties": False, "properties": options},
        ],
        "description": "what is measured inside: names, or names with their options",
        "default": list(DEFAULT_MEASURES),
    }


def _variants(sections: dict[str, Schema]) -> Schema:
    dotted = {path: _reference(path) for path, _, _ in _fields()}
    nested = {section: {**schema, "required": []} for section, schema in sections.items()}
    nested["data"] = {"anyOf": [_reference("data.name"), nested["data"]]}
    return {
        "type": ["array", "null"],
        "items": {"type": "object", "additionalProperties": False, "properties": {**nested, **dotted}},
        "description": "partial specs, each multiplied out with the axes, its keys replacing theirs",
        "default": [],
    }


def _claims() -> Schema:
    condition = {
        "anyOf": [
            {"const": "learned"},
            {
                "type": "array",
                "items": [{"type": "string"}, {"enum": list(OPERATORS)}, {"type": "number"}],
                "minItems": 3,
                "maxItems": 3,
            },
        ]
    }
    knob = _claim_part(KnobMetric, such_that=condition)
    table = {**_claim_part(TableMetric), "additionalProperties": True}
    metric = {"anyOf": [{"type": "string"}, table, knob]}
    words = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    margin = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}, {"type": "null"}]}
    claim = _claim_part(Claim, metric=metric, each=words, within=margin)
    return {
        "type": ["array", "null"],
        "items": claim,
        "description": "what is expected, stated before the run and judged after it",
        "default": [],
    }


def _claim_part(model: type[BaseModel], **given: Schema) -> Schema:
    """A part of a claim; ``given``: the fields of which pydantic cannot tell what they may hold."""
    properties = {}
    for name, info in model.model_fields.items():
        value = _value(info)
        if name in given:
            value = {**given[name], **{key: value[key] for key in ("description", "default") if key in value}}
        properties[name] = value
    required = [name for name, info in model.model_fields.items() if info.is_required()]
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required}
