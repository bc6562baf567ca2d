import csv
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bnexp.errors import DamagedResults, ResultsError
from bnexp.layout import OUTCOMES, setting_columns
from bnexp.loading import load_spec
from bnexp.results import load_results, with_derived

SPEC = """
name: small
data: digits
model: {norm: [none, full]}
train: {lr: [0.1, 1], epochs: 2}
seeds: 2
"""
METRICS = ("test_loss", "test_accuracy")


def key_of(run):
    return "k" + hashlib.sha256(run.encode()).hexdigest()[:8]


def write_csv(path, head, rows):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)


def runs_of(spec):
    """Every run as (id, setting, seed), seed by seed."""
    axes = spec.axes
    return [
        (",".join([*(f"{axis}={setting.shown(axis)}" for axis in axes), f"seed={seed}"]), setting, seed)
        for seed in spec.seeds
        for setting in spec.settings
    ]


def outcome(seed, **values):
    return {
        "status": "done",
        "learned": "true",
        "n_parameters": 10,
        "init_id": f"w{seed}",
        "order_id": f"o{seed}",
        **values,
    }


def make_folder(tmp_path, text=SPEC, name="small", committed=(), shards=None):
    """spec.yaml, meta.json, and the shards given as {name: [run ids]}."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "spec.yaml").write_text(text, encoding="utf-8")
    runs = runs_of(load_spec(folder / "spec.yaml"))
    meta = {"schema": 1, "committed": list(committed), "runs": [{"id": r, "key": key_of(r)} for r, _, _ in runs]}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for shard, ids in (shards or {}).items():
        write_shard(folder / "shards" / shard, ids)
    return folder


def write_shard(path, ids, rename=lambda run: run):
    path.mkdir(parents=True)
    head = ["run", *OUTCOMES, *METRICS]
    rows = [[rename(r), "done", "", "true", 10, "w1", "o1", 0.5, len(r) / 100] for r in ids]
    write_csv(path / "runs.csv", head, rows)
    write_csv(
        path / "curves.csv", ["run", "epoch", "test_loss"], [[rename(r), e, 1 / (1 + e)] for e in (0, 1) for r in ids]
    )
    (path / "commit.json").write_text(
        json.dumps({"schema": 1, "runs": [{"id": rename(r), "key": key_of(r)} for r in ids]})
    )


def write_top(folder, ids=None):
    spec = load_spec(folder / "spec.yaml")
    settings = setting_columns(spec)
    rows = [
        [run, seed, *(setting.shown(leaf) for leaf in settings), "done", "", "true", 10, "w1", "o1", 0.25, 0.75]
        for run, setting, seed in runs_of(spec)
        if ids is None or run in ids
    ]
    write_csv(folder / "runs.csv", ["run", "seed", *settings, *OUTCOMES, *METRICS], rows)


def ids_of(folder):
    return [run for run, _, _ in runs_of(load_spec(folder / "spec.yaml"))]


def test_top_csvs_of_a_folder_without_shards(tmp_path):
    folder = make_folder(tmp_path)
    write_top(folder)
    (results,) = load_results([folder])
    assert (results.name, results.folder, len(results.runs)) == ("small", folder, 8)
    assert list(results.runs["run"])[:2] == ["norm=none,lr=0.1,seed=0", "norm=none,lr=1,seed=0"]
    assert list(results.runs.columns[:6]) == ["run", "seed", "data", "hidden", "activation", "norm"]
    assert results.runs["lr"].tolist()[:2] == [0.1, 1.0]
    assert results.runs["hidden"].tolist()[0] == "64-64"
    assert set(results.runs["norm"]) == {"none", "full"}
    assert results.runs["learned"].dtype == "boolean"
    assert results.table("curves") is None
    assert results.table("runs") is results.runs


def test_shards_are_read_until_meta_records_them_all(tmp_path):
    folder = make_folder(tmp_path)
    ids = ids_of(folder)
    write_top(folder)
    write_shard(folder / "shards" / "xb", ids[:3])
    write_shard(folder / "shards" / "xa", ids[3:6])
    write_shard(folder / "shards" / "xc", ids[6:])
    (folder / "shards" / "xc" / "commit.json").unlink()  # still training
    (results,) = load_results([folder])
    assert results.runs["run"].tolist() == ids
    assert results.runs["status"].tolist() == ["done"] * 6 + ["pending"] * 2
    assert results.runs["test_loss"].tolist()[:6] == [0.5] * 6
    assert math.isnan(results.runs["test_loss"].iloc[6])
    assert results.runs["learned"].isna().tolist() == [False] * 6 + [True] * 2
    assert results.runs["init_id"].tolist()[-1] == ""
    curves = results.table("curves")
    assert curves["run"].tolist() == [run for run in ids[:6] for _ in (0, 1)]  # in plan order, whatever the shards
    assert curves["epoch"].tolist() == [0, 1] * 6
    assert results.table("curves") is curves

    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "committed": ["xa", "xb"]}))
    (results,) = load_results([folder])
    assert results.runs["test_loss"].tolist() == [0.25] * 8
    assert results.table("curves") is None  # the top folder has none


def test_ids_of_shards_are_mapped_to_the_plan(tmp_path):
    """A study that was extended by an axis has shards with the shorter ids of before."""
    folder = make_folder(tmp_path)
    ids = ids_of(folder)
    old = [run for run in ids if "lr=0.1," in run]
    write_shard(folder / "shards" / "xa", old, rename=lambda run: run.replace("lr=0.1,", ""))
    (results,) = load_results([folder])
    done = results.runs[results.runs["status"] == "done"]
    assert done["run"].tolist() == old
    assert set(results.table("curves")["run"]) == set(old)


def test_top_csvs_with_ids_of_before_an_extension_are_passed_over(tmp_path):
    folder = make_folder(tmp_path, committed=["xa"])
    old = [run for run in ids_of(folder) if "lr=0.1," in run]
    write_top(folder, ids=old)
    text = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(text.replace("lr=0.1,", ""))
    write_shard(folder / "shards" / "xa", old, rename=lambda run: run.replace("lr=0.1,", ""))
    (results,) = load_results([folder])
    assert (results.runs["status"] == "done").sum() == len(old)
    assert set(results.runs["test_loss"].dropna()) == {0.5}


def test_a_folder_where_training_is_about_to_begin(tmp_path):
    folder = make_folder(tmp_path)
    (results,) = load_results([folder])
    assert set(results.runs["status"]) == {"pending"}
    (folder / "shards").mkdir()
    (results,) = load_results([folder])
    assert set(results.runs["status"]) == {"pending"}
    assert results.table("curves") is None


def test_values_of_csvs(tmp_path):
    folder = make_folder(tmp_path)
    write_top(folder)
    run = ids_of(folder)[0]
    head = ["run", "epoch", "number", "empty", "text", "mixed", "flag"]
    rows = [
        [run, 0, "nan", "", "NA", "none", "true"],
        [run, 1, "-inf", "", "", "1", "false"],
        [run, 2, "0.1", "", "null", "", "true"],
    ]
    write_csv(folder / "odd.csv", head, rows)
    table = load_results([folder])[0].table("odd")
    assert table["text"].tolist() == ["NA", "", "null"]
    assert table["mixed"].tolist() == ["none", "1", ""]
    assert table["flag"].tolist() == ["true", "false", "true"]
    assert math.isnan(table["number"][0])
    assert table["number"].tolist()[1:] == [-math.inf, 0.1]
    assert table["empty"].isna().all()
    assert table["epoch"].tolist() == [0, 1, 2]


def test_setting_columns_are_numbers_only_where_every_value_is(tmp_path):
    text = """
name: odd
data: digits
model: {hidden: [[8], [16]], eps: [0.00001, 0.1]}
train: {batch_size: [32, full], lr: [0.001, 10]}
seeds: [7]
"""
    folder = make_folder(tmp_path, text, "odd")
    write_top(folder)
    runs = load_results([folder])[0].runs
    assert sorted(set(runs["hidden"])) == ["16", "8"]
    assert sorted(set(runs["batch_size"])) == ["32", "full"]
    assert sorted(set(runs["lr"])) == [0.001, 10]
    assert sorted(set(runs["eps"])) == [1e-05, 0.1]
    assert set(runs["seed"]) == {7}
    assert set(runs["epochs"]) == {30}


def test_tables_of_unlike_shards_have_the_union_of_columns(tmp_path):
    folder = make_folder(tmp_path)
    ids = ids_of(folder)
    write_shard(folder / "shards" / "xa", ids[:4])
    write_shard(folder / "shards" / "xb", ids[4:])
    write_csv(folder / "shards" / "xb" / "curves.csv", ["run", "epoch", "test_r2", "tap"], [[ids[4], 0, 0.5, "affine"]])
    curves = load_results([folder])[0].table("curves")
    assert list(curves.columns) == ["run", "epoch", "test_loss", "test_r2", "tap"]
    assert curves["tap"].tolist() == [""] * 8 + ["affine"]
    assert math.isnan(curves["test_loss"].iloc[-1])


def test_shards_whose_runs_all_diverged_join_those_whose_runs_did_not(tmp_path):
    """Columns that are empty in one shard and whole numbers in the next."""
    folder = make_folder(tmp_path)
    ids = ids_of(folder)
    write_shard(folder / "shards" / "xa", ids[:4])
    write_shard(folder / "shards" / "xb", ids[4:])
    rows = [[run, "diverged", 3, "false", 10, "w1", "o1", "", ""] for run in ids[4:]]
    write_csv(folder / "shards" / "xb" / "runs.csv", ["run", *OUTCOMES, *METRICS], rows)
    runs = load_results([folder])[0].runs
    assert runs["diverged_epoch"].tolist()[4:] == [3] * 4
    assert runs["diverged_epoch"].isna().tolist()[:4] == [True] * 4
    assert runs["learned"].tolist() == [True] * 4 + [False] * 4
    assert runs["test_loss"].isna().tolist() == [False] * 4 + [True] * 4


def test_items_have_neither_run_nor_epoch(tmp_path):
    folder = make_folder(tmp_path)
    write_top(folder)
    write_csv(folder / "items.csv", ["norm", "row", "right"], [["none", 0, 0.5]])
    assert load_results([folder])[0].table("items")["norm"].tolist() == ["none"]


def test_derived_metrics():
    frame = pd.DataFrame({"run": ["a"], "test_r2": [0.75], "fit_r2": [0.5], "test_r2_population": [1.0], "r2": [0.0]})
    derived = with_derived(frame)
    assert list(derived.columns) == [
        *frame.columns,
        "test_unexplained",
        "fit_unexplained",
        "test_unexplained_population",
    ]
    assert derived.iloc[0, -3:].tolist() == [0.25, 0.5, 0.0]
    assert list(frame.columns)[-1] == "r2"  # the frame given is left alone


def test_no_folders_named_means_all_under_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="bnexp train CONFIG"):
        load_results([])
    Path("results").mkdir()
    for name in ("b", "a"):
        write_top(make_folder(Path("results"), SPEC.replace("small", name), name))
    (Path("results") / "notes").mkdir()
    assert [results.name for results in load_results([])] == ["a", "b"]
    with pytest.raises(ResultsError, match="a, b"):
        load_results([Path("results")])


@pytest.mark.parametrize("where", ["missing", "file", "empty"])
def test_not_a_results_folder(tmp_path, where):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultsError, match=f"{where}.*bnexp train CONFIG"):
        load_results([tmp_path / where])


def damage_meta(**changes):
    def damage(folder):
        meta = json.loads((folder / "meta.json").read_text())
        (folder / "meta.json").write_text(json.dumps({**meta, **changes}))

    return damage


def edit(name, old, new):
    def damage(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return damage


DAMAGES = {
    "no meta": (lambda folder: (folder / "meta.json").unlink(), "meta.json: missing"),
    "meta not json": (lambda folder: (folder / "meta.json").write_text("{"), "meta.json: cannot be read"),
    "meta a list": (lambda folder: (folder / "meta.json").write_text("[]"), "meta.json: not a JSON object"),
    "meta nested": (lambda folder: (folder / "meta.json").write_text("[" * 100_000), "meta.json: cannot be read"),
    "no schema": (damage_meta(schema="1"), "meta.json: no schema"),
    "newer": (damage_meta(schema=3), "meta.json: written by a newer bnexp"),
    "no runs": (damage_meta(runs=None), "meta.json: runs"),
    "odd runs": (damage_meta(runs=[{"id": 1, "key": "x"}]), "meta.json: runs"),
    "few runs": (damage_meta(runs=[]), "meta.json: does not list the runs"),
    "run twice": (damage_meta(runs=[{"id": "a", "key": "k"}] * 2), "meta.json: the same run"),
    "committed a number": (damage_meta(committed=3), "meta.json: committed"),
    "no spec": (lambda folder: (folder / "spec.yaml").unlink(), "spec.yaml: missing"),
    "bad spec": (edit("spec.yaml", "digits", "digit"), "spec.yaml: cannot be read"),
    "other spec": (edit("spec.yaml", "seeds: 2", "seeds: 3"), "meta.json: does not list the runs"),
    "no column": (edit("runs.csv", "init_id", "initial"), "runs.csv: no column init_id"),
    "cut off": (edit("runs.csv", "0.75\n", "0.7"), None),
    "strange run": (edit("runs.csv", "norm=full,lr=1,seed=1", "norm=full,lr=2,seed=1"), "runs.csv: run norm=full,lr=2"),
    "run a second time": (edit("runs.csv", "norm=full,lr=1,seed=1", "norm=full,lr=1,seed=0"), "runs.csv: run .* twice"),
    "strange status": (edit("runs.csv", "done", "dine"), "runs.csv: run .* has status 'dine'"),
    "strange learned": (edit("runs.csv", "true", "yes"), "runs.csv: run .* learned"),
    "learned unsaid": (edit("runs.csv", "true", ""), "runs.csv: run .* learned"),
    "too many fields": (edit("runs.csv", "0.75\n", "0.75,1\n"), "runs.csv: (cannot be read|its rows have more)"),
    "not text": (lambda folder: (folder / "runs.csv").write_bytes(b"run,\xff\n"), "runs.csv: cannot be read"),
    "empty": (lambda folder: (folder / "runs.csv").write_bytes(b""), "runs.csv: cannot be read"),
    "blank": (lambda folder: (folder / "runs.csv").write_bytes(b"\n"), "runs.csv: cannot be read"),
    "no runs.csv": (lambda folder: (folder / "runs.csv").rename(folder / "gone.csv"), "runs.csv: missing"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_named(tmp_path, what):
    folder = make_folder(tmp_path, committed=["xa"])
    write_top(folder)
    damage, message = DAMAGES[what]
    if what == "cut off":
        text = (folder / "runs.csv").read_text()
        (folder / "runs.csv").write_text(text[:-3])
        message = "runs.csv: cannot be read: its last line is cut off"
    else:
        damage(folder)
    with pytest.raises(DamagedResults, match=message):
        load_results([folder])


def test_every_row_with_a_surplus_field_is_damage(tmp_path):
    """Left to itself, pandas would take the first column for an index and shift the rest."""
    folder = make_folder(tmp_path)
    write_top(folder)
    lines = (folder / "runs.csv").read_text().splitlines()
    (folder / "runs.csv").write_text("\n".join([lines[0], *(f"{line},1" for line in lines[1:])]) + "\n")
    with pytest.raises(DamagedResults, match=r"runs\.csv"):
        load_results([folder])


def test_damaged_shards(tmp_path):
    folder = make_folder(tmp_path)
    ids = ids_of(folder)
    write_shard(folder / "shards" / "xa", ids[:4])
    (folder / "shards" / "xa" / "commit.json").write_text("")
    with pytest.raises(DamagedResults, match=r"xa.commit\.json: cannot be read"):
        load_results([folder])
    write_commit = (folder / "shards" / "xa" / "commit.json").write_text
    write_commit(json.dumps({"schema": 1, "runs": [{"id": "x", "key": "unknown"}]}))
    with pytest.raises(DamagedResults, match=r"xa.commit\.json: holds run x"):
        load_results([folder])
    write_commit(json.dumps({"schema": 1, "runs": [{"id": ids[0], "key": key_of(ids[0])}]}))
    with pytest.raises(DamagedResults, match=r"xa.runs\.csv: run .* does not belong"):
        load_results([folder])
    write_commit(json.dumps({"schema": 1, "runs": [{"id": r, "key": key_of(r)} for r in ids[:5]]}))
    with pytest.raises(DamagedResults, match=rf"xa.runs\.csv: no row for run {ids[4]}"):
        load_results([folder])
    runs = [{"id": r, "key": key_of(r)} for r in ids[:4]]
    curves = folder / "shards" / "xa" / "curves.csv"
    write_commit(json.dumps({"schema": 1, "runs": runs, "files": {"curves.csv": curves.stat().st_size + 1}}))
    with pytest.raises(DamagedResults, match=r"xa.curves\.csv: missing, or not as long"):
        load_results([folder])
    write_commit(json.dumps({"schema": 1, "runs": runs, "files": {"curves.csv": curves.stat().st_size}}))
    write_shard(folder / "shards" / "xb", ids[3:5])
    with pytest.raises(DamagedResults, match="in two shards"):
        load_results([folder])


def test_a_table_with_a_strange_run_or_without_epoch_is_damage(tmp_path):
    folder = make_folder(tmp_path)
    write_top(folder)
    write_csv(folder / "curves.csv", ["run", "epoch"], [["norm=all", 0]])
    write_csv(folder / "units.csv", ["run"], [["norm=all"]])
    (results,) = load_results([folder])
    with pytest.raises(DamagedResults, match=r"curves\.csv: run norm=all"):
        results.table("curves")
    with pytest.raises(DamagedResults, match=r"units\.csv: no column epoch"):
        results.table("units")


def test_an_empty_table_has_its_columns(tmp_path):
    folder = make_folder(tmp_path)
    write_top(folder)
    write_csv(folder / "curves.csv", ["run", "epoch", "test_loss"], [])
    curves = load_results([folder])[0].table("curves")
    assert list(curves.columns) == ["run", "epoch", "test_loss"]
    assert len(curves) == 0


def test_reading_imports_neither_torch_nor_scipy():
    heavy = ("torch", "scipy", "altair")
    code = f"import sys, bnexp.results, bnexp.comparison; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
