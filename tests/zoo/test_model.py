"""The shipped folder is a stock `WanPipeline`, small, and generates clips of the right shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import f3core_zoo
import pytest
import torch
from diffusers import WanPipeline
from f3core_zoo import judge

PACKAGE = Path(f3core_zoo.__file__).parent
FOLDER = PACKAGE / "digits_wan"


@pytest.fixture(scope="module")
def pipeline() -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def call() -> dict[str, Any]:
    return json.loads((FOLDER / "f3core.json").read_text())["call"]


def test_weights_are_small() -> None:
    files = [*FOLDER.rglob("*.safetensors"), *PACKAGE.glob("*.safetensors")]
    assert len(files) == 4
    assert sum(file.stat().st_size for file in files) <= 10e6


def test_plain_pipeline_generates(pipeline: WanPipeline, call: dict[str, Any]) -> None:
    prompts = ["a red three moving left", "a blue seven moving up"]

    def generate() -> torch.Tensor:
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        return pipeline(prompts, generator=generators, output_type="pt", **{**call, "num_inference_steps": 4}).frames

    clips = generate()
    assert clips.shape == (2, 21, 3, 16, 16)
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert torch.equal(clips, generate())
    assert judge.as_clips(clips).shape == clips.shape


def test_plain_pipeline_follows_captions(pipeline: WanPipeline, call: dict[str, Any]) -> None:
    prompts = [
        "a red three moving left",
        "a blue seven moving up",
        "a green zero moving right",
        "a red one moving down",
    ]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    clips = pipeline(prompts, generator=generators, output_type="pt", **call).frames
    accuracy = judge.text_accuracy(clips, prompts)
    assert accuracy.colour >= 0.75
    assert accuracy.direction >= 0.75


def test_empty_prompt_is_one_token(pipeline: WanPipeline, call: dict[str, Any]) -> None:
    length = call["max_sequence_length"]
    embeds, empty = pipeline.encode_prompt(["a red three moving left"], max_sequence_length=length)
    assert embeds.shape == empty.shape == (1, 16, pipeline.transformer.config.text_dim)
    # Five words and the end mark; the rest is padding, zero as in training.
    assert torch.count_nonzero(embeds.abs().sum(2)) == 6
    assert torch.count_nonzero(empty.abs().sum(2)) == 1
