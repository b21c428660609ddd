"""YAML to plain values with places: nothing is constructed, every refusal points at its line and column."""

from __future__ import annotations

import string
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.yaml_source import Place, YamlProblem, read

words = st.text(string.ascii_letters + "_", min_size=1, max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(string.printable)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


@settings(deadline=None, max_examples=80)
@given(value=documents, flow=st.booleans())
def test_reads_whatever_yaml_can_write(value: Any, flow: bool) -> None:
    assert read(yaml.safe_dump({"x": value}, default_flow_style=flow)).value == {"x": value}


@settings(deadline=None, max_examples=60)
@given(st.lists(words, unique=True, min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 7))
def test_places_are_where_the_text_stands(names: list[str], blank: int, indent: int) -> None:
    lines = ["# note"] * blank + ["top:"] + [f"{' ' * (indent + 1)}'{name}': [a, 1]" for name in names]
    found = read("\n".join(lines))
    for i, name in enumerate(names):
        line = blank + 2 + i
        assert found.keys["top", name] == Place(line, indent + 2)
        assert found.places["top", name] == Place(line, lines[line - 1].index("[") + 1)
        assert found.places["top", name, 1] == Place(line, lines[line - 1].index("1]") + 1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2E5", 2e5), ("-1.e2", -100.0), ("1.5", 1.5), ("7", 7), ("e3", "e3"), ("cuda:1", "cuda:1")],
)
def test_numbers_as_people_write_them(text: str, value: object) -> None:
    read_value = read(f"a: {text}").value["a"]
    assert read_value == value
    assert type(read_value) is type(value)


def test_empty_text_is_no_value() -> None:
    assert read("").value is None
    assert read("# only a comment\n").value is None


REFUSED = {
    "object": ("a: 1\nb: !!python/object/apply:os.system ['false']", 2, 4, "tags and dates"),
    "name": ("a: !!python/name:os.system x", 1, 4, "tags and dates"),
    "tagged key": ("a: 1\n!!python/name:os.system b: 1", 2, 1, "tags and dates"),
    "own tag": ("a: !mine 3", 1, 4, "!mine"),
    "set": ("a: !!set {x}", 1, 4, "set: tags"),
    "binary": ("a: !!binary aGVsbG8=", 1, 4, "binary: tags"),
    "date": ("a:\n  - 2024-01-01", 2, 5, "timestamp: tags and dates"),
    "impossible date": ("a: 2024-99-99", 1, 4, "timestamp"),
    "date as key": ("2024-01-01: 3", 1, 1, "timestamp"),
    "merge": ("a: &x {b: 1}\nc:\n  <<: *x", 3, 3, "merge"),
    "map tag on a word": ("a: !!map word", 1, 4, "map: tags"),
    "str tag on a map": ("a: !!str {b: 1}", 1, 4, "str: tags"),
    "int that is none": ("a: !!int abc", 1, 4, "'abc' cannot be read as int"),
    "bool that is none": ("a: !!bool maybe", 1, 4, "cannot be read as bool"),
    "float that is none": ("a: !!float x", 1, 4, "cannot be read as float"),
    "digits without a number": ("a: 0x_", 1, 4, "cannot be read as int"),
    "five thousand digits": ("a: " + "9" * 5000, 1, 4, "cannot be read as int"),
    "duplicate": ("a: 1\nb: 2\na: 3", 3, 1, "duplicate key 'a'; first given on line 1"),
    "nested duplicate": ("m:\n  a: 1\n  'a': 1", 3, 3, "duplicate key 'a'; first given on line 2"),
    "duplicate in two spellings": ("1: x\n'1': y", 2, 1, "duplicate key '1'"),
    "list as key": ("? [a]\n: 1", 1, 3, "plain text"),
    "unclosed": ("a: [1,\nb: 2\n", 3, 1, "not valid YAML"),
    "tab": ("a:\n\tb: 1", 2, 1, "not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2", 2, 1, "not valid YAML"),
    "unknown alias": ("a: *b", 1, 4, "undefined alias"),
    "alias loop": ("a: &x [*x]", 1, 4, "nested too deeply"),
    "control character": ("a: 1\nbc: \x00d", 2, 5, "#x0000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_its_place(case: str) -> None:
    text, line, column, message = REFUSED[case]
    with pytest.raises(YamlProblem) as caught:
        read(text)
    assert (caught.value.place, message in caught.value.message) == (Place(line, column), True), caught.value


def test_tags_run_nothing(tmp_path: Any) -> None:
    witness = tmp_path / "witness"
    for verb in ("object/apply:os.mkdir", "object/new:os.mkdir"):
        with pytest.raises(YamlProblem):
            read(f"a: !!python/{verb} ['{witness}']")
    assert not witness.exists()


@pytest.mark.parametrize("depth", [52, 400, 3000])
def test_deep_nesting_is_refused_at_any_depth(depth: int) -> None:
    with pytest.raises(YamlProblem, match="too deeply"):
        read("[" * depth + "]" * depth)


def test_aliases_of_aliases_do_not_blow_up() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(YamlProblem, match="more than"):
        read("\n".join(lines))


@settings(deadline=None, max_examples=150)
@given(st.text(st.sampled_from("ab:-[]{}!&*#|>'\"%@`,? \n\t01.e~<="), max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read(text)
    except YamlProblem as problem:
        place = problem.place
        breaks = sum(text.count(c) for c in "\n\r\x85\u2028\u2029")
    else:
        _assert_plain(found.value)
        return
    assert 1 <= place.line <= breaks + 1
    assert 1 <= place.column <= len(text) + 1


def _assert_plain(value: object) -> None:
    assert type(value) in (dict, list, str, int, float, bool, type(None))
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _assert_plain(inner)
