"""Digits to train on, and that the minis' own recipes fit them: what they predict is near their target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from f3core_zoo import captions, digits, judge
from f3core_zoo.digits_data import DigitsData
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.errors import ClipError, ModelError
from f3core.registry import installed

SIZE = (8, 16, 16)


@given(number=st.integers(0, 299), seed=st.integers(0, 3), fewer=st.integers(0, 200))
@settings(max_examples=20, deadline=None)
def test_a_clip_is_the_same_whoever_asks_and_of_how_many_it_is_one(number: int, seed: int, fewer: int) -> None:
    clip, caption = DigitsData(300, seed).clip(number, SIZE)
    assert clip.shape == (8, 3, 16, 16)
    again, same = DigitsData(number + 1 + fewer, seed).clip(number, SIZE)
    assert torch.equal(clip, again)
    assert caption == same == captions.prompts(number + 1, seed)[number]


def test_clips_show_what_their_captions_say() -> None:
    data = installed().make("data set", "zoo:digits", {"num_clips": 120})
    clips, said = zip(*(data.clip(number, (digits.FRAMES, 16, 16)) for number in range(120)), strict=True)
    assert sorted(said) == sorted(captions.PROMPTS)
    assert judge.text_accuracy(torch.stack(clips), said).all >= 0.95


def test_seeds_and_numbers_make_other_clips() -> None:
    clips = [data.clip(number, SIZE)[0] for data in (DigitsData(130, 0), DigitsData(130, 1)) for number in range(130)]
    assert len({clip.numpy().tobytes() for clip in clips}) == 260


def test_only_scans_of_the_training_split_are_shown() -> None:
    data = DigitsData(64, seed=5)
    clips, said = zip(*(data.clip(number, SIZE) for number in range(64)), strict=True)
    splits = {split: digits.render(said, seed=5 << 32, split=split, frames=8) for split in ("train", "held_out")}
    assert torch.equal(torch.stack(clips), splits["train"])
    assert not torch.equal(torch.stack(clips), splits["held_out"])


def test_impossible_numbers_and_sizes_are_refused() -> None:
    with pytest.raises(ModelError, match="num_clips must be at least 1"):
        DigitsData(0)
    with pytest.raises(ModelError, match="seed in 0 to"):
        DigitsData(seed=-1)
    with pytest.raises(ClipError, match="16 x 16 pixels, not 16 x 32"):
        DigitsData(1).clip(0, (8, 16, 32))
    with pytest.raises(ClipError, match="there is no clip 1: they are 0 to 0"):
        DigitsData(1).clip(1, SIZE)


@pytest.mark.parametrize(("source", "size"), [("zoo:digits-wan", (21, 16, 16)), ("zoo:digits-tune-a-video", SIZE)])
def test_a_mini_predicts_its_target_on_digits(source: str, size: tuple[int, int, int]) -> None:
    """Far better than the mean at middle levels, and better with the caption than without one at noisy ones."""
    registry = installed()
    folder = registry.entry("source", source).folder
    (name,) = (registry.denoiser_classes(folder) or {}).values()
    adapter = registry.match_adapter([name]).load()
    call = json.loads((Path(folder) / "f3core.json").read_text())["call"]
    pipeline = adapter.load(folder, dtype=None, device=torch.device("cpu"))
    recipe = adapter.recipe(pipeline, call)
    assert recipe.size == size
    data = registry.make("data set", "zoo:digits", {"num_clips": 8})
    clips, prompts = zip(*(data.clip(number, size) for number in range(8)), strict=True)
    latents = recipe.latents(torch.stack(clips))
    assert 0.8 < float(latents.std()) < 1.2
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    (denoiser,) = adapter.denoisers(pipeline).values()

    @torch.no_grad()
    def loss(uniform: float, asked: list[str]) -> float:
        """Mean squared error, in shares of the target's variance."""
        levels = recipe.levels(torch.full((8,), uniform))
        target = recipe.target(latents, noise, levels)
        noisy = recipe.noised(latents, noise, levels)
        predicted = recipe.predict(denoiser, noisy, levels, recipe.conditions(asked))
        return float((predicted - target).square().mean() / target.var())

    assert loss(0.5, list(prompts)) < 0.15
    assert loss(0.9, list(prompts)) < 0.8 * loss(0.9, [""] * 8)
