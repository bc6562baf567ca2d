"""Results and comparisons to one HTML page that needs nothing else: no network, no other file, no JavaScript.

Everything that comes from a spec, a CSV or a folder passes through Jinja's autoescape; chart specs stand in JSON blocks
with ``<``, ``>`` and ``&`` as \\u escapes. A Content-Security-Policy allows only scripts of known checksum.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bnexp import __version__, files, rendering, source
from bnexp.aggregates import LEGEND
from bnexp.answer import Answer, answer_of
from bnexp.claim_wording import counts_text
from bnexp.comparison import RULES, Comparison, compare_runs, list_claims
from bnexp.errors import StorageError, UsageError
from bnexp.figure_files import files_of
from bnexp.figure_parts import Figure
from bnexp.figures import figures_of
from bnexp.glossary import GLOSSARY
from bnexp.page_claims import ClaimPart, claim_parts
from bnexp.page_origins import edited_text, provenance, settings_table
from bnexp.page_runs import RunsTable, runs_table
from bnexp.page_tables import Table, tables_of
from bnexp.results import Results, labels_of
from bnexp.summary import Said, summary_of
from bnexp.untrusted import visible
from bnexp.wording import group_title

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Part:
    """What the page shows of one comparison."""

    title: str
    summary: Sequence[Said]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    norms: Sequence[str]
    left_out: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True)
class Section:
    """What the page shows of one study. ``anchor`` is its id on the page, ``label`` what tells it from the others."""

    anchor: str
    name: str
    label: str
    edited: str
    question: str
    answer: Answer
    parts: Sequence[Part]
    varied: Sequence[tuple[str, str, str]]
    fixed: Sequence[tuple[str, str, str]]
    claims: Sequence[ClaimPart]
    verdicts: str
    runs: RunsTable | None
    provenance: Sequence[tuple[str, str]]
    yaml: str


def write_report(results: Sequence[Results], output: Path, figure_formats: Sequence[str] = ()) -> list[Path]:
    """Write the page and its figures in these formats, with their numbers and words, in ``<stem>-figures/`` beside it.

    Return what was written.
    """
    sections = _sections(results, [compare_runs(one) for one in results])
    written = [_write(output, _render(sections).encode("utf-8"))]
    folder = output.with_name(f"{output.stem}-figures")
    for name, figure in _file_names(sections).items() if figure_formats else ():
        written += [_write(folder / f"{name}.{end}", content) for end, content in files_of(figure, figure_formats)]
    return written


def _file_names(sections: Sequence[Section]) -> dict[str, Figure]:
    """A file name, without its end, for every figure; figures of groups with like names are counted."""
    found: dict[str, Figure] = {}
    for section in sections:
        for figure in (figure for part in section.parts for figure in part.figures):
            name = f"{section.anchor}-{figure.name}"
            copies = sum(1 for known in found if known == name or known.startswith(f"{name}--"))
            found[f"{name}--{copies + 1}" if copies else name] = figure
    return found


def render_page(results: Sequence[Results], comparisons: Sequence[Sequence[Comparison]]) -> str:
    """The page as text: one section per study, with the comparisons of each in the same order."""
    return _render(_sections(results, comparisons))


def _write(path: Path, content: bytes) -> Path:
    """Write a file as a whole; one that cannot be written leaves the older one as it was."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file; name another with -o")
    with files.storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.resolve()
    try:
        files.replace(place, [content])
    except StorageError:
        with suppress(OSError):
            place.with_name(place.name + files.TEMPORARY).unlink()
        raise
    return path


# --- sections ---------------------------------------------------------------------------------------------------------


def _sections(results: Sequence[Results], comparisons: Sequence[Sequence[Comparison]]) -> list[Section]:
    anchors = _anchors([one.name for one in results])
    return [_section(*each) for each in zip(anchors, labels_of(results), results, comparisons, strict=True)]


def _anchors(names: Sequence[str]) -> list[str]:
    """Ids that differ even where two folders hold studies of one name."""
    found: list[str] = []
    for name in names:
        copies = sum(1 for anchor in found if anchor == name or anchor.startswith(f"{name}--"))
        found.append(f"{name}--{copies + 1}" if copies else name)
    return found


def _section(anchor: str, label: str, results: Results, comparisons: Sequence[Comparison]) -> Section:
    varied, fixed = settings_table(results)
    claims = list_claims(results)
    return Section(
        anchor=anchor,
        name=results.name,
        label=label,
        edited=edited_text(results),
        question=results.spec.question,
        parts=[_part(results, comparison, single=len(comparisons) == 1) for comparison in comparisons],
        varied=varied,
        fixed=fixed,
        answer=answer_of(results, comparisons, claims),
        claims=claim_parts(claims),
        verdicts=counts_text(claims),
        runs=runs_table(results),
        provenance=provenance(results),
        yaml=source.dump(dict(results.spec.document)),
    )


def _part(results: Results, comparison: Comparison, single: bool) -> Part:
    figures, left_out = figures_of(results, comparison)
    title = "" if single else group_title(replace(comparison, name="")).removeprefix(": ")
    summary, tables = summary_of(results, comparison), tables_of(comparison)
    norms = [norm for norm in LEGEND if any(row.setting.get("norm") == norm for row in comparison.rows)]
    return Part(title, summary, tables, figures, norms, left_out, comparison.notes)


# --- HTML -------------------------------------------------------------------------------------------------------------


def _shown(value: Any) -> Any:
    """Text of others without what would turn round or hide the text beside it; our own HTML as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _render(sections: Sequence[Section]) -> str:
    environment = Environment(
        loader=PackageLoader("bnexp", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(typeset=typeset, json_block=json_block, packed=rendering.packed)
    template = environment.get_template("report.html")
    drawn = [figure.first.spec for section in sections for part in section.parts for figure in part.figures]
    script = rendering.script(drawn[0], _asset(environment, "report.js")) if drawn else ""
    sorting = _asset(environment, "runs.js") if any(section.runs for section in sections) else ""
    scripts = [one for one in (sorting, script) if one]
    return template.render(
        sections=sections,
        title=sections[0].name if len(sections) == 1 else f"{len(sections)} studies",
        version=__version__,
        rules=RULES,
        glossary=[word for word in GLOSSARY if word.on_page],
        style=Markup(_asset(environment, "report.css")),
        scripts=[Markup(script) for script in scripts],
        script_sources=Markup(" ".join(map(_checksum, scripts)) or "'none'"),
        svg_of=_svg_of,
    )


def _asset(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _checksum(script: str) -> str:
    """The Content-Security-Policy source of an inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _svg_of(figure: Figure, prefix: str) -> Markup:
    # vl-convert escapes the texts of a chart; an SVG from it has no scripts and no links.
    return Markup(rendering.for_page(rendering.to_svg(figure.first.spec), prefix))


def json_block(value: Mapping[str, Any]) -> Markup:
    """JSON for a ``<script type="application/json">`` block, which no text inside can end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    escapes: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
    return Markup(text.translate(str.maketrans(escapes)))


def typeset(text: object) -> str:
    """Numbers as they are printed: 1.8e+04 is 18 000, 3.8e-05 is 3.8·10⁻⁵, and a minus is not a hyphen."""
    number = re.compile(r"(?<![\w.-])(-?)(\d+(?:\.\d+)?)(?:e([+-]\d+))?(?![\w.-])")
    return number.sub(_typeset_number, str(text))


def _typeset_number(match: re.Match[str]) -> str:
    sign, digits, exponent = ("−" if match[1] else ""), match[2], int(match[3] or 0)
    if not exponent:
        return sign + digits
    if 0 < exponent < 6:
        return sign + f"{float(match[0].lstrip('-')):,.0f}".replace(",", "\u202f")
    return f"{sign}{digits}·10{str(exponent).translate(_SUPERSCRIPTS)}"
