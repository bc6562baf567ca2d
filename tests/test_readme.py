"""Every command and every block of Python in the README runs, in its order, as a newcomer would type them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tools import ROOT

import bnexp

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLS = re.compile(r"python -m pip install |pip install ")
BY_OTHERS = re.compile(
    r"python -m pytest|tests/scripts/|tests/benchmarks/|\.ci/run|-m venv"
)  # by .ci/run or in the log
EXTRAS = {"parquet": "pyarrow", "tensorboard": "tensorboard", "safetensors": "safetensors"}


def blocks(language):
    """(offset, text) of every block in a language."""
    return [(found.start(), found[1]) for found in re.finditer(rf"^```{language}\n(.*?)^```", README, re.M | re.S)]


def commands():
    """Every command, (offset, line): lines of shell blocks, and code between words that begins with bnexp."""
    found = [(at, line) for at, text in blocks("sh") for line in text.splitlines() if line.strip()]
    outside = re.sub(
        r"^```.*?^```|<!-- .*? reference -->.*?<!-- end", lambda m: " " * len(m[0]), README, flags=re.M | re.S
    )
    found += [(m.start(), m[1]) for m in re.finditer(r"`((?:bnexp|python|pip) [^`]*)`", outside)]
    return sorted(found, key=lambda one: one[0])


def typed(line):
    """The command without its comment."""
    return re.sub(r"\s+#.*", "", line).strip()


RUN = [typed(line) for _, line in commands() if not INSTALLS.search(typed(line)) and not BY_OTHERS.search(line)]


def test_commands_are_found():
    assert len(RUN) > 20
    assert {line.split()[0] for line in RUN} == {"bnexp"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a newcomer has it, after the first command."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "configs", folder / "configs")
    assert run("bnexp train configs/quickstart.yaml", folder).returncode == 0
    return folder


def run(line, place):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", line], cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


def test_every_command_runs(place):
    """In the order of the text, for some need what others made."""
    failed = {}
    for line in RUN:
        words = line.split()
        missing = [kind for kind, library in EXTRAS.items() if kind in words and not has(library)]
        if len(words) < 2 or "…" in line or re.search(r"\b[A-Z]{4,}\b", line):  # bnexp itself, or a pattern
            line = f"bnexp {words[1] if len(words) > 1 and words[1].islower() else ''} --help"
        done = run(line, place)
        expected = 2 if missing else 0
        if done.returncode != expected or "Traceback" in done.stderr:
            failed[line] = (done.returncode, done.stderr[-500:])
    assert failed == {}


def has(library):
    return importlib.util.find_spec(library) is not None


def test_every_block_of_python_runs(place, monkeypatch):
    monkeypatch.chdir(place)
    names = {}
    for _, text in blocks("python"):
        exec(compile(text, "README.md", "exec"), names)
    assert isinstance(names["table"], pd.DataFrame)


def test_the_recipe_rebuilds_the_table(place, monkeypatch):
    """Where no run failed: means, intervals and paired differences are those of compare."""
    monkeypatch.chdir(place)
    run("bnexp train configs/quickstart.yaml --overwrite", place)
    recipe = re.search(r"<!-- recipe -->\n```python\n(.*?)^```", README, re.M | re.S)[1]
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 10
    names = {}
    exec(compile(recipe, "README.md", "exec"), names)
    table = bnexp.compare("results/quickstart", metric="test_accuracy")
    table = table[table["table"] == "equal values"]
    compared = 0
    for record in table.to_dict("records"):
        row = names["table"].loc[(record["norm"], float(record["lr"]))]
        if record["kind"] == "mean":
            for name, column in (("mean", "center"), ("low", "low"), ("high", "high")):
                assert row["accuracy"][name] == pytest.approx(record[column], abs=1e-12)
            compared += 1
        if record["difference_kind"] == "mean difference":
            for name, column in (("mean", "center"), ("low", "low"), ("high", "high")):
                assert row["difference to none"][name] == pytest.approx(record[f"difference_{column}"], abs=1e-12)
            compared += 1
    assert compared > 12


def test_the_shown_table_is_the_one_that_was_measured():
    """The rows of the tour's table are those of configs/measured/quickstart.csv."""
    measured = pd.read_csv(ROOT / "configs" / "measured" / "quickstart.csv")
    best = measured[measured["table"] == "best lr"].set_index("norm")
    shown = re.findall(r"^ (\w+) +10/10 +([\d.]+) \[([\d.]+), ([\d.]+)\]", README, re.M)
    assert [name for name, *_ in shown] == ["none", "standardize", "full"]
    for name, *numbers in shown:
        expected = [100 * best.loc[name, column] for column in ("center", "low", "high")]
        assert [float(number) for number in numbers] == pytest.approx(expected, abs=0.051)
