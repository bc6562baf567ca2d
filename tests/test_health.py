"""doctor: what it says of a machine that is well, and of one that is not."""

from __future__ import annotations

import json

import pytest
from tools import Silent

import bnexp.executors
from bnexp import files, health
from bnexp.cli import app
from bnexp.errors import StorageError


def found():
    return {finding.name: finding for finding in health.examine(Silent())}


def test_a_machine_that_is_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = found()
    assert {"bnexp", "python", "torch", "cores", "writing here", "training on cpu", "stacked training"} <= set(findings)
    assert not [finding for finding in findings.values() if finding.fault]
    assert "MiB/s" in findings["writing here"].text
    assert findings["stacked training"].text == "exact"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(path, parts, last=True):
        if path.name == "small":
            raise StorageError(f"{path}: No space left on device")
        honest(path, parts, last)

    honest = files.replace
    monkeypatch.setattr(files, "replace", refuse)
    findings = found()
    assert "--out on another disk" in findings["writing here"].fault


def test_training_that_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def fails(*arguments, **options):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(bnexp.executors, "train", fails)
    with pytest.raises(SystemExit) as end:
        app(["doctor"])
    assert end.value.code == 1
    assert "no such instruction" in capsys.readouterr().out


def test_as_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        app(["doctor", "--json"])
    assert end.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert [one["name"] for one in document["findings"]][:2] == ["bnexp", "python"]
