"""What ``bnexp init`` writes: a commented spec, with the schema by which an editor completes it; or a notebook."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

from bnexp.errors import StorageError, UsageError, did_you_mean
from bnexp.schema import spec_schema

STARTERS = ("quickstart", "lesson", "claim", "sweep")
NOTEBOOK = "walkthrough"
SCHEMA_FILE = "bnexp.schema.json"  # the starters' first line names it
_CELLS = re.compile(r"^```python\n(.*?)^```\n", re.M | re.S)


def starter(name: str) -> str:
    """The text of a commented spec; raise UsageError for a name that is none."""
    if name not in STARTERS:
        known = (*STARTERS, NOTEBOOK)
        hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
        raise UsageError(f"no template {name!r}{hint}")
    return _text(f"{name}.yaml")


def _text(file: str) -> str:
    return resources.files("bnexp.starters").joinpath(file).read_text(encoding="utf-8")


def schema_text() -> str:
    """The schema of a spec as JSON."""
    return json.dumps(spec_schema(), indent=1, ensure_ascii=False) + "\n"


def notebook_text() -> str:
    """The walk-through as a notebook of format 4.5: blocks of Python are code cells, what stands between is text."""
    parts = _CELLS.split(_text(f"{NOTEBOOK}.md"))  # text and code by turns
    cells: list[dict[str, object]] = []
    for index, part in enumerate(parts):
        if part.strip():
            cell: dict[str, object] = {
                "id": f"cell-{index}",
                "metadata": {},
                "source": part.strip().splitlines(keepends=True),
            }
            code: dict[str, object] = {"cell_type": "code", "execution_count": None, "outputs": []}
            cells.append(cell | (code if index % 2 else {"cell_type": "markdown"}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5},
        indent=1,
        ensure_ascii=False,
    )


def write_starter(name: str, path: Path | None = None, force: bool = False) -> list[Path]:
    """Write a spec (config.yaml) and the schema beside it, or the walk-through (walkthrough.ipynb); what was written.

    Raises UsageError where the file is there already, and StorageError.
    """
    if name == NOTEBOOK:
        path = path or Path(f"{NOTEBOOK}.ipynb")
        contents = {path: notebook_text()}
    else:
        path = path or Path("config.yaml")
        contents = {path: starter(name), path.parent / SCHEMA_FILE: schema_text()}
    if path.name == SCHEMA_FILE:
        raise UsageError(
            f"{path}: is the name of the schema, which is written beside the spec; name another with -o FILE"
        )
    if path.exists() and not force:
        raise UsageError(f"{path}: is there already; name another with -o FILE, or replace it with --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content in contents.items():
            file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror or error}") from error
    return list(contents)
