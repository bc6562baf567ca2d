"""Free text of others (specs, data files, folders, results) made harmless where it is shown or written."""

from __future__ import annotations

import re
from typing import TypeVar

Value = TypeVar("Value")

# What a terminal obeys: controls but the line feed, bidirectional marks, line separators, lone surrogates.
_OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_FORMULA = re.compile(r" *[=+\-@\t\r](?!(?<=-)[\d.]+(e[-+]?\d+)?$)")  # a negative number is none


def visible(text: str) -> str:
    r"""Text in which nothing commands a terminal: such characters are shown by their code, ``\u001b``."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def harmless(cell: Value) -> Value | str:
    """A CSV cell; text that a spreadsheet takes for a formula has an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
