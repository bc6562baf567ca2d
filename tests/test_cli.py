"""The commands as a person types them: a fresh process, its output, its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools import MNIST, ROOT

QUICK = ["train.epochs=2", "seeds=2", "train.lr=0.1,1"]


def bnexp(*words, cwd, **options):
    environment = {**os.environ, "COLUMNS": "100", "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, "-m", "bnexp", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained quickstart of toy size."""
    folder = tmp_path_factory.mktemp("place")
    done = bnexp("train", ROOT / "configs/quickstart.yaml", *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "first.txt").write_text(done.stdout)
    (folder / "first.err").write_text(done.stderr)
    return folder


def test_train_compare_report_end_to_end(place):
    out, err = (place / "first.txt").read_text(), (place / "first.err").read_text()
    assert "at equal lr" in out
    assert "each at its best lr" in out
    assert "do not cover" in out
    assert "next: bnexp report results/quickstart" in err
    assert "\x1b" not in out + err
    assert "\r" not in err
    compared = bnexp("compare", cwd=place)
    assert compared.returncode == 0
    assert compared.stdout == out
    reported = bnexp("report", "-o", "page.html", cwd=place)
    assert reported.returncode == 0, reported.stderr
    page = (place / "page.html").read_text(encoding="utf-8")
    assert "Does batch norm help" in page


def test_formats_of_compare_agree(place):
    document = json.loads(bnexp("compare", "--format", "json", cwd=place).stdout)
    assert document["schema"] == 1
    rows = document["comparisons"][0]["rows"]
    table = list(csv.DictReader(io.StringIO(bnexp("compare", "--format", "csv", cwd=place).stdout)))
    claims = [row for row in table if row["table"].startswith("claim")]
    table = table[: -len(claims)]  # they come last, three rows each
    assert len(claims) == 3 * len(document["claims"]) == 3 * 3
    assert len(table) == len(rows) == 6 + 3
    assert [row["norm"] for row in table] == [row["norm"] for row in rows]
    markdown = bnexp("compare", "--format", "markdown", cwd=place).stdout
    assert "| norm | lr | learned |" in markdown
    latex = bnexp("compare", "--format", "latex", cwd=place).stdout
    assert r"\toprule" in latex
    assert r"\%" in latex


def test_compare_selects(place):
    document = json.loads(
        bnexp(
            "compare", "--where", "norm=full|none,lr=1", "--metric", "test_loss", "--format", "json", cwd=place
        ).stdout
    )
    rows = document["comparisons"][0]["rows"]
    assert {row["norm"] for row in rows} == {"full", "none"}
    assert document["comparisons"][0]["metric"] == "test_loss"
    other = bnexp("compare", "--baseline", "standardize", cwd=place)
    assert "to norm=standardize" in other.stdout


def test_folders_of_one_name_are_told_apart(place):
    again = bnexp("train", ROOT / "configs/quickstart.yaml", *QUICK, "--out", "again", "-q", cwd=place)
    assert again.returncode == 0, again.stderr
    out = bnexp("compare", "again", "results/quickstart", cwd=place).stdout
    assert "again · test accuracy" in out
    assert "results/quickstart · test accuracy" in out
    twice = bnexp("compare", "again", "--where", "norm=full,norm=none", cwd=place)
    assert (twice.returncode, twice.stderr.count("\n")) == (2, 1)
    assert "norm=v1|v2" in twice.stderr


def test_the_rules_need_no_results(tmp_path):
    said = bnexp("compare", "--explain", cwd=tmp_path)
    assert said.returncode == 0
    assert [line.split(".")[0] for line in said.stdout.splitlines() if line[:1].isdigit()] == list(
        map(str, range(1, 11))
    )


def test_steps_until_a_threshold(place):
    out = bnexp("compare", "--until", "train_loss<=2", cwd=place).stdout
    assert "steps until train_loss <= 2, at most the budget of" in out
    wrong = bnexp("compare", "--until", "loss", cwd=place)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_verdicts_are_the_same_in_train_compare_and_the_page(place):
    document = json.loads(bnexp("compare", "--format", "json", cwd=place).stdout)
    verdicts = [claim["verdict"] for claim in document["claims"]]
    for verdict in verdicts:
        assert verdict.split(",")[0] in ("supported", "contradicted", "undecided")
        assert f"verdict  {verdict}" in (place / "first.txt").read_text()
    bnexp("report", "-o", "page.html", cwd=place)
    page = (place / "page.html").read_text(encoding="utf-8")
    assert all(f" {verdict}" in page for verdict in verdicts)


def test_the_same_command_trains_nothing(place):
    again = bnexp("train", ROOT / "configs/quickstart.yaml", *QUICK, cwd=place)
    assert again.returncode == 0
    assert "nothing was trained" in again.stderr
    assert again.stdout == (place / "first.txt").read_text()


def test_json_and_quiet(place):
    found = bnexp("train", ROOT / "configs/quickstart.yaml", *QUICK, "--json", cwd=place)
    document = json.loads(found.stdout)
    assert (document["schema"], document["training"]["trained"], document["training"]["runs"]) == (1, 0, 12)
    quiet = bnexp("train", ROOT / "configs/quickstart.yaml", *QUICK, "-q", cwd=place)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    plan = json.loads(
        bnexp("train", ROOT / "configs/quickstart.yaml", "--dry-run", "--json", "--out", "x", cwd=place).stdout
    )
    assert (plan["runs"], plan["to_train"]) == (120, 120)
    assert not (place / "x").exists()


BAD = {
    "unknown key": ("data: digits\nmodle: {}", "bad.yaml:2:1: error: modle: no such field; did you mean 'model'?"),
    "wrong type": ("data: digits\ntrain: {lr: true}", "bad.yaml:2:13: error: train.lr:"),
    "impossible value": ("data: digits\ntrain: {epochs: -1}", "bad.yaml:2:17: error: train.epochs:"),
    "n below batch size": (
        "data: digits\ntrain: {batch_size: 5000}",
        "bad.yaml:2:21: error: train.batch_size: 5000 rows",
    ),
    "one row with a norm": ("data: digits\ntrain: {batch_size: 1}", "bad.yaml:2:21: error: train.batch_size: 1 row"),
    "unsafe name": ("name: ../x\ndata: digits", "bad.yaml:1:7: error: name:"),
    "missing data file": ("data: {name: csv, path: none.csv, target: y}", "none.csv"),
    "nan in features": ("data: {name: csv, path: nan.csv, target: y}", "nan.csv:row 3, column 'x'"),
    "target out of range": ("data: {name: npz, path: labels.npz}", "labels.npz"),
    "ghosts that do not divide": (
        "data: digits\nmodel: {ghost_size: 7}",
        "bad.yaml:2:21: error: model.ghost_size: 7 does not divide",
    ),
    "ghosts that do not divide all rows": (
        "data: digits\nmodel: {ghost_size: 7}\ntrain: {batch_size: full}",
        "bad.yaml:2:21: error: model.ghost_size: 7 does not divide the batch of all",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_message_and_no_folder(case, tmp_path):
    import numpy as np

    text, words = BAD[case]
    (tmp_path / "bad.yaml").write_text(text)
    (tmp_path / "nan.csv").write_text("x,y\n1,a\nnan,b\n" + "2,a\n3,b\n" * 20)
    y = np.array([0, 1] * 20 + [np.nan])
    np.savez(tmp_path / "labels.npz", x=np.ones((41, 2)), y=y)
    found = bnexp("train", "bad.yaml", cwd=tmp_path)
    assert found.returncode == 2
    assert words in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    assert not (tmp_path / "results").exists()


ON_RAY = ["train", ROOT / "configs/quickstart.yaml", "--executor", "ray"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "Missing argument"),
        (["train", "none.yaml"], "none.yaml: error: no such file"),
        (["train", ROOT / "configs/quickstart.yaml", "train.lrr=1"], "override 'train.lrr=1': error:"),
        (["train", ROOT / "configs/quickstart.yaml", "--device", "tpu"], "--device tpu"),
        (["train", ROOT / "configs/quickstart.yaml", "--workers", "0"], "--workers 0"),
        (["train", ROOT / "configs/quickstart.yaml", "--executor", "slurm"], "local or ray is expected"),
        (["train", ROOT / "configs/quickstart.yaml", "--address", "local"], "are for --executor ray"),
        ([*ON_RAY, "--device", "cuda"], "--device is for this machine"),
        ([*ON_RAY, "--address", ""], "auto, local or ray://HOST:PORT"),
        ([*ON_RAY, "--address", "127.0.0.1:6379"], "auto, local or ray://HOST:PORT"),
        *(([*ON_RAY, "--gpus-per-task", text], "a part such as 0.25") for text in ("1.5", "inf", "0.00001")),
        (["compare"], "bnexp train"),
        (["compare", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "--format", "xml"], "--format xml"),
        (["compare", "--where", "norm"], "key=value"),
        (["frobnicate"], "frobnicate"),
    ],
)
def test_wrong_usage_exits_2(words, message, tmp_path):
    found = bnexp(*words, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_a_study_of_too_many_runs_is_refused_before_it_is_planned(tmp_path):
    for words in (["seeds=1000000"], ["seeds=3", "--max-runs", "30"]):
        for command in (["train"], ["check"], ["train", "--dry-run"]):
            found = bnexp(*command, ROOT / "configs/quickstart.yaml", *words, cwd=tmp_path)
            assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
            assert f"12 settings × {words[0][6:]} seeds" in found.stderr
            assert "--max-runs" in found.stderr
    found = bnexp("check", ROOT / "configs/quickstart.yaml", "seeds=3", "--max-runs", "36", cwd=tmp_path)
    assert found.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_unknown_metrics_are_named(place):
    found = bnexp("compare", "--metric", "test_acuracy", cwd=place)
    assert found.returncode == 2
    assert "did you mean 'test_accuracy'" in found.stderr


def test_help_and_version_load_nothing_heavy(tmp_path):
    code = (
        "import sys; from bnexp.__main__ import main\ntry:\n    main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'scipy', 'altair', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    for words in (["--help"], ["-h"], ["--version"], ["train", "--help"], ["check", "--help"], ["compare", "-h"]):
        found = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert found.returncode == 0, found.stderr
        assert found.stdout
    heavy = code.replace("main()", "main(); ", 1).replace("import sys;", "import sys, numpy;")
    found = subprocess.run([sys.executable, "-c", heavy, "--version"], capture_output=True, text=True, check=False)
    assert "AssertionError" in found.stderr  # the check can fail


def heed_signals():
    """A job in the background inherits an ignored SIGINT; the process under test shall not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_a_folder_that_goes_on(number, code, tmp_path):
    words = [
        sys.executable,
        "-m",
        "bnexp",
        "train",
        str(ROOT / "configs/quickstart.yaml"),
        "train.epochs=200",
        "--workers",
        "2",
    ]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("results/quickstart/shards/*/curves.csv")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "goes on from there" in err
    assert (tmp_path / "results/quickstart/runs.csv").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_the_start_leave_no_traceback(number, code, tmp_path):
    words = [sys.executable, "-m", "bnexp", "train", str(ROOT / "configs/quickstart.yaml"), "train.epochs=2000"]
    for tenths in (1, 4, 7, 10, 15):
        process = subprocess.Popen(
            words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals, start_new_session=True
        )
        time.sleep(tenths / 10)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        # Before its first line Python itself is what a signal ends.
        assert process.returncode in (code, -number), err
        assert "Traceback" not in err or "bnexp/" not in err
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_does_not_wait_for_the_epoch(number, code, tmp_path):
    """Whose end is minutes away: one epoch of a study of this size."""
    words = [sys.executable, "-m", "bnexp", "train", str(ROOT / "configs/quickstart.yaml"), "train.batch_size=2"]
    words += ["model.hidden=[400,400]", "seeds=40", "train.epochs=1", "--workers", "2"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("results/quickstart/shards")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(number)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code, err
    assert err.count("goes on from there") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("format", ["json", "table"])
def test_a_reader_that_leaves_is_no_error(place, format):
    # true reads nothing: the pipe is closed before the first line comes
    command = f"{sys.executable} -m bnexp compare --format {format} | true"
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, cwd=place, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written(place):
    for words in (
        ["compare"],
        ["compare", "--format", "csv"],
        ["check", ROOT / "configs/quickstart.yaml", "--out=new"],
    ):
        command = " ".join([sys.executable, "-m bnexp", *map(str, words)])
        for target, code in (("> /dev/full", 5), (">&-", 0), ("> /dev/full 2>/dev/full", 5)):
            done = subprocess.run(
                ["bash", "-c", f"{command} {target}"], capture_output=True, text=True, cwd=place, check=False
            )
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr
    command = f"{sys.executable} -m bnexp train {ROOT}/configs/quickstart.yaml {' '.join(QUICK)} --out full"
    done = subprocess.run(
        ["bash", "-c", f"{command} 2>/dev/full"], capture_output=True, text=True, cwd=place, check=False
    )
    assert (place / "full/runs.csv").read_text().count("done") == 12


def test_output_that_is_not_utf_8(place):
    found = subprocess.run(
        [sys.executable, "-m", "bnexp", "compare"],
        capture_output=True,
        cwd=place,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        check=False,
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not MNIST.exists(), reason="the MNIST files are not beside this checkout")
def test_three_commands_on_a_slice_of_mnist(tmp_path):
    words = [
        f"data.path={MNIST}",
        "data.subset=600",
        "seeds=2",
        "train.epochs=1",
        "train.lr=0.3",
        "data.validation=0.1",
        "claims=[]",  # they look at epoch 10
    ]
    trained = bnexp("train", ROOT / "configs/ioffe-mnist.yaml", *words, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert bnexp("compare", "results/ioffe-mnist", "--metric", "fit_loss", cwd=tmp_path).returncode == 0
    reported = bnexp("report", "results/ioffe-mnist", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
