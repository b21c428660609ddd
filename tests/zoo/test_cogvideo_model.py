"""The CogVideo mini: small, loads as a `CogVideoPipeline`, and draws what captions say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import f3core_zoo
import pytest
import torch
from f3core_cogvideo.pipeline import CogVideoPipeline
from f3core_zoo import digits, judge

FOLDER = Path(f3core_zoo.__file__).parent / "digits_cogvideo"


@pytest.fixture(scope="module")
def pipeline() -> CogVideoPipeline:
    return CogVideoPipeline.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    return json.loads((FOLDER / "f3core.json").read_text())["call"]


def test_weights_are_small_and_name_no_folder() -> None:
    files = list(FOLDER.rglob("*.safetensors"))
    assert len(files) == 2
    assert sum(file.stat().st_size for file in files) <= 8e6
    for path in FOLDER.rglob("*.json"):
        assert "_name_or_path" not in path.read_text()


def test_clips_repeat_and_do_not_depend_on_the_batch(pipeline: CogVideoPipeline, call: dict[str, Any]) -> None:
    prompts = ["a red three moving left", "a blue seven moving up"]
    clips = pipeline(prompts, seeds=[0, 1], **call)
    assert clips.shape == (2, 5, 3, 16, 16)
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert torch.equal(clips, pipeline(prompts, seeds=[0, 1], **call))
    torch.testing.assert_close(clips[1:], pipeline(prompts[1:], seeds=[1], **call))


def test_clips_follow_their_captions(pipeline: CogVideoPipeline, call: dict[str, Any]) -> None:
    prompts = digits.prompts(48, seed=0)
    clips = pipeline(prompts, seeds=range(1000, 1048), **call)
    accuracy = judge.text_accuracy(clips, prompts)
    assert accuracy.digit >= 0.85
    assert accuracy.colour >= 0.95
    assert accuracy.direction >= 0.95
