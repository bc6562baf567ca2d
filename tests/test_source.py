"""YAML that means what it shows, and positions of everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnexp import source
from bnexp.errors import SpecError


def parse(text):
    return source.parse(text, "a.yaml").data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1_000", "1_000"),
        ("010", 10),
        ("0o10", 8),
        ("0x1f", 31),
        ("12:30", "12:30"),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("true", True),
        ("null", None),
        ("~", None),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("2001-01-01", "2001-01-01"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("=", "="),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, 1, "second time"),
        ("a: &x 1", 1, 4, "anchors"),
        ("a: 1\nb: *x", 2, 4, "aliases"),
        ("a: !!python/object:os.system {}", 1, 4, "tags"),
        ("a: !!int 3", 1, 4, "tags"),
        ("<<: {a: 1}", 1, 1, "merge"),
        ("a: 1\n---\nb: 2", 2, 1, "second document"),
        ("[a]: 1", 1, 1, "plain word"),
        ("a: [1, 2", 1, 9, "not valid YAML"),
        ("a:\n\t- 1", 2, 1, "not valid YAML"),
        ("a: " + "[" * 30, 1, 23, "deeper"),
        ("a: " + "9" * 1000, 1, 4, "digits"),
        ("a: b\x07", 1, 1, "does not allow"),
    ],
)
def test_what_surprises_is_an_error_with_its_place(text, line, column, words):
    with pytest.raises(SpecError) as caught:
        parse(text)
    problem = caught.value.problems[0]
    assert problem.where == f"a.yaml:{line}:{column}"
    assert words in problem.message


def test_several_duplicates_come_at_once():
    with pytest.raises(SpecError) as caught:
        parse("a: 1\na: 2\nb: 1\nb: 2")
    assert len(caught.value.problems) == 2


def test_a_caret_stands_under_the_place():
    with pytest.raises(SpecError) as caught:
        parse("model:\n  norm: &n full")
    assert str(caught.value).splitlines()[1:] == ["      norm: &n full", "            ^"]


def test_files_that_are_no_specs(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xff")
    (tmp_path / "large.yaml").write_bytes(b"#" * 300_000)
    for name, words in {
        "missing.yaml": "no such file",
        ".": "not a regular file",
        "latin.yaml": "UTF-8",
        "large.yaml": "larger",
    }.items():
        with pytest.raises(SpecError, match=words):
            source.read_file(tmp_path / name)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cn")), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz_", min_size=1, max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.text("abcxyz_", min_size=1, max_size=6), PLAIN, max_size=4))
def test_what_is_written_is_read_back(data):
    assert parse(source.dump(data)) == data if data else parse(source.dump(data)) in ({}, None)
