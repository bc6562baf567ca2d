"""The line that people watch: on a terminal of any width, in a log, in a notebook; and when the work will be done."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import time
import types

import pytest
from tools import make_dataset, make_spec, runs_of

import bnexp.progress
from bnexp.console import duration
from bnexp.errors import Problem
from bnexp.executors import Message
from bnexp.plan import make_plan
from bnexp.progress import Progress, Standing, Tally, fitting, words_of
from bnexp.stacks import estimated_seconds, make_stacks

SPEC = """
data: digits
model: {hidden: [12, 12], norm: [none, standardize, full], activation: [sigmoid, relu]}
train: {epochs: 40, lr: [0.1, 1]}
seeds: 24
"""
COMMAND = [sys.executable, "-m", "bnexp", "train"]
NARROW = """
name: a-name-that-is-as-long-as-sixty-characters-are-if-one-counts
data: digits
model: {hidden: [24, 24], norm: [none, full], activation: relu}
train: {epochs: 160, lr: [0.1, 100]}
seeds: 24
"""


def outline_of(spec, workers=2):
    dataset = make_dataset(n_train=512)
    stacks = tuple(make_stacks(make_plan(runs_of(spec, dataset)), workers))
    work = tuple(map(estimated_seconds, stacks))
    return types.SimpleNamespace(stacks=stacks, work=work, spec=spec, done=0, device="cpu", workers=workers)


def message(index, stack, epoch, done=False, loss=0.5, diverged=0):
    outcomes = [["text"]] if done else None
    alive = len(stack.runs) - diverged
    shards = range(len(stack.shards))
    return Message(index, epoch, [], loss, alive, outcomes=outcomes, shards=shards, done=done)


def worked_off(outline, factors, workers, start_up):
    """Messages as workers would send them, in order of time: (seconds, stack, message); the truth of a study."""
    free, events = [start_up] * workers, []
    for index, (stack, factor) in enumerate(zip(outline.stacks, factors, strict=True)):
        worker = free.index(min(free))
        each = factor * estimated_seconds(stack) * 100 / stack.structure.epochs
        for epoch in range(1, stack.structure.epochs + 1):
            free[worker] += each
            events.append((free[worker], stack, message(index, stack, epoch, epoch == stack.structure.epochs)))
    return sorted(events, key=lambda event: event[0])


def test_a_stack_that_is_given_up_keeps_what_it_has_finished():
    outline = outline_of(make_spec(SPEC), 1)
    tally, stack = Tally(outline), outline.stacks[0]
    assert len(stack.shards) > 1
    tally.report(stack, message(0, stack, 40)._replace(outcomes=[["text"]], shards=[0]), 1.0)
    for _ in range(2):
        tally.report(stack, message(0, stack, 0, done=True)._replace(outcomes=None, error="lost"), 2.0)
    standing = tally.standing(2.0)
    finished = len(stack.shards[0].runs)
    assert (standing.runs, standing.failed) == (finished, len(stack.runs) - finished)


def test_what_is_added_up_is_what_summing_gives(monkeypatch):
    """Whatever comes, in whatever order, errors and stacks that begin again included; the past stays short."""
    monkeypatch.setattr(bnexp.progress, "MOST_PAST", 50)
    outline = outline_of(make_spec(SPEC), 3)
    tally, rng = Tally(outline), random.Random(0)
    reached, finished = [0.0] * len(outline.stacks), set()
    for step in range(400):
        at = rng.randrange(len(outline.stacks))
        stack, epoch = outline.stacks[at], rng.randrange(41)
        done = rng.random() < 0.02
        sent = message(at, stack, epoch, done)._replace(error="lost" if rng.random() < 0.1 else "")
        tally.report(stack, sent, float(step))
        reached[at] = reached[at] if sent.error else epoch / 40
        finished |= {at} if done else set()
        parts = [1.0 if index in finished else part for index, part in enumerate(reached)]
        slowly = sum(work * part for work, part in zip(outline.work, parts, strict=True)) / sum(outline.work)
        assert tally.share() == pytest.approx(slowly)
        assert tally.standing(float(step)).share == pytest.approx(slowly)
        assert tally.unfinished == len(outline.stacks) - len(finished)
        assert len(tally.past) <= 51


@pytest.mark.parametrize("start_up", [0.0, 5.0])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_time_left_is_right_to_30_percent_after_a_fifth(workers, start_up):
    outline = outline_of(make_spec(SPEC), workers)
    factors = [(0.9, 1.1)[index % 2] for index in range(len(outline.stacks))]
    tally, said = Tally(outline), 0
    events = worked_off(outline, factors, workers, start_up)
    end = events[-1][0]
    for now, stack, one in events:
        tally.report(stack, one, now)
        standing = tally.standing(now)
        if 0.2 <= standing.share < 0.9:
            assert standing.left == pytest.approx(end - now, rel=0.3)
            said += 1
    assert said > 10
    assert tally.standing(end) == Standing(1.0, 288, 288, 0, 0, 288 * 40, 288 * 40, 0.5, 0, 0.0)


def test_what_a_tally_counts():
    outline = outline_of(make_spec(SPEC), 1)
    tally, first, n = Tally(outline), outline.stacks[0], len(outline.stacks[0].runs)
    assert tally.standing(0.0).left is None
    tally.report(first, message(0, first, 0, loss=float("nan")), 1.0)
    assert words_of(tally.standing(1.0)) == [
        (0, "0/288 runs"),
        (2, "0/11520 epochs"),
        (3, f"{n} running"),
        (3, f"{288 - n} queued"),
    ]
    tally.report(first, message(0, first, 10, diverged=3), 3.0)
    standing = tally.standing(3.0)
    assert (standing.epochs, standing.runs, standing.diverged) == (10 * n, 0, 3)
    tally.report(first, message(0, first, 20, done=True, diverged=n), 4.0)  # all diverged: the rest is not trained
    assert tally.standing(4.0).runs == n
    assert tally.standing(4.0).share == pytest.approx(
        estimated_seconds(first) / sum(map(estimated_seconds, outline.stacks))
    )


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 140])
def test_a_line_fits(width):
    standing = Standing(0.5, 12345, 100000, 54321, 16, 1234567, 3000000, 0.123, 1234, 7384)
    line = fitting([(4, "name"), *words_of(standing)], width)
    assert len(line) <= width
    assert line.startswith("name" if width == 140 else "12345/100000 runs")
    assert ("33318 running  54321 queued" in line) == (width >= 120)


@pytest.mark.parametrize(
    ("left", "shown"),
    [(None, None), (0.0, "under 2 s left"), (1.99, "under 2 s left"), (2.0, "2.0 s left"), (75, "1:15 min left")],
)
def test_the_last_seconds_are_not_told_apart(left, shown):
    standing = Standing(0.5, 1, 2, 0, 0, 5, 10, 0.1, 0, left)
    assert ([text for _, text in words_of(standing) if "left" in text] or [None]) == [shown]


def test_durations():
    shown = [duration(seconds) for seconds in (0, 0.04, 0.06, 0.96, 1.4, 59.4, 59.6, 187, 3599, 7384)]
    assert shown == ["0 s", "0 s", "0.1 s", "1.0 s", "1.4 s", "59 s", "1:00 min", "3:07 min", "59:59 min", "2:03 h"]


# --- a terminal -------------------------------------------------------------------------------------------------------


def on_a_terminal(words, cwd, columns, **environment):
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    child = subprocess.Popen(
        words,
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux, when the other side is closed
            break
        if not part:
            break
        found += part
    os.close(ours)
    assert child.wait() == 0
    return found.decode()


COLOR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;m]")


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_one_line_at_any_width(tmp_path, columns):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    shown = on_a_terminal([*COMMAND, "narrow.yaml"], tmp_path, columns)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [line for line in re.split(r"[\r\n]+", plain) if "/96 runs" in line]
    assert lines
    assert all(len(line) <= columns for line in lines)
    assert any("left" in line for line in lines) or columns == 40
    assert any("epochs" in line and "left" in line for line in lines) or columns < 120
    assert COLOR.search(shown) or columns < 120  # of the bar, for which there may be no room
    assert "next: bnexp report" in plain


def test_no_color(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    assert not COLOR.search(on_a_terminal([*COMMAND, "narrow.yaml"], tmp_path, 80, NO_COLOR="1"))
    assert not COLOR.search(on_a_terminal([*COMMAND[:-1], "train", "--help"], tmp_path, 80, NO_COLOR="1"))


# --- a log ------------------------------------------------------------------------------------------------------------


def test_a_log_has_a_line_a_tenth(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    done = subprocess.run([*COMMAND, "narrow.yaml"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not re.search(r"[\x1b\r]", done.stderr + done.stdout)
    shares = [int(found) for found in re.findall(r": (\d+) %, ", done.stderr)]
    assert shares == sorted(set(shares))
    assert shares[-1] == 100
    assert len({share // 10 for share in shares}) == len(shares) <= 11
    assert len(done.stderr.splitlines()) == len(shares) + 3  # what starts, what was done, what to type next


def test_a_log_that_waits_says_so(monkeypatch, capsys):
    monkeypatch.setattr(bnexp.progress, "LINE_SECONDS", 0.1)
    progress = Progress()
    progress.begin(outline_of(make_spec(SPEC)))
    time.sleep(1)
    progress.end()
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 12
    assert all(line.endswith("0 %, 0/288 runs, 0/11520 epochs, 288 queued") for line in lines[1:])
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_a_terminal_that_takes_nothing_stops_nobody(monkeypatch, taken):
    progress, lines = Progress(), []

    def full(text, **_):
        if len(lines) == taken:
            raise OSError(28, "No space left on device")
        lines.append(text)

    monkeypatch.setattr(progress.console, "print", full)
    outline = outline_of(make_spec(SPEC))
    progress.begin(outline)
    for stack in outline.stacks:
        progress.epoch(stack, message(0, stack, 40, done=True))
    progress.warn(Problem("x", "", "y"))
    progress.end()
    assert len(lines) == taken


def test_a_stack_that_failed_is_no_work_that_is_left():
    outline = outline_of(make_spec(SPEC), 1)
    tally = Tally(outline)
    for index, stack in enumerate(outline.stacks):
        one = message(index, stack, 40, done=True)
        tally.report(stack, one._replace(error="broken", outcomes=None, alive=0) if index == 1 else one, 1.0 + index)
    standing = tally.standing(20.0)
    assert standing.share == 1.0
    n = len(outline.stacks[1].runs)
    assert (standing.runs, standing.diverged, standing.failed, standing.queued) == (288 - n, 0, n, 0)


def test_a_dumb_terminal_gets_lines(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    shown = on_a_terminal([*COMMAND, "narrow.yaml", "seeds=3"], tmp_path, 80, TERM="dumb")
    assert " %, " in shown
    assert "\x1b" not in shown


def test_forced_colours_put_no_moving_line_into_a_log(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    environment = {**os.environ, "FORCE_COLOR": "1"}
    done = subprocess.run(
        [*COMMAND, "narrow.yaml", "seeds=3"], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    assert " %, " in done.stderr
    assert not re.search(r"\r|\x1b\[\?25|\x1b\[2K", done.stderr)


def test_quiet_says_nothing(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    done = subprocess.run([*COMMAND, "narrow.yaml", "-q"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_reader_that_leaves(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    shell = f"{' '.join(COMMAND)} narrow.yaml seeds=2 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_output_that_is_not_utf8(tmp_path):
    (tmp_path / "narrow.yaml").write_text(NARROW)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        [*COMMAND, "narrow.yaml", "seeds=3"], cwd=tmp_path, capture_output=True, check=True, env=environment
    )
    assert b"Traceback" not in done.stderr
    assert done.stdout.isascii()


# --- what a norm makes constant ---------------------------------------------------------------------------------------

DEAD = """
data: {name: csv, path: rows.csv, target: y, feature_scale: none}
model: {hidden: [6, 4], norm: [none, full], activation: relu, placement: post}
train: {epochs: 1, lr: [0.1, 0.2]}
seeds: 3
"""


def test_units_without_variance_are_told_before_and_while_training(tmp_path):
    """All features are the same in every row: nothing varies before the first step."""
    rows = "\n".join(f"2,3,{index % 2}" for index in range(300))
    (tmp_path / "rows.csv").write_text(f"a,b,y\n{rows}\n")
    (tmp_path / "dead.yaml").write_text(DEAD)
    words = [sys.executable, "-m", "bnexp"]
    checked = subprocess.run([*words, "check", "dead.yaml"], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = (
        "dead.yaml:3:31: warning: model.norm: norm=full,lr=0.1,seed=0 (as 3 of 3 such networks): "
        "6 of 6 units of layer 1 without variance over all 216 training rows at the start"
    )
    assert expected in checked.stderr
    trained = subprocess.run(
        [*words, "train", "dead.yaml", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert trained.stderr.count("warning: model.norm") == 1
    silent = subprocess.run(
        [*words, "train", "dead.yaml", "-q", "--overwrite"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (silent.stdout, silent.stderr) == ("", "")
    many = ["check", "dead.yaml", "--out", "new", f"model.hidden={','.join(f'[{n},3]' for n in range(2, 12))}"]
    checked = subprocess.run([*words, *many], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert checked.stderr.count("warning: model.norm") == 6
    assert "other networks have such units, too" in checked.stderr
    assert expected in trained.stderr
    assert expected in json.loads(trained.stdout)["training"]["warnings"][0]
