"""Which figures a comparison gets, and what is left out: the story of the page's pictures."""

from __future__ import annotations

from collections.abc import Sequence

from bnexp.aggregates import cut, telling_rate
from bnexp.comparison import Comparison
from bnexp.figure_cases import MOST_SETTINGS
from bnexp.figure_parts import FEWEST_EPOCHS, MOST_BLOCKS, Figure, Source
from bnexp.figures_fits import fits
from bnexp.figures_identity import IDENTITY, drift, identity
from bnexp.figures_inside import INSIDE, UNIT, WEIGHTS, activations, one_unit, parameters
from bnexp.figures_measures import LANDSCAPE, LAYERED, SHIFT, landscape, layered, shift
from bnexp.figures_rates import rate_picture
from bnexp.figures_training import TITLES, learning_curves
from bnexp.results import Results


def figures_of(results: Results, comparison: Comparison) -> tuple[list[Figure], list[str]]:
    """The figures of one comparison, and what was left out."""
    parts = cut(results, comparison)
    block = next(iter(parts.blocks))
    inside = parts.runs[parts.runs["block"] == block]
    source = Source(results, comparison, parts, telling_rate(inside))
    makers = (
        *(fits, learning_curves, rate_picture, activations, one_unit),
        *(shift, layered, landscape, identity, drift, parameters),
    )
    figures = [figure for maker in makers for figure in maker(source)]
    left_out = [*_left_out(source, {figure.title for figure in figures}), *_few_rates(figures, len(parts.rates))]
    return figures, left_out


def _few_rates(figures: Sequence[Figure], n_rates: int) -> list[str]:
    """Which figures offer only some of the learning rates."""
    few = {figure.title: len(figure.choices["lr"]) for figure in figures if "lr" in figure.choices}
    cut_short = [f"{title} ({shown} of {n_rates})" for title, shown in few.items() if shown < n_rates]
    return [f"Not drawn at every learning rate: {', '.join(cut_short)}; the CSVs hold the others."] if cut_short else []


def _left_out(source: Source, drawn: set[str]) -> list[str]:
    others, notes = len(source.parts.blocks) - 1, []
    tables = {"curves": set(TITLES.values()), "activations": {INSIDE}, "units": {UNIT}, "parameters": {WEIGHTS}}
    tables |= {"shift": {SHIFT}, "landscape": {LANDSCAPE}, "identity": {IDENTITY}}
    tables |= {table: {one.title} for table, one in LAYERED.items()}
    few = [name for name, titles in tables.items() if not titles & drawn and source.results.table(name) is not None]
    status = source.parts.runs["status"]
    if few and not (status == "done").any() and (status == "diverged").any():
        notes.append("No curves are drawn: every finished run diverged.")
    elif few and (status == "done").any():
        listed = ", ".join(f"{name}.csv" for name in few)
        notes.append(f"No figure of {listed}: recorded at fewer than {FEWEST_EPOCHS} epochs, or not for these runs.")
    if others >= MOST_BLOCKS:
        notes.append(f"Curves of {others + 1 - MOST_BLOCKS} of {others + 1} combinations are not drawn.")
    switched = {title for titles in tables.values() for title in titles} - {IDENTITY, *TITLES.values()}
    if others >= MOST_SETTINGS and drawn & switched:
        notes.append(
            f"What happens inside the networks is drawn for the first {MOST_SETTINGS} of {others + 1} combinations; "
            "the CSVs hold the others."
        )
    return notes
