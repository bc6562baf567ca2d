"""The walk-through: generated as a notebook, valid, and executed as Jupyter would."""

from __future__ import annotations

import importlib.util
import json
import os

import pytest

from bnexp.cli import app
from bnexp.starting import notebook_text

REQUIRED = os.environ.get("BNEXP_EXTRAS") == "required"


def cells(kind):
    return ["".join(cell["source"]) for cell in json.loads(notebook_text())["cells"] if cell["cell_type"] == kind]


def test_it_is_text_and_code_by_turns():
    assert cells("markdown")[0].startswith("# What does batch norm really do?")
    assert cells("code")[0].startswith("import bnexp")
    assert not any("```" in cell for cell in cells("markdown") + cells("code"))
    for code in cells("code"):
        compile(code, "cell", "exec")


def test_init_writes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app(["init", "walkthrough"], standalone_mode=False)
    assert (tmp_path / "walkthrough.ipynb").read_text(encoding="utf-8") == notebook_text()
    assert [path.name for path in tmp_path.iterdir()] == ["walkthrough.ipynb"]
    assert "next: jupyter lab walkthrough.ipynb" in capsys.readouterr().err


def test_what_is_suggested_goes_by_the_template(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    app(["init", "walkthrough", "-o", "note.txt"], standalone_mode=False)
    assert "next: jupyter lab note.txt" in capsys.readouterr().err
    app(["init", "lesson", "-o", "-odd.yaml"], standalone_mode=False)
    assert "next: bnexp check ./-odd.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        app(["init", "lesson", "-o", "bnexp.schema.json", "--force"])
    assert end.value.code == 2


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own
def test_every_cell_runs(tmp_path):
    missing = [name for name in ("nbclient", "ipykernel") if importlib.util.find_spec(name) is None]
    if missing and not REQUIRED:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'bnexp[notebook]'")
    import nbclient
    import nbformat

    notebook = nbformat.reads(notebook_text(), 4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert [len(of_cell) for of_cell in outputs] == [1] * len(outputs)  # progress is one line that changes
    progress, runs, table, verdicts, chart, by_hand, inside, network, page = (of_cell[0] for of_cell in outputs)
    assert progress.output_type == "display_data"
    assert progress.data["text/plain"].startswith("walkthrough  54/54 runs  810/810 epochs")
    assert all("text/html" in one.data for one in (runs, table, verdicts, by_hand, inside))
    assert verdicts.data["text/plain"].count("supported") + verdicts.data["text/plain"].count("undecided") == 2
    assert "nan" not in verdicts.data["text/plain"].lower()
    assert "vega" in chart.data["text/html"]
    assert "(norm1): BatchNorm1d(32" in network.data["text/plain"]
    assert page.data["text/plain"] == "[PosixPath('walkthrough.html')]"
    assert (tmp_path / "walkthrough.html").stat().st_size > 100_000
    assert (tmp_path / "results" / "walkthrough" / "runs.csv").exists()
