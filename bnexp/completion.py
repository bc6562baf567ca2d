"""What a shell offers when TAB is pressed: specs, fields and their values, results folders. It must be quick."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

ROOT = Path("results")


def complete_config(incomplete: str) -> list[str]:
    """YAML files, and folders to go into."""
    return [path for path in _paths(incomplete) if path.endswith(("/", ".yaml", ".yml"))]


def complete_results(incomplete: str) -> list[str]:
    """Results folders under results/; elsewhere folders to go into."""
    from bnexp.layout import SPEC

    known = sorted(str(path.parent) for path in ROOT.glob(f"*/{SPEC}"))
    found = [path for path in known if path.startswith(incomplete)]
    return found or [path for path in _paths(incomplete) if path.endswith("/")]


def complete_override(incomplete: str) -> list[str]:
    """``train.lr=`` and the like; of one field its values, or its default.

    bash takes a word apart at ``=`` and wants what comes after it alone; other shells hand over the whole.
    """
    words = os.environ.get("COMP_WORDS", "").split()
    after = _after_equals(words, incomplete)
    if after is not None:
        key, typed = after
        return [value for value in _values(key) if value.startswith(typed)]
    key, equals, typed = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in _values(key) if value.startswith(typed)]
    keys = [name for name in _fields() if name.startswith(key)]
    if len(keys) > 1:
        return [f"{name}=" for name in keys]
    # Two candidates or more, so that no shell puts a blank after the "=".
    return [f"{name}={value}" for name in keys for value in ("", *_values(name))]


def _after_equals(words: list[str], incomplete: str) -> tuple[str, str] | None:
    """The field and what is typed of its value, where bash has cut them apart."""
    if not incomplete and len(words) > 1 and words[-1] == "=":
        return words[-2], ""
    if len(words) > 2 and words[-2] == "=" and words[-1] == incomplete:
        return words[-3], incomplete
    return None


def _paths(incomplete: str) -> Iterator[str]:
    """Files and folders, which end with a slash, that begin with what is typed."""
    folder, _, name = incomplete.rpartition("/")
    place = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        entries = sorted(os.scandir(place or "."), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(name) and (name or not entry.name.startswith(".")):
            yield f"{place}{entry.name}" + ("/" if entry.is_dir() else "")


def _fields() -> dict[str, Any]:
    """Every field that can be overridden, by path, with what pydantic knows of it."""
    from bnexp.spec import MEASURES, StudyFields, setting_fields

    fields: dict[str, Any] = {f"{section}.{name}": info for section, name, info in setting_fields()}
    fields |= {"data": fields["data.name"], "seeds": None, "measure": None, "question": None, "name": None}
    fields |= StudyFields.model_fields
    options = {
        f"measure.{name}.{key}": info for name, model in MEASURES.items() for key, info in model.model_fields.items()
    }
    return fields | options


def _values(key: str) -> list[str]:
    """The words that a field takes; of a number its default."""
    from bnexp.spec import MEASURES

    if key in ("seeds", "measure"):
        return ["10", "0..9"] if key == "seeds" else list(MEASURES)
    info = _fields().get(key)
    if info is None:
        return []
    words = list(dict.fromkeys(_words(info.annotation)))
    return words or ([] if info.is_required() or info.default is None else [_shown(info.default)])


def _words(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    if get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _words(part)


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
