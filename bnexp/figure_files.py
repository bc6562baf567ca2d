"""A figure as files: pictures as wide as paper wants them, the numbers drawn, and the words beside them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pandas import DataFrame

from bnexp import charts, rendering
from bnexp.chart_parts import LABEL
from bnexp.figure_parts import SINGLE, Figure
from bnexp.untrusted import harmless

COLUMN, TEXT = 84.0, 174.0  # millimetres: a column and the text of a page in two columns, as most journals have them
SMALLEST = 6.5  # points: smaller letters are hard to read on paper, and journals refuse them
PIXEL = 25.4 / 96  # millimetres to a CSS pixel
NARROWEST = 240  # pixels of a panel that stands alone
HEADERS = {"low": "95 % low", "high": "95 % high"}


def files_of(figure: Figure, kinds: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The end of each file's name and its content: the pictures asked for, then csv and txt."""
    svg = rendering.to_svg(figure.first.spec)
    svg, width = _in_a_column(figure, svg) or (svg, min(TEXT, rendering.size_of(svg)[0] * PIXEL))
    for kind in kinds:
        yield kind, rendering.to_file(svg, kind, width)
    yield "csv", numbers(figure.first.data).encode("utf-8")
    yield "txt", words(figure).encode("utf-8")


def _in_a_column(figure: Figure, svg: str) -> tuple[str, float] | None:
    """The picture for one column, a panel that stands alone made narrower; None where letters would be too small."""
    widest = COLUMN * rendering.POINTS * LABEL / SMALLEST
    width, _ = rendering.size_of(svg)
    panel = math.floor(SINGLE.width - (width - widest))
    if width > widest and panel >= NARROWEST:
        svg = rendering.to_svg(charts.narrowed(figure.first.spec, SINGLE.width, panel))
    return (svg, COLUMN) if rendering.size_of(svg)[0] <= widest else None


def numbers(data: DataFrame) -> str:
    """CSV: a row per point, with the digits that are drawn; empty where there is no finite number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([HEADERS.get(str(name), name) for name in data.columns])
    writer.writerows([_cell(value) for value in row] for row in data.itertuples(index=False))
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """A cell: the digits that are drawn, and text that no spreadsheet takes for a formula."""
    if isinstance(value, float):
        return f"{value:.{charts.DIGITS}g}" if math.isfinite(value) else ""
    if isinstance(value, str):
        return harmless(", ".join(value.splitlines()))
    return value


def words(figure: Figure) -> str:
    """Title, what is picked of what may be switched, caption, and the text for those who do not see the picture."""
    picked = ", ".join(
        f"{label} {option}"
        for (label, options), option in zip(figure.choices.items(), figure.first.picked, strict=True)
        if len(options) > 1
    )
    title = f"{figure.title} ({picked})" if picked else figure.title
    return f"{title}\n\n{figure.first.caption}\n\nAlternative text: {figure.first.alt}\n"
