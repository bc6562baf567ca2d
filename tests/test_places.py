"""Where no results folder can be: told before anything else, with one message, and exit 2 or 5."""

from __future__ import annotations

import json

import filelock
import pytest

import bnexp.store
from bnexp.cli import app
from bnexp.errors import FolderInUse, UsageError

SPEC = "data: {name: xor, samples: 40}\nmodel: {hidden: [3, 3]}\ntrain: {epochs: 1, batch_size: 10}\nseeds: 1\n"


def ask(*words, code):
    with pytest.raises(SystemExit) as end:
        app([str(word) for word in words])
    assert end.value.code == code


@pytest.mark.parametrize("command", [["check"], ["train", "--dry-run"], ["train", "-q", "--workers", "1"]])
def test_a_file_a_dangling_link_and_a_name_that_is_too_long(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SPEC)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out, place in (("file", "file"), ("file/below", "file"), ("link", "link"), ("link/below", "link")):
        ask(*command, "tiny.yaml", "--out", out, code=2)
        assert f"error: {place}: not a folder; name another with --out DIR" in capsys.readouterr().err
    ask(*command, "tiny.yaml", "--out", "x" * 300, code=5)
    assert "too long" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("said", ['{"pid": 1e999, "host": "x"}', "[" * 100_000, "\x00", '{"pid": "1"}', "5"])
def test_a_holder_that_says_nothing_useful(tmp_path, monkeypatch, said):
    monkeypatch.setattr(bnexp.store, "SIGNED_WITHIN", 0.05)
    (tmp_path / ".holder").write_text(said)
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(FolderInUse, match="another bnexp is writing"):
        bnexp.store.locked(tmp_path).__enter__()


def test_who_holds_it_is_shortened(tmp_path):
    (tmp_path / ".holder").write_text(json.dumps({"pid": 1, "host": "h" * 300}))
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(FolderInUse, match=r"process 1 on 'h{64}'\)"):
        bnexp.store.locked(tmp_path).__enter__()


def test_a_place_that_is_free(tmp_path):
    bnexp.store.check_place(tmp_path)
    bnexp.store.check_place(tmp_path / "new" / "and" / "newer")
    (tmp_path / "link").symlink_to(tmp_path)
    bnexp.store.check_place(tmp_path / "link" / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        bnexp.store.check_place(tmp_path / "file" / "a")
