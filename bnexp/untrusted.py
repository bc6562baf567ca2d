"""Free text of others (specs, data files, folders, results) made harmless where it is shown or written."""

from __future__ import annotations

import re
from typing import TypeVar

Value = TypeVar("Value")

# What a terminal obeys, or shows as nothing: controls but the line feed, marks of direction, separators of lines,
# letters without width but those that join, lone surrogates, tags.
_OBEYED = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = re.compile(r" *[=+\-@\t\r](?!(?<=-)[\d.]+(e[-+]?\d+)?$)")  # a negative number is none


def visible(text: str) -> str:
    r"""Text in which nothing commands a terminal: such characters are shown by their code, ``\u001b``."""
    return _OBEYED.sub(_code, text)


def _code(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")  # as JSON spells them
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def harmless(cell: Value) -> Value | str:
    """A CSV cell; text that a spreadsheet takes for a formula has an apostrophe before it."""
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell
