"""What a shell offers: asked as bash, zsh and fish ask, in a process of its own; and how long that takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from tools import ROOT

from bnexp.completion import complete_override
from bnexp.errors import SpecError
from bnexp.loading import load_spec

FILES = ("quick.yaml", "other.yml", "notes.txt", ".hidden.yaml", "configs/deep.yaml", "results/one/spec.yaml")
HEAVY = ("torch", "pandas", "scipy", "altair", "numba", "jinja2", "vl_convert")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shell")
    for name in (*FILES, "results/two/spec.yaml", "results/not-one/x.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def bash(place, *words, cursor=None, split=None):
    """What bash gets, with words as bash cuts them: at blanks, and at every =; the cursor is in the last, or in one."""
    script = """
    eval "$(bnexp --show-completion bash)"
    COMP_WORDS=("$@"); COMP_CWORD=${AT:-$(( ${#COMP_WORDS[@]} - 1 ))}
    _bnexp_completion bnexp
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    environment |= {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    if cursor is not None:
        environment["AT"] = str(cursor)
    done = subprocess.run(
        ["bash", "-c", script, "bash", "bnexp", *words], cwd=place, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split(split) if done.stdout.strip() else []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["train", ""], ["configs/", "other.yml", "quick.yaml", "results/"]),
        (["train", "conf"], ["configs/", "configs/deep.yaml"]),  # so that no blank comes after the folder
        (["init", "le"], ["lesson"]),
        (["explain", "gam"], ["gamma", "gamma_init"]),
        (["export", "results/one", "--to", ""], ["parquet", "tensorboard", "safetensors"]),
        (["compare", "--format", "la"], ["latex"]),
        (["check", "qui"], ["quick.yaml"]),
        (["train", "configs/"], ["configs/deep.yaml"]),
        (["train", "none/"], []),
        (["train", "quick.yaml", "train.lr"], ["train.lr=", "train.lr=0.1"]),
        (["train", "quick.yaml", "train.l"], ["train.last_batch=", "train.lr="]),
        (["train", "quick.yaml", "model.placement", "="], ["pre", "post"]),
        (["train", "quick.yaml", "seeds=3", "model.norm", "=", "st"], ["standardize"]),
        (["check", "quick.yaml", "measure.shift.s"], ["measure.shift.steps=", "measure.shift.steps=0"]),
        (["train", "quick.yaml", "nothing.like"], []),
        (["compare", ""], ["results/one", "results/two"]),
        (["report", "results/o"], ["results/one"]),
        (["show", "results/"], ["results/one", "results/two"]),
        (["ls", "con"], ["configs/"]),
        (["rm", "results/one", "results/t"], ["results/two"]),
        (["export", "results/t"], ["results/two"]),
    ],
)
def test_bash(place, words, offered):
    assert bash(place, *words) == offered


def test_names_with_blanks_are_escaped_for_bash(tmp_path):
    for name in ("a b.yaml", "it's.yaml", "results/c d/spec.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert bash(tmp_path, "train", "a", split="\n") == [r"a\ b.yaml"]
    assert bash(tmp_path, "train", "it", split="\n") == [r"it\'s.yaml"]
    assert bash(tmp_path, "compare", "results/", split="\n") == [r"results/c\ d"]


def test_in_the_middle_of_a_line(place):
    assert bash(place, "train", "quick.yaml", "model.norm", "=", "st", "train.lr", "=", "1", cursor=5) == [
        "standardize"
    ]
    assert bash(place, "train", "quick.yaml", "model.placement", "=", "--out", "x", cursor=4) == ["pre", "post"]


def test_a_shell_that_keeps_words_whole():
    assert complete_override("model.placement=") == ["model.placement=pre", "model.placement=post"]
    assert complete_override("model.norm=sta") == ["model.norm=standardize"]
    assert complete_override("train.nest") == ["train.nesterov=", "train.nesterov=true", "train.nesterov=false"]
    assert complete_override("model.hidden=") == ["model.hidden=[64,64]"]
    assert complete_override("x=") == []


def test_every_offer_is_a_field_with_a_value_of_its_kind():
    """Some need another field beside them, or other data; none is unknown or of the wrong kind."""
    keys = [key for part in "dmtselfpnq" for key in complete_override(part) if key.endswith("=")]
    offers = [offer for key in keys for offer in complete_override(key)]
    refusals = []
    for offer in offers:
        try:
            load_spec(ROOT / "configs" / "quickstart.yaml", [offer, "claims=[]"])
        except SpecError as error:
            refusals.append(str(error))
    assert len(offers) > 100
    assert len(refusals) < 0.2 * len(offers)
    assert [text for text in refusals if re.search("no such|should be|expected|did you mean", text)] == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["train", "--help"],
        ["complete", "train x.yaml train.l"],
        ["complete", "compare r"],
    ],
)
def test_the_shell_is_fast_and_light(place, words):
    """Promised: 0.35 s; here the best of three with five times as much, for the machine may be busy."""
    environment = dict(os.environ)
    if words[0] == "complete":
        line = ["bnexp", *words[1].split()]
        environment |= {
            "_BNEXP_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(line),
            "COMP_CWORD": str(len(line) - 1),
        }
        words = []
    code = f"""
import sys
from bnexp.__main__ import main
sys.argv = ["bnexp", *{words!r}]
try:
    main()
finally:
    print("LOADED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    took = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        took.append(time.perf_counter() - began)
        assert "LOADED []" in done.stdout, done.stderr
    assert min(took) < 5 * 0.35


def test_the_module_is_the_command(place):
    path = os.path.join(os.path.dirname(sys.executable), "bnexp")
    for words in (["--version"], ["explain", "gamma"], ["train", "none.yaml"]):
        found = [
            subprocess.run([*start, *words], cwd=place, capture_output=True, text=True, check=False)
            for start in ([path], [sys.executable, "-m", "bnexp"])
        ]
        assert (found[0].returncode, found[0].stdout, found[0].stderr) == (
            found[1].returncode,
            found[1].stdout,
            found[1].stderr,
        )
