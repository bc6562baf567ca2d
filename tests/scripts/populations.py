"""Train the population of tests/populations/digits.yaml and store it: python tests/scripts/populations.py FOLDER

The folder takes the study; interrupted, the same command resumes. The README there says what the fixture holds.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnexp.data import load_dataset
from bnexp.experiment import Request, Summary, run_experiment
from bnexp.layout import CHECKPOINT
from bnexp.loading import load_spec
from bnexp.plan import Stack
from bnexp.results import Results, load_results, planned_runs
from bnexp.spec import Setting
from bnexp.store import committed_shards, read_meta

POPULATIONS = Path(__file__).parents[1] / "populations"
SPEC, FIXTURE = POPULATIONS / "digits.yaml", POPULATIONS / "digits.npz"
METRICS = ("test_accuracy", "fit_loss")
EARLIEST = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: the same arrays give the same bytes

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Quiet:
    """An observer that prints a line in a while."""

    def begin(self, outline: Any) -> None:
        print(f"{len(outline.runs) - outline.done} of {len(outline.runs)} runs to train")

    def epoch(self, stack: Stack, message: Any) -> None:
        if message.outcomes is not None:
            print(f"{stack.runs[-1].id}", flush=True)

    def warn(self, problem: Any) -> None:
        print(problem)

    def end(self) -> None:
        pass


def cell_name(setting: Setting) -> str:
    """``full-0.3``: the norm and the learning rate."""
    return f"{setting.shown('norm')}-{setting.shown('lr')}"


def correct_of_runs(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Run → which test rows its last network got right, from the shards' checkpoints."""
    ids = {entry["key"]: entry["id"] for entry in (read_meta(folder) or {})["runs"]}
    found = {}
    for name, commit in committed_shards(folder).items():
        with np.load(folder / "shards" / name / CHECKPOINT, allow_pickle=False) as arrays:
            for run, correct in zip(commit["runs"], arrays["test_correct"], strict=True):
                found[ids[run["key"]]] = correct
    return found


def cell_arrays(results: Results, setting: Setting, correct: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    """The arrays of one cell; the place of a run is its seed."""
    place = {run: seed for run, (found, seed) in planned_runs(results.spec).items() if found == setting}
    own = results.runs[results.runs["run"].isin(place)].sort_values("seed")
    assert list(own["seed"]) == sorted(place.values()) == list(range(len(place)))
    right = np.stack([correct[run] for run in own["run"]])
    assert np.allclose(right.mean(1), own["test_accuracy"], atol=1e-6)
    return {
        **{name: own[name].to_numpy(np.float32) for name in METRICS},
        "learned": own["learned"].to_numpy(bool),
        "correct": np.packbits(right, axis=1),
    }


def check_pairing(results: Results) -> None:
    """Runs of one seed share initial weights and row order in every cell; raise if not."""
    for column in ("init_id", "order_id"):
        assert (results.runs.groupby("seed")[column].nunique() == 1).all(), column
        assert results.runs[column].nunique() == len(results.spec.seeds), column


def collect(folder: Path) -> Arrays:
    """Every array of the fixture, named ``cell/array``."""
    (results,) = load_results([folder])
    assert set(results.runs["status"]) == {"done"}
    check_pairing(results)
    correct = correct_of_runs(folder)
    test = load_dataset(results.spec.settings[0].data).test
    found = {"n_rows": np.array(len(test.targets))}
    for setting in results.spec.settings:
        for name, array in cell_arrays(results, setting, correct).items():
            found[f"{cell_name(setting)}/{name}"] = array
    return found


def write(path: Path, arrays: Arrays) -> None:
    """An .npz whose bytes depend on the arrays alone: np.savez writes the time into it."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", EARLIEST)
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def describe(arrays: Arrays) -> None:
    """A line per cell."""
    cells = dict.fromkeys(name.split("/")[0] for name in arrays if "/" in name)
    for cell in cells:
        accuracy, loss, learned = (arrays[f"{cell}/{name}"] for name in (*METRICS, "learned"))
        print(
            f"{cell:16} learned {learned.mean():.3f}  accuracy {accuracy.mean():.4f} SD {accuracy.std(ddof=1):.4f}"
            f"  log fit_loss {np.log(loss).mean():.3f} SD {np.log(loss).std(ddof=1):.3f}"
        )


def main(arguments: Sequence[str]) -> None:
    folder = Path(arguments[0])
    summary: Summary = run_experiment(load_spec(SPEC), Request(out=folder), Quiet())
    assert not summary.failures, summary.failures
    arrays = collect(folder)
    write(FIXTURE, arrays)
    describe(arrays)
    print(f"{FIXTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
