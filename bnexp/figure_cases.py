"""Blocks and learning rates among which a reader may switch, for figures that show one of each at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pandas import DataFrame

from bnexp.aggregates import telling_rate
from bnexp.figure_parts import FEWEST_EPOCHS, MOST_EPOCHS_SMALL, MOST_ROWS, Source, panel_text

MOST_SETTINGS, MOST_RATES, MOST_VIEWS = 4, 6, 24  # blocks, learning rates, and views of one figure


class Case(NamedTuple):
    """The runs of one block at one learning rate."""

    block: str
    rate: str
    runs: DataFrame

    @property
    def lead(self) -> str:
        """``At activation tanh, lr 0.1.``, where there are other blocks or learning rates."""
        text = panel_text(self.block, self.rate)
        return f"At {text}. " if text else ""

    @property
    def missing(self) -> str:
        """How many runs are in no line, if any."""
        gone = int((self.runs["status"] != "done").sum())
        return f"{gone} of {len(self.runs)} runs diverged or are not finished, and are in no line." if gone else ""


def cases(source: Source, per_case: int = 1) -> list[Case]:
    """The cases of a figure with so many views of each; the first has the learning rate at which most runs learned."""
    blocks = list(source.parts.blocks)[:MOST_SETTINGS]
    most = max(1, MOST_VIEWS // (per_case * len(blocks)))
    found: list[Case] = []
    for block in blocks:
        runs = source.parts.runs[source.parts.runs["block"] == block]
        first = telling_rate(runs)
        others = [rate for rate in source.parts.rates if rate != first]
        rates = (first, *spread(others, min(most, MOST_RATES) - 1))
        found += [Case(block, rate, runs[runs["rate"] == rate]) for rate in rates]
    return found


def spread(rates: Sequence[str], most: int) -> list[str]:
    """At most so many of them, evenly spaced; first and last included if there is room for two."""
    if len(rates) <= most:
        return list(rates)
    return [rates[round(k * (len(rates) - 1) / max(1, most - 1))] for k in range(most)]


def choices(made: Sequence[Case], **more: Sequence[str]) -> dict[str, Sequence[str]]:
    """What a reader may switch: the block, the learning rate, and more."""
    rates = sorted({case.rate for case in made}, key=lambda rate: float(rate or 0))
    return {"setting": list(dict.fromkeys(case.block for case in made)), "lr": rates, **more}


def epochs_of(views: int, lines: int) -> int:
    """The most epochs of a small panel, so that all views of a figure together stay small."""
    return max(FEWEST_EPOCHS, min(MOST_EPOCHS_SMALL, MOST_ROWS // (views * max(1, lines))))
