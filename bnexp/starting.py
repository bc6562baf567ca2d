"""What ``bnexp init`` writes: a commented spec, and the schema by which an editor completes and checks it."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from bnexp.errors import StorageError, UsageError, did_you_mean
from bnexp.schema import spec_schema

STARTERS = ("quickstart", "lesson", "claim", "sweep")
SCHEMA_FILE = "bnexp.schema.json"  # the starters' first line names it


def starter(name: str) -> str:
    """The text of a commented spec; raise UsageError for a name that is none."""
    if name not in STARTERS:
        hint = did_you_mean(name, STARTERS) or f"; there are {', '.join(STARTERS)}"
        raise UsageError(f"no template {name!r}{hint}")
    return resources.files("bnexp.starters").joinpath(f"{name}.yaml").read_text(encoding="utf-8")


def schema_text() -> str:
    """The schema of a spec as JSON."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


def write_starter(name: str, path: Path, force: bool = False) -> list[Path]:
    """Write a spec, and the schema beside it; raise UsageError where a spec is there already, and StorageError."""
    text = starter(name)
    if path.exists() and not force:
        raise UsageError(f"{path}: is there already; name another with -o FILE, or replace it with --force")
    written = [path, path.parent / SCHEMA_FILE]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in zip(written, (text, schema_text()), strict=True):
            file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
    return written
