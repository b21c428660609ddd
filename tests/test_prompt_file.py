"""Prompt files of three kinds say the same, and what is wrong with them points at its line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f3core.errors import SpecError
from f3core.job import resolve
from f3core.prompt_file import read_prompts, rows
from f3core.registry import Registry
from f3core.spec import parse_spec

PROMPTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1), min_size=1)


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@given(PROMPTS.map(lambda found: [text.strip() for text in found if text.strip()]).filter(bool), st.integers(0, 2))
def test_any_prompt_comes_back(tmp_path_factory: pytest.TempPathFactory, prompts: list[str], place: int) -> None:
    folder = tmp_path_factory.mktemp("p")
    column = ("prompt", "caption", "text")[place]
    with (folder / "p.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", column], *([i, text] for i, text in enumerate(prompts))])
    lines = [json.dumps(text if i % 2 else {column: text, "id": i}) for i, text in enumerate(prompts)]
    written(folder, "p.jsonl", "\n".join(lines))
    assert read_prompts(folder / "p.jsonl") == prompts
    if not any("\r" in text or "\n" in text for text in prompts):  # csv changes what ends lines within values
        assert read_prompts(folder / "p.csv") == prompts


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("p.txt", "\ufeffa cat\n\n  a dog, running \r\n", ["a cat", "a dog, running"]),
        ("p.md", "prompt,text\n", ["prompt,text"]),
        ("p.csv", '\ufeffid, Prompt\n1,a cat\n\n2," a dog, \nrunning "\n', ["a cat", "a dog, \nrunning"]),
        ("p.csv", "sentence\na cat\na dog\n", ["a cat", "a dog"]),
        ("p.CSV", "text,caption\nno,yes\n", ["yes"]),
        ("p.csv", "caption,prompt\r\nno,yes\r\n", ["yes"]),
        ("p.jsonl", '"a cat"\n\n{"caption": " a dog ", "seed": 3}\n', ["a cat", "a dog"]),
        ("p.jsonl", '"a\u2028cat"', ["a\u2028cat"]),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, text: str, expected: list[str]) -> None:
    assert read_prompts(written(tmp_path, name, text)) == expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", " \n", r"p\.txt holds no prompt; write one a line$"),
        ("p.csv", "prompt\n", r"p\.csv holds no prompt"),
        ("p.jsonl", "", r"p\.jsonl holds no prompt"),
        ("p.txt", b"\xff\xfe", r"p\.txt: cannot be read as text"),
        ("p.csv", "prompt\na cat, running\n", r"p\.csv:2: 2 values for 1 columns \(prompt\); put text with commas"),
        ("p.csv", "id,name\n\n1,a\n", r"p\.csv:3: holds no prompt, caption or text; there is: id, name"),
        ("p.csv", "id,prompt\n1,a\n2,\n", r"p\.csv:3: the prompt is empty"),
        ("p.csv", 'prompt\n"a\nb"\n"c" d\n', r"p\.csv:4: not CSV: "),
        ("p.csv", "prompt,Prompt\na,b\n", r"p\.csv:1: a column is named twice"),
        ("p.jsonl", '"a"\n{"prompt": "b"\n', r"p\.jsonl:2: not JSON: "),
        ("p.jsonl", '"a"\n\n3\n', r"p\.jsonl:3: must be a JSON string or object"),
        ("p.jsonl", '{"prompt": 3, "seed": "x"}', r"p\.jsonl:1: holds no prompt, caption or text; there is: seed"),
        ("p.jsonl", '"a"\n" "', r"p\.jsonl:2: the prompt is empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, name: str, text: str | bytes, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        read_prompts(written(tmp_path, name, text))


def test_rows_are_numbered_as_in_an_editor(tmp_path: Path) -> None:
    path = written(tmp_path, "c.csv", 'file,caption\n"a","one\ntwo"\n\nb,three\n')
    assert [(line, dict(row)) for line, row in rows(path) if not isinstance(row, str)] == [
        (2, {"file": "a", "caption": "one\ntwo"}),
        (5, {"file": "b", "caption": "three"}),
    ]


def test_a_spec_takes_them(tmp_path: Path) -> None:
    def spec(path: Path) -> str:
        return f"version: 1\nmodel: {{source: a/b}}\ncalibrate: {{prompts: {path}}}\nprune: {{method: f3}}\noutput: o"

    registry = Registry()
    for name, text in (("p.csv", "id,prompt\n1,a cat\n2,a dog\n"), ("p.jsonl", '"a cat"\n"a dog"')):
        file = parse_spec(spec(written(tmp_path, name, text)), "s.yaml")
        with pytest.raises(SpecError) as caught:
            resolve(file, registry)  # without plugins, no method and criterion is known; the prompts are fine
        assert len(caught.value.problems) == 2
        assert not any("prompts" in problem or name in problem for problem in caught.value.problems)
    path = written(tmp_path, "bad.jsonl", '"a cat"\n[]')
    with pytest.raises(SpecError) as caught:
        resolve(parse_spec(spec(path), "s.yaml"), registry)
    assert f"s.yaml:3:13: {path}:2: must be a JSON string or object" in caught.value.problems
