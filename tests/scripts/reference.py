"""Write the references of spec, CSVs and configs into README.md, between its markers; --check only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from measured import CONFIGS, COSTS, cost_text, rows_of

from bnexp.layout import OUTCOME_COLUMNS
from bnexp.loading import load_spec
from bnexp.measures import MEASURES
from bnexp.spec import MEASURES as MEASURE_OPTIONS
from bnexp.spec import SECTIONS, StudyFields, is_axis, leaf, show
from bnexp.tables import curve_table

README = Path(__file__).parents[2] / "README.md"


def written(value: object) -> str:
    """A default as it is written in a spec: ``[64, 64]``."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) and value else show(value)


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def spec_reference() -> list[str]:
    lines = [row("field", "default", "axis", "meaning"), row("---", "---", "---", "---")]
    for section, model in SECTIONS.items():
        for name, info in model.model_fields.items():
            default = "required" if info.is_required() else written(info.default) or "–"
            axis = "yes" if is_axis(info) else ""
            column = f" (column `{leaf(section, name)}`)" if leaf(section, name) != name else ""
            lines.append(row(f"`{section}.{name}`", default, axis, (info.description or "") + column))
    for name, info in StudyFields.model_fields.items():
        lines.append(row(f"`{name}`", written(info.default), "", info.description or ""))
    for name, options in MEASURE_OPTIONS.items():
        for option, info in options.model_fields.items():
            lines.append(row(f"`measure.{name}.{option}`", written(info.default), "", info.description or ""))
    return lines


def csv_reference() -> list[str]:
    lines = [row("table", "column", "unit", "meaning"), row("---", "---", "---", "---")]
    lines += [row("`runs.csv`", f"`{c.name}`", c.unit, c.meaning) for c in OUTCOME_COLUMNS]
    tables = [curve_table(["classification", "regression"], ["running"])]
    tables += [table for measure in MEASURES.values() for table in measure.tables]
    for table in tables:
        lines += [row(f"`{table.name}.csv`", f"`{c.name}`", c.unit, c.meaning) for c in (*table.labels, *table.columns)]
    return lines


def config_reference() -> list[str]:
    costs = {cost["name"]: cost for cost in rows_of(COSTS)}
    lines = [row("config", "question", "runs", "cost"), row("---", "---", "---", "---")]
    for path in sorted(CONFIGS.glob("*.yaml")):
        spec = load_spec(path)
        cost = cost_text(costs[path.stem]) if path.stem in costs else "not measured"
        lines.append(row(f"`{path.name}`", spec.question, str(len(spec.settings) * len(spec.seeds)), cost))
    return lines


def filled(text: str) -> str:
    made = (("spec", spec_reference()), ("csv", csv_reference()), ("config", config_reference()))
    for name, lines in made:
        start, end = f"<!-- {name} reference -->", f"<!-- end of {name} reference -->"
        before, after = text.split(start)[0], text.split(end)[1]
        text = "\n".join([before + start, *lines, end]) + after
    return text


def main() -> None:
    text = README.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        raise SystemExit(0 if filled(text) == text else "README.md: run python tests/scripts/reference.py")
    README.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
