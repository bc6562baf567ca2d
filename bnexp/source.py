"""YAML text to plain data, with the position of every key and value.

YAML here means what it shows: scalars follow the YAML 1.2 core schema (``1e-3`` is a number, ``no`` and ``off`` are
strings, ``010`` is ten), and everything that can surprise (duplicate keys, anchors, aliases, tags, merge keys, several
documents) is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bnexp.errors import Problem, Problems, SpecError

MAX_BYTES = 256 * 1024  # assumption: no hand-written spec is longer
MAX_VALUES = 20_000  # assumption: nor has more keys and values
MAX_DEPTH = 20  # assumption: the deepest sensible spec nests five levels

FieldPath = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: dict[str, Any] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["true", "True", "TRUE"], True),
    **dict.fromkeys(["false", "False", "FALSE"], False),
    **dict.fromkeys([".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"], float("inf")),
    **dict.fromkeys(["-.inf", "-.Inf", "-.INF"], float("-inf")),
    **dict.fromkeys([".nan", ".NaN", ".NAN"], float("nan")),
}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # a double-quoted text can spell them
MAX_DIGITS = 400  # assumption: longer numerals are mistakes; Python refuses to convert very long ones


@dataclass
class Document:
    """Plain data and where each part of it stands: ``keys`` and ``values`` map a path to (line, column), from 1."""

    name: str
    lines: list[str]
    data: Any = None
    keys: dict[FieldPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[FieldPath, tuple[int, int]] = field(default_factory=dict)

    def problem(self, path: FieldPath, message: str, *, at_key: bool = False, dotted: str | None = None) -> Problem:
        """Build the Problem for the field at ``path``, or at its nearest parent that stands in the file."""
        table = self.keys if at_key else self.values
        for length in range(len(path), -1, -1):
            position = table.get(path[:length]) or self.values.get(path[:length])
            if position is not None:
                break
        else:
            position = (1, 1)
        shown = ".".join(str(part) for part in path if isinstance(part, str)) if dotted is None else dotted
        return problem_at(self, position, message, shown)


def problem_at(document: Document, position: tuple[int, int], message: str, path: str = "") -> Problem:
    """Build a Problem for a line and column (both from 1) of the document."""
    line, column = position
    text = document.lines[line - 1] if line <= len(document.lines) else ""
    return Problem.pointing(f"{document.name}:{line}:{column}", path, message, text, column)


def read_file(path: Path) -> Document:
    """Read and parse a YAML file; raise SpecError for anything that is not a small UTF-8 file of plain YAML."""
    try:
        if not path.exists():
            raise SpecError([Problem(str(path), "", "no such file")])
        if not path.is_file():
            raise SpecError([Problem(str(path), "", "not a regular file")])
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError([Problem(str(path), "", f"cannot be read: {error.strerror or error}")]) from None
    if len(raw) > MAX_BYTES:
        raise SpecError([Problem(str(path), "", f"larger than {MAX_BYTES // 1024} KiB: not a bnexp spec")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError([Problem(f"{path}:{line}:1", "", "not UTF-8 text; save the file as UTF-8")]) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` stands for the file in messages."""
    # Split as YAML counts lines, so that positions and lines agree.
    document = Document(name, re.split("\r\n|\r|\n|\x85|\u2028|\u2029", text))
    try:
        _Builder(document).build(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = f"not valid YAML: {error.problem or error.context}"
        raise SpecError([problem_at(document, position, message)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"a character that YAML does not allow (code {error.character!r})"
        raise SpecError([problem_at(document, (line, 1), message)]) from None
    return document


@dataclass
class _Open:
    """A collection that is being read: its container, its path, and the key that waits for a value."""

    container: dict[str, Any] | list[Any]
    path: FieldPath
    key: str | None = None

    @property
    def waits_for_key(self) -> bool:
        return isinstance(self.container, dict) and self.key is None


class _Builder:
    """Assembles the data from parser events with an explicit stack, so that depth is bounded and nothing recurses."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: list[_Open] = []
        self.problems = Problems()
        self.started = False
        self.values = 0

    def build(self, events: Iterator[Any]) -> None:
        """Take in every event; raise SpecError with what can be collected, at once for what cannot be read past."""
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if self.started:
                    raise SpecError([self._problem(event, "a second document starts here; a spec is one document")])
                self.started = True
            elif isinstance(event, yaml.AliasEvent):
                raise SpecError([self._problem(event, "aliases (*name) are not allowed; write the value out")])
            elif isinstance(event, yaml.CollectionEndEvent):
                self.open.pop()
            elif isinstance(event, yaml.NodeEvent):
                self._node(event)
        if self.problems:
            raise SpecError(self.problems)

    def _node(self, event: Any) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise SpecError([self._problem(event, f"more than {MAX_VALUES} keys and values: not a bnexp spec")])
        if event.anchor is not None:
            raise SpecError([self._problem(event, "anchors (&name) are not allowed; write the value out")])
        if event.tag is not None:
            raise SpecError([self._problem(event, "tags (!name) are not allowed")])
        is_key = bool(self.open) and self.open[-1].waits_for_key
        if isinstance(event, yaml.ScalarEvent):
            if control := _CONTROL.search(event.value):
                message = f"holds the control character {control[0]!r}; leave it out"
                self.problems.append(self._problem(event, message))
            if is_key:
                self._key(event)
            else:
                self._value(event)
            return
        if is_key:
            raise SpecError([self._problem(event, "a key must be a plain word")])
        if len(self.open) >= MAX_DEPTH:
            raise SpecError([self._problem(event, f"nested deeper than {MAX_DEPTH} levels")])
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        self.open.append(_Open(container, self._place(event, container)))

    def _key(self, event: Any) -> None:
        """Note the key of a mapping; report merge keys and duplicates."""
        here = self.open[-1]
        if event.value == "<<":
            self.problems.append(self._problem(event, "merge keys (<<) are not allowed; write the values out"))
        elif event.value in here.container:
            self.problems.append(self._problem(event, f"key {event.value!r} stands here a second time"))
        here.key = event.value
        self.document.keys[(*here.path, event.value)] = _position(event)

    def _value(self, event: Any) -> None:
        try:
            self._place(event, _scalar(event))
        except ValueError as error:
            self.problems.append(self._problem(event, str(error)))
            self._place(event, None)

    def _place(self, event: Any, value: Any) -> FieldPath:
        """Put a value where the innermost open collection wants it and return its path."""
        path: FieldPath = ()
        if not self.open:
            self.document.data = value
        else:
            here = self.open[-1]
            if isinstance(here.container, list):
                path = (*here.path, len(here.container))
                here.container.append(value)
            else:
                path = (*here.path, str(here.key))
                here.container[str(here.key)] = value
                here.key = None
        self.document.values[path] = _position(event)
        return path

    def _problem(self, event: Any, message: str) -> Problem:
        return problem_at(self.document, _position(event), message)


def _position(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _scalar(event: Any) -> Any:
    """Resolve a scalar by the YAML 1.2 core schema; quoted and block scalars are always strings."""
    text = event.value
    if event.style is not None:
        return text
    if text in _SPECIAL:
        return _SPECIAL[text]
    if len(text) > MAX_DIGITS and _FLOAT.fullmatch(text):
        raise ValueError("a number with too many digits")
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def dump(data: Any) -> str:
    """Write plain data as YAML that this module reads back to the same data."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.2 would read as something else; writes no anchors; short lists inline."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    ambiguous = text in _SPECIAL or any(p.fullmatch(text) for p in (_INTEGER, _OCTAL_OR_HEX, _FLOAT))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if ambiguous else None)


def _represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.Node:
    text = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(number), repr(number))
    if "e" in text and "." not in text:  # PyYAML takes 1e-05 for a string and would add a tag
        text = text.replace("e", ".0e")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


def _represent_list(dumper: yaml.SafeDumper, items: Any) -> yaml.Node:
    flat = all(not isinstance(item, dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(tuple, _represent_list)
