"""What is wrong with a metric of a table, in words: the same for a claim and for ``compare --metric``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bnexp.errors import did_you_mean


def no_table(name: str, tables: Iterable[str]) -> str:
    """The table is none of these."""
    known = list(tables)
    hint = f"{did_you_mean(name, known)}; tables of this study: {', '.join(known)}"
    return f"no table {name!r} is recorded{hint}; measure: switches tables on"


def no_column(name: str, table: str, columns: Iterable[str]) -> str:
    """The table's columns of numbers are these."""
    known = list(columns)
    return f"no column {name!r} in {table}.csv{did_you_mean(name, known)}; columns: {', '.join(known)}"


def no_label(name: str, table: str, labels: Sequence[str]) -> str:
    """The table's label columns are these."""
    there = f"labels of {table}.csv: {', '.join(labels)}" if labels else f"{table}.csv has no labels"
    return f"no such label{did_you_mean(name, labels)}; {there}"


def no_value(name: str, value: str, values: Iterable[str], where: str) -> str:
    """The label has these values there."""
    return f"no {name} {value} {where}; {name} is: {', '.join(values)}"


def still_free(free: Mapping[str, Sequence[str]]) -> str:
    """These labels pick no row yet; each with its values, where they are known."""
    listed = [f"{name} ({', '.join(values)})" if values else name for name, values in free.items()]
    verb = "is" if len(free) == 1 else "are"
    return f"not one row per run and epoch: still free {verb} {', '.join(listed)}"
