"""The house rules that a machine can check: who may import what, and what may not stand anywhere."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tools import ROOT

PACKAGE = ROOT / "bnexp"
FILES = sorted(PACKAGE.rglob("*.py"))
PANDAS_ROOMS = {"results", "listing", "api", "exporting", "comparison", "aggregates", "charts", "chart_parts"}
PANDAS_ROOMS |= {"figures", "figures_inside", "figures_training", "figures_rates", "figures_fits"}
PANDAS_ROOMS |= {
    "figures_measures",
    "figures_identity",
    "figure_parts",
    "figure_panels",
    "figure_cases",
    "figure_files",
}
ROOMS = {
    "yaml": {"source"},
    "pydantic": {"spec", "claim_grammar", "loading", "claims", "schema"},
    "typer": {"cli"},
    "rich": {"console", "console_listing", "progress"},
    "tensorboard": {"exporting"},
    "ray": {"on_ray"},
    "safetensors": {"exporting"},
    "altair": {"charts", "chart_parts"},
    "vl_convert": {"charts", "rendering"},
    "jinja2": {"page"},
    "pooch": {"sources"},
    "filelock": {"store"},
    "scipy": {"comparison", "aggregates"},
    "torch": {"lazy_torch", "devices"},
    "numba": {"kernels"},
    "threadpoolctl": {"workers"},
    "pandas": PANDAS_ROOMS,
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports when it runs; those under TYPE_CHECKING do not count."""
    found: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("library", ROOMS)
def test_one_library_one_room(library):
    rooms = {room_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports_of(path))}
    assert rooms <= ROOMS[library]
    assert rooms, f"{library} is not used: take it out of the dependencies"


def test_imports_have_no_cycle():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {
        name: {other for other in imports_of(path) if other in modules and other != name}
        for name, path in modules.items()
    }
    # A package's __init__ gathers its own files; what matters is that no file needs itself.
    graph = {name: {o for o in others if not name.startswith(f"{o}.")} for name, others in graph.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " → ".join((*above, name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


WITHOUT_TORCH = ["page", "results", "comparison", "plan", "spec", "loading", "data", "claims", "training", "experiment"]


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_no_import_loads_torch(module):
    code = f"import sys, bnexp.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["page", "loading", "experiment"])
def test_no_import_loads_numba(module):
    code = f"import sys, bnexp.{module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TRAINS = """
import sys
from bnexp import cli
try:
    cli.app(["train", "{config}", "--out", "{out}", "--device", "cpu", "--workers", "1", "-q", "train.epochs=1",
             "seeds=1", "claims=[]", *{overrides}])
except SystemExit as end:
    assert not end.code
sys.exit("torch" in sys.modules)
"""


@pytest.mark.parametrize(("overrides", "loaded"), [([], False), (["measure=[rank]"], True)])
def test_a_study_on_a_cpu_loads_torch_only_for_a_measure_that_needs_it(tmp_path, overrides, loaded):
    config = ROOT / "configs" / "quickstart.yaml"
    code = TRAINS.format(config=config, out=tmp_path / "out", overrides=overrides)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == loaded


def test_nothing_is_unpickled_or_evaluated():
    wrong = re.compile(r"\bimport pickle\b|\btorch\.load\(|\beval\(|\bexec\(|yaml\.(safe_)?load\(|allow_pickle=True")
    assert [
        str(path) for path in FILES if wrong.search(path.read_text(encoding="utf-8").replace("model.eval()", ""))
    ] == []


def test_only_the_renderers_print():
    printing = {room_of(path) for path in FILES if re.search(r"(?<![\w.])print\(", path.read_text(encoding="utf-8"))}
    assert printing == set()


def test_functions_stay_short():
    lengths = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}"))
    assert max(lengths)[0] <= 80, max(lengths)
    assert sorted(lengths)[len(lengths) // 2][0] <= 12


def test_the_readme_says_how_it_is():
    script = ROOT / "tests" / "scripts" / "reference.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    help_ = subprocess.run([sys.executable, "-m", "bnexp", "--help"], capture_output=True, text=True, check=True).stdout
    for command in re.findall(r"^│ (\w+) ", help_, re.M):
        assert f"bnexp {command}" in readme
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"`{path.name}`" in readme


def test_the_repository_speaks_of_the_product_alone():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt", ".html", ".css", ".js", ".sh"):
            text = path.read_text(encoding="utf-8")
            assert str(ROOT.parent) + "/" not in text, name


CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
NUMBER = re.compile(r"(?<![\w.])\d*\.?\d+(?![\w.]*\d)")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_has_its_head(path):
    head, body = path.read_text(encoding="utf-8").split("\nname:")
    words = ("# Question:", "# Source:", "# Command:", "# Toy size:", "# Cost:", "# Result:", "# Reading:")
    assert [word for word in words if word in head] == list(words)
    assert f"bnexp train configs/{path.name}" in head
    # What was measured stands above the reading, made from the CSV; the reading may only name what the spec says.
    typed = {float(text) for text in NUMBER.findall(head.split("# Reading:")[1])}
    said = {float(text) for text in NUMBER.findall(body)}
    assert typed <= said | {1.0}


def test_no_number_in_a_head_is_typed():
    script = ROOT / "tests" / "scripts" / "measured.py"
    assert subprocess.run([sys.executable, str(script), "--check"], check=False).returncode == 0


def test_that_a_typed_number_is_seen(tmp_path):
    """The check of the heads fails on a copy in which one digit differs."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "tests").mkdir()
    shutil.copytree(ROOT / "tests" / "scripts", tmp_path / "tests" / "scripts")
    path = tmp_path / "configs" / "quickstart.yaml"
    text = path.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "|" in line and "[" in line and line.startswith("#      "))
    digit = re.search(r"\[\.?(\d)", line)
    wrong = line[: digit.start(1)] + str((int(digit[1]) + 1) % 10) + line[digit.end(1) :]
    path.write_text(text.replace(line, wrong), encoding="utf-8")
    script = tmp_path / "tests" / "scripts" / "measured.py"
    assert (
        subprocess.run([sys.executable, str(script), "--check"], check=False, stderr=subprocess.DEVNULL).returncode == 1
    )
