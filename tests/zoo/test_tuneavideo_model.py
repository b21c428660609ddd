"""The shipped Tune-A-Video mini is small, loads from its folder, and draws what captions say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import f3core_zoo
import pytest
import torch
from f3core_tuneavideo import TuneAVideoPipeline, load_pipeline
from f3core_zoo import digits, judge
from f3core_zoo.train.tuneavideo.evaluate import generate

FOLDER = Path(f3core_zoo.__file__).parent / "digits_tuneavideo"


@pytest.fixture(scope="module")
def pipeline() -> TuneAVideoPipeline:
    pipeline = load_pipeline(str(FOLDER))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    return json.loads((FOLDER / "f3core.json").read_text())["call"]


def _generate(pipeline: TuneAVideoPipeline, prompts: list[str], **call: Any) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    return pipeline(prompts, generator=generators, output_type="pt", **call).frames


def test_weights_are_small() -> None:
    files = list(FOLDER.rglob("*.safetensors"))
    assert len(files) == 3
    assert sum(file.stat().st_size for file in files) <= 8e6


def test_folder_names_no_place_on_a_machine(call: dict[str, Any]) -> None:
    assert "num_inference_steps" not in call
    for path in FOLDER.rglob("*.json"):
        assert "_name_or_path" not in path.read_text()


def test_generates_the_same_clips_again(pipeline: TuneAVideoPipeline, call: dict[str, Any]) -> None:
    prompts = ["a red three moving left", "a blue seven moving up"]
    clips = _generate(pipeline, prompts, num_inference_steps=3, **call)
    assert clips.shape == (2, 8, 3, 16, 16)
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert torch.equal(clips, _generate(pipeline, prompts, num_inference_steps=3, **call))


@pytest.mark.slow
def test_follows_captions(pipeline: TuneAVideoPipeline, call: dict[str, Any]) -> None:
    prompts = digits.prompts(32, seed=0)
    clips = generate(pipeline, prompts, num_inference_steps=10, **call)
    seen = judge.text_accuracy(clips, prompts)
    assert seen.digit >= 0.8
    assert seen.colour >= 0.9
    assert seen.direction >= 0.8
