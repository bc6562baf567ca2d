"""What the shipped configs gave: results folders → configs/measured/*.csv → the heads of the configs.

    python tests/scripts/measured.py results/lr-range …   # writes the CSV, the cost and the head of each
    python tests/scripts/measured.py                      # writes every head anew from the CSVs that are there
    python tests/scripts/measured.py --check              # only compares: no number in a head is typed

configs/measured/NAME.csv is the output of ``bnexp compare results/NAME --format csv``. From it come the head's lines
between ``# Cost:`` and ``# Reading:``, which the author writes.
"""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
MEASURED = CONFIGS / "measured"
COSTS = MEASURED / "costs.csv"
COST_FIELDS = ("name", "runs", "seconds", "workers", "date", "versions", "processor")
ALSO = {  # beside the claims: what has no second side
    "speed-not-capacity": ("conversions.max_difference:conversion=standardize",),
    "identity": ("conversions.max_difference:conversion=full", "identity.exact:layer=1"),
}
INDENT, WIDTH = "#   ", 120
Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# --- from a results folder --------------------------------------------------------------------------------------------


def measure(folder: Path) -> None:
    """Keep what ``compare`` says of a finished study, and what it cost."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    MEASURED.mkdir(exist_ok=True)
    rows = compared(folder)
    for metric in ALSO.get(folder.name, ()):
        rows += [{**row, "table": f"also {row['table']}"} for row in compared(folder, "--metric", metric)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write(MEASURED / f"{folder.name}.csv", columns, rows)
    trained = [session for session in meta["sessions"] if session["runs_trained"]]
    versions = meta["versions"]
    costs = {row["name"]: row for row in rows_of(COSTS)} if COSTS.exists() else {}
    costs[folder.name] = {
        "name": folder.name,
        "runs": str(sum(session["runs_trained"] for session in trained)),
        "seconds": f"{sum(session['seconds'] for session in trained):.0f}",
        "workers": str(max(session["workers"] for session in trained)),
        "date": trained[-1]["ended"][:10],
        "versions": f"torch {versions['torch']}, python {versions['python']}",
        "processor": _processor(),
    }
    write(COSTS, COST_FIELDS, [costs[name] for name in sorted(costs)])


def compared(folder: Path, *words: str) -> list[Row]:
    command = [sys.executable, "-m", "bnexp", "compare", str(folder), "--format", "csv", *words]
    return list(csv.DictReader(subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()))


def write(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()[:2]) if names else "unknown processor"


# --- to a head --------------------------------------------------------------------------------------------------------


def head_lines(name: str) -> list[str]:
    """The lines ``# Cost:`` and ``# Result:`` of a config, from its CSV."""
    cost = next(row for row in rows_of(COSTS) if row["name"] == name)
    workers = f"{cost['workers']} worker{'s' if int(cost['workers']) > 1 else ''}"
    where = f"{cost['processor']}, {cost['versions'].split(',')[0]}, {cost['date'][:7]}"
    lines = [f"# Cost:     {cost['runs']} runs, {cost_text(cost)} with {workers} ({where})."]
    return [*lines, *_results(rows_of(MEASURED / f"{name}.csv"))]


def cost_text(cost: Row) -> str:
    """``13 s``, ``4 min``."""
    seconds = float(cost["seconds"])
    return f"{max(1, round(seconds))} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _results(rows: Sequence[Row]) -> Iterator[str]:
    claims = [row for row in rows if row["table"].startswith("claim ")]
    yield "# Result:   per claim: a | b | a − b, or × a/b for metrics compared on logs | verdict; from measured/*.csv."
    yield f"{INDENT}Means over seeds, 95 % interval (on logs geometric means; medians where some failed); ↗ at the"
    yield f"{INDENT}grid's edge; * not after Holm's correction for the questions of the spec."
    trained = any(row["n_learned"] not in ("", "0") for row in rows)
    for name in dict.fromkeys(row["table"] for row in claims):
        asked = [row for row in claims if row["table"] == name]
        questions = [asked[index : index + 3] for index in range(0, len(asked), 3)]
        assert all([row["side"] for row in question] == ["a", "b", "difference"] for question in questions)
        first = asked[0]
        common = dict(set.intersection(*(set(_fields(question[2]).items()) for question in questions)))
        where = [f"{key} {value}" for key, value in _fields(asked[2]).items() if key in common]
        tuned = [f"tuned by {first['tuned_by']}"] if first["tuned_by"] else []
        margin = f" within {first['within']}" if first["within"] else ""
        facts = "; ".join(
            filter(None, [first["metric"], *tuned, ", ".join(where), f"expected {first['expect']}{margin}"])
        )
        yield from _wrapped(f"{name.removeprefix('claim ')}. {first['claim']} [{facts}]")
        for a, b, difference in questions:
            yield from _wrapped("   " + _line(a, b, difference, common, trained))
    yield from _also(rows)


def _also(rows: Sequence[Row]) -> Iterator[str]:
    """Metrics without a second side: the range of the settings' means."""
    for metric in dict.fromkeys(row["metric"] for row in rows if row["table"] == "also equal values"):
        rows_here = [row for row in rows if row["metric"] == metric and row["table"] == "also equal values"]
        found = [row for row in rows_here if row["center"] and math.isfinite(float(row["center"]))]
        means = sorted((row["center"] for row in found), key=float)
        n = f"{len(found)} settings of {found[0]['n']} runs"
        yield from _wrapped(f"Also: {metric}: {_number(means[0])} to {_number(means[-1])}, means of {n}.")


def _line(a: Row, b: Row, difference: Row, common: Row, trained: bool) -> str:
    shared, sides = _fields(difference), []
    for row in (a, b):
        own = ", ".join(value for key, value in _fields(row).items() if shared.get(key) != value)
        sides.append(f"{own} {_estimate(row)}{_chosen(row)}{_learned(row, trained)}")
    where = ", ".join(f"{key} {value}" for key, value in shared.items() if key not in common)
    sign = "× " if difference["kind"].startswith(("ratio", "median ratio")) else ""
    lost = [name for name, row in (("a", a), ("b", b)) if 2 * int(row["n_learned"]) < int(row["n"])]
    of_runs = " " not in a["metric"]  # in other tables a run fails only if it diverges
    ranked = of_runs and difference["kind"].startswith("median") and len(lost) == 1
    compared = f"{lost[0]} did not learn" if ranked else f"{sign}{_estimate(difference)}"
    return f"{where + ': ' if where else ''}{sides[0]} | {sides[1]} | {compared} | {_verdict(difference)}"


def _verdict(row: Row) -> str:
    """The verdict, with a star where it does not stand after correction."""
    fragile = ", fragile" if row["fragile"] == "True" else ""
    return f"{row['verdict']}{'' if row['after_correction'] == 'True' else '*'}{fragile}"


def _fields(row: Row) -> Row:
    """The fields of the setting that a row names."""
    from bnexp.spec import leaves

    return {key: value for key, value in row.items() if key in leaves() and value != ""}


def _estimate(row: Row) -> str:
    if not row["center"]:
        return "–"
    if "inf" in row["center"]:
        return "failed"
    if not (row["low"] or row["high"]):
        return _number(row["center"])
    # as many digits as tell the ends apart
    ends = {digits: (_number(row["low"], digits), _number(row["high"], digits)) for digits in (3, 4, 5)}
    digits = next((digits for digits, (low, high) in ends.items() if low != high), 5)
    low, high = ends[digits]
    return f"{_number(row['center'], digits)} [{low}, {high}]"


def _learned(row: Row, trained: bool) -> str:
    n, learned = int(row["n"]), int(row["n_learned"])
    return f" ({learned} of {n} learned)" if trained and learned < n else ""


def _chosen(row: Row) -> str:
    """The values that the tuned knob was given, with an arrow where the best may lie beyond the grid."""
    values = [part.rpartition(" in ")[0] for part in row["chosen"].split("; ") if part]
    edge = "the grid's edge" in row["note"]
    return f" (at {'/'.join(values)}{'↗' if edge else ''})" if values else ""


def _number(text: str, digits: int = 3) -> str:
    """``.971``, ``1.2``, ``2430``, ``7e−06``, as the number's size asks for; empty for none."""
    if not text:
        return ""
    if "inf" in text:
        return "−∞" if text.startswith("-") else "∞"
    value = float(f"{float(text):.{digits}g}")
    shown = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.{digits}g}"
    sign, size = ("−" if shown.startswith("-") else ""), shown.lstrip("-").replace("e-", "e−")
    return sign + (size[1:] if size.startswith("0.") else size)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=INDENT, subsequent_indent=f"{INDENT}     ", break_long_words=False)


def mismatch(path: Path) -> str:
    """Why the CSV does not belong to the config as it stands: other claims, or another number of runs; empty if not."""
    from bnexp.loading import load_spec

    spec = load_spec(path)
    rows = rows_of(MEASURED / f"{path.stem}.csv")
    said = {row["table"]: (row["claim"], row["expect"], row["within"]) for row in rows if row["table"][:6] == "claim "}
    asked = {
        f"claim {number}": (claim.claim, claim.expect, "" if claim.within is None else str(claim.within))
        for number, claim in enumerate(spec.claims, start=1)
    }
    if said != asked:
        odd = next(name for name in sorted(said | asked) if said.get(name) != asked.get(name))
        return f"{path.name}: {odd} is not the one that was measured; train (it trains nothing) and measure again"
    cost = next(row for row in rows_of(COSTS) if row["name"] == path.stem)
    runs = len(spec.settings) * len(spec.seeds)
    return "" if int(cost["runs"]) == runs else f"{path.name}: {runs} runs, but {cost['runs']} were measured"


def filled(path: Path) -> str:
    """A config with its measured lines made anew."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# Cost:"))
    end = next(i for i, line in enumerate(lines) if line.startswith("# Reading:"))
    return "\n".join([*lines[:start], *head_lines(path.stem), *lines[end:]]) + "\n"


def main() -> None:
    for folder in (arg for arg in sys.argv[1:] if arg != "--check"):
        measure(Path(folder))
    wrong = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        if not (MEASURED / f"{path.stem}.csv").exists():
            wrong.append(f"{path.name}: no configs/measured/{path.stem}.csv")
            continue
        if complaint := mismatch(path):
            wrong.append(complaint)
            continue
        text = filled(path)
        if "--check" in sys.argv:
            wrong += [f"{path.name}: run python tests/scripts/measured.py"] * (path.read_text(encoding="utf-8") != text)
        else:
            path.write_text(text, encoding="utf-8")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
