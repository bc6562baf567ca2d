"""Figures as files: paper widths, fonts in PDFs, the numbers and the words beside a picture."""

from __future__ import annotations

import csv
import io
import re
import struct
import zlib

import pandas as pd
import pytest
from studies import study

from bnexp import charts, figure_files, rendering
from bnexp.chart_parts import Grid, Quantity
from bnexp.comparison import compare_runs
from bnexp.figure_files import COLUMN, SMALLEST, TEXT, files_of, numbers
from bnexp.figures import figures_of

SPEC = """
name: small
data: digits
model: {norm: [none, full]}
train: {lr: [0.1, 0.3, 1], epochs: 3}
seeds: 2
"""
TABLES = ("curves", "activations", "units", "parameters")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    results = study(tmp_path_factory.mktemp("files") / "s", SPEC, tables=TABLES)
    return {figure.name: figure for figure in figures_of(results, compare_runs(results)[0])[0]}


def millimetres(svg):
    return float(re.search(r'width="([\d.]+)mm"', svg.decode())[1])


def letters(svg):
    """The smallest letters of an SVG file in points on paper."""
    text = svg.decode()
    box = float(re.search(r'viewBox="0 0 ([\d.]+)', text)[1])
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', text)]
    return min(sizes) / box * millimetres(svg) * rendering.POINTS


def test_pictures_fit_a_page_and_their_letters_can_be_read(figures):
    widths = {name: dict(files_of(figure, ["svg"]))["svg"] for name, figure in figures.items()}
    assert all(millimetres(svg) <= TEXT for svg in widths.values())
    assert all(letters(svg) >= SMALLEST for svg in widths.values())
    assert millimetres(widths["learning-rate"]) == COLUMN  # one panel: made narrower
    assert millimetres(widths["activations"]) > COLUMN


def test_a_narrowed_panel_leaves_numbers_and_texts_alone():
    spec = {"a": {"width": 560, "x": [560]}, "datasets": {"d": [{"width": 560}]}}
    assert charts.narrowed(spec, 560, 300) == {"a": {"width": 300, "x": [560]}, "datasets": {"d": [{"width": 560}]}}


def test_a_picture_whose_letters_would_be_too_small_is_not_squeezed_into_a_column(figures, monkeypatch):
    monkeypatch.setattr(figure_files, "NARROWEST", 1000)
    svg = dict(files_of(figures["learning-rate"], ["svg"]))["svg"]
    assert COLUMN < millimetres(svg) <= TEXT
    assert letters(svg) >= SMALLEST


def test_pngs_have_their_size_and_300_dots_per_inch(figures):
    found = dict(files_of(figures["learning-rate"], ["png"]))["png"]
    width = struct.unpack(">I", found[16:20])[0]
    assert width == pytest.approx(COLUMN / 25.4 * 300, abs=2)
    place = found.index(b"pHYs") + 4
    per_metre, _, unit = struct.unpack(">IIB", found[place : place + 9])
    assert (unit, per_metre * 0.0254) == (1, pytest.approx(300, abs=0.1))


def objects(pdf):
    """The text of a PDF's objects, packed ones included."""
    packed = [
        zlib.decompressobj().decompress(body) for body in re.findall(rb"stream\r?\n(x.*?)endstream", pdf, re.DOTALL)
    ]
    return pdf + b"".join(packed)


def test_pdfs_have_their_width_and_embed_fonts_none_of_them_type_3(figures):
    for name in ("learning-rate", "parameters"):
        found = dict(files_of(figures[name], ["pdf"]))["pdf"]
        text = objects(found)
        assert b"/Type3" not in text
        fonts = re.findall(rb"/Subtype\s*/(Type0|Type1|TrueType|CIDFontType[02])\b", text)
        assert fonts.count(b"Type0") >= 1
        assert set(fonts) <= {b"Type0", b"CIDFontType0", b"CIDFontType2"}
        descriptors, files = (
            len(re.findall(rb"/Type\s*/FontDescriptor", text)),
            len(re.findall(rb"/FontFile[23]?\b", text)),
        )
        assert descriptors == files == fonts.count(b"Type0")
        box = re.search(rb"/MediaBox\s*\[0 0 ([\d.]+)", text)
        assert float(box[1]) <= TEXT * rendering.POINTS + 0.5
        if name == "learning-rate":
            assert float(box[1]) == pytest.approx(COLUMN * rendering.POINTS, abs=0.5)


def test_the_numbers_are_those_drawn(figures):
    for figure in figures.values():
        rows = list(csv.DictReader(io.StringIO(dict(files_of(figure, []))["csv"].decode())))
        assert len(rows) == len(figure.first.data)
        if "mean" in figure.first.data:
            drawn = [row["mean"] for rows in figure.first.spec["datasets"].values() for row in rows]
            assert [float(row["mean"]) for row in rows] == drawn
            assert "95 % low" in rows[0]
    head = dict(files_of(figures["activations"], []))["csv"].decode().splitlines()[0]
    assert head == "quantity,panel,norm,epoch,n,mean,95 % low,95 % high"


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", " =1", "\t=1"])
def test_no_cell_is_taken_for_a_formula(text):
    frame = pd.DataFrame({"panel": [text, "plain"], "mean": [-1.5, float("nan")], "n": [3, 4]})
    rows = list(csv.reader(io.StringIO(numbers(frame))))
    assert rows[1][0].startswith("'")
    assert rows[1][1:] == ["-1.5", "3"]
    assert rows[2] == ["plain", "", "4"]


def test_heads_of_two_lines_are_one_cell():
    assert (
        numbers(pd.DataFrame({"panel": ["lr 1\ndiverged: full 2 of 3"]})).splitlines()[1]
        == '"lr 1, diverged: full 2 of 3"'
    )


def test_the_words_say_what_is_picked(figures):
    text = dict(files_of(figures["loss"], []))["txt"].decode()
    title, caption, alternative = text.strip().split("\n\n")
    assert title == "Loss over epochs (scale log)"
    assert caption == figures["loss"].first.caption
    assert alternative == f"Alternative text: {figures['loss'].first.alt}"
    assert dict(files_of(figures["learning-rate"], []))["txt"].decode().startswith("Against the learning rate\n")


def test_texts_of_others_are_escaped_in_an_svg_file(figures):
    frame = pd.DataFrame({"panel": "</text><script>x</script>", "norm": "full", "epoch": [0, 1], "n": 1})
    frame = frame.assign(mean=[1.0, 2.0], low=[0.5, 1.0], high=[1.5, 3.0])
    spec = charts.to_spec(charts.curves(frame, Quantity(("loss",)), Grid(1, 200, 100)))
    for kind in ("svg", "png", "pdf"):
        assert b"<script" not in rendering.to_file(rendering.to_svg(spec), kind, COLUMN)
