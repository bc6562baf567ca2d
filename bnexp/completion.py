"""What a shell offers when TAB is pressed: specs, fields and their values, results folders. It must be quick."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
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
    found = [_escaped(path) for path in known if path.startswith(incomplete)]
    return found or [path for path in _paths(incomplete) if path.endswith("/")]


def complete_template(incomplete: str) -> list[str]:
    """What ``init`` can write."""
    return _beginning(["quickstart", "lesson", "claim", "sweep", "walkthrough"], incomplete)


def complete_word(incomplete: str) -> list[str]:
    """Words that ``explain`` knows."""
    from bnexp.glossary import GLOSSARY

    return _beginning([name for word in GLOSSARY for name in word.names if " " not in name], incomplete)


def complete_export(incomplete: str) -> list[str]:
    """Formats of ``export``."""
    return _beginning(["parquet", "tensorboard", "safetensors"], incomplete)


def complete_format(incomplete: str) -> list[str]:
    """Formats of ``compare``."""
    from bnexp.console import FORMATS

    return _beginning(FORMATS, incomplete)


def _beginning(words: Iterable[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def complete_override(incomplete: str) -> list[str]:
    """``train.lr=`` and the like; of one field its values, or its default.

    bash takes a word apart at ``=`` and wants what comes after it alone; other shells hand over the whole.
    """
    words = os.environ.get("COMP_WORDS", "").split()
    cursor = os.environ.get("COMP_CWORD", "")
    words = words[: int(cursor) + 1] if cursor.isdecimal() else words  # more may stand after the cursor
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


def _paths(incomplete: str) -> list[str]:
    """Files and folders, which end with a slash, that begin with what is typed.

    With one folder comes what is in it: so no shell takes the folder for the whole word and puts a blank after it.
    """
    found = _entries(incomplete)
    if len(found) == 1 and found[0].endswith("/"):
        found += _entries(found[0])
    return [_escaped(path) for path in found]


def _entries(incomplete: str) -> list[str]:
    folder, _, name = incomplete.rpartition("/")
    place = f"{folder}/" if folder or incomplete.startswith("/") else ""
    try:
        entries = sorted(os.scandir(place or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    return [
        f"{place}{entry.name}" + ("/" if entry.is_dir() else "")
        for entry in entries
        if entry.name.startswith(name) and (name or not entry.name.startswith("."))
    ]


def _escaped(path: str) -> str:
    """As bash must have it, which puts into its line what it gets; other shells quote by themselves."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", path) if "bash" in os.environ.get("_BNEXP_COMPLETE", "") else path


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
