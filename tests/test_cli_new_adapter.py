"""``f3core new-adapter`` as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")

LTX = ("--model-class", "diffusers.LTXVideoTransformer3DModel", "--config", "num_layers=2")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(text: str) -> str:
    """Text without the line breaks of a terminal."""
    return " ".join(text.split())


def test_a_package_is_written_and_told(f3core_cli: Any, elsewhere: Path) -> None:
    code, out, _ = f3core_cli("new-adapter", "my-model", *LTX)
    assert code == 0
    folder = elsewhere / "f3core-my-model"
    assert [each.name for each in elsewhere.iterdir()] == [folder.name]
    assert (folder / "f3core_my_model" / "adapter.py").is_file()
    said = words(out)
    assert "transformer_blocks.*.attn1 (2 modules): SA+TA" in said
    assert "adapter 'ltx' takes LTXVideoTransformer3DModel already; specs must name the one they mean" in said
    assert "Nothing is left to decide. Next, with its contract saying what is wrong or missing:" in said
    assert "pip install -e f3core-my-model pytest f3core-my-model" in said
    lines = (folder / "f3core_my_model" / "adapter.py").read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "# CHECK: norm1" in line)
    assert f"f3core_my_model/adapter.py:{number}: norm1 is read by attn1 alone" in said


def test_what_is_left_to_decide_is_told_with_its_line(f3core_cli: Any, elsewhere: Path) -> None:
    code, out, _ = f3core_cli("new-adapter", "nested", "--model-class", "plain_dit.Nested", "-o", "there/it", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["name"], found["package"], found["model"]) == ("nested", "f3core_nested", "plain_dit.Nested")
    assert found["sites"] == {"stages.*.*": ["SA", "TA"]}
    (open_site,) = (each for each in found["decide"] if "stages.*.*" in each["text"])
    lines = (elsewhere / "there" / "it" / open_site["file"]).read_text().splitlines()
    assert "# DECIDE: stages.*.*" in lines[open_site["line"] - 1]


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (("My-Model", *LTX), 2, "NAME 'My-Model': write it in small letters and digits"),
        (("ltx", *LTX), 2, "NAME 'ltx': plugin 'diffusers' registers an adapter of this name; take another"),
        (("mine", "--model-class", "no_such_package.Model"), 1, "no_such_package cannot be imported"),
        (("mine", "--model-class", "diffusers.LTXPipeline"), 1, "give the class of the denoiser itself"),
        (("mine", "--model-class", "plain_dit.NoAttention"), 1, "never called torch.nn.functional.scaled_dot"),
        (("mine", "--model-class", "plain_dit.TextAlone"), 1, "no attention of frames was seen, so there is nothing"),
        (("mine", *LTX, "--config", "layers=3"), 2, "--config layers: LTXVideoTransformer3DModel has no such argument"),
    ],
)
def test_what_goes_wrong_is_said_and_nothing_is_written(
    f3core_cli: Any, elsewhere: Path, typed: tuple[str, ...], code: int, said: str
) -> None:
    found, out, err = f3core_cli("new-adapter", *typed)
    assert (found, said in err) == (code, True), err
    assert "Traceback" not in out + err
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_exists_is_left_as_it_is(f3core_cli: Any, elsewhere: Path) -> None:
    (elsewhere / "f3core-mine").mkdir()
    code, _, err = f3core_cli("new-adapter", "mine", *LTX)
    assert code == 2
    assert "f3core-mine exists; give another folder by --output, or remove it" in err
    assert list((elsewhere / "f3core-mine").iterdir()) == []
