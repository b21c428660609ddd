"""The moving-digits world: captions say what clips show, and clips are the same every time."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from f3core_zoo import captions, digits


def test_every_caption_parses_back() -> None:
    assert len(set(captions.PROMPTS)) == 120
    assert [captions.parse(caption).caption for caption in captions.PROMPTS] == list(captions.PROMPTS)
    assert captions.parse("  A red  three moving LEFT ").caption == "a red three moving left"


@pytest.mark.parametrize("wrong", ["", "a red three", "a pink three moving left", "a red three moving left quickly"])
def test_other_text_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="not a moving-digits caption"):
        captions.parse(wrong)


@pytest.mark.parametrize("seed", range(5))
def test_prompts_are_balanced_and_do_not_repeat_early(seed: int) -> None:
    assert sorted(captions.prompts(120, seed)) == sorted(captions.PROMPTS)
    assert captions.prompts(300, seed)[:24] == captions.prompts(24, seed)
    for count in (10, 24, 48, 64):
        scenes = [captions.parse(caption) for caption in captions.prompts(count, seed)]
        for attribute, kinds in (("digit", 10), ("colour", 3), ("direction", 4)):
            seen = Counter(getattr(scene, attribute) for scene in scenes)
            assert len(seen) == kinds
            assert max(seen.values()) - min(seen.values()) <= 2


def test_prompts_depend_on_the_seed() -> None:
    assert captions.prompts(24, 1) != captions.prompts(24, 2)
    assert captions.prompts(0) == []
    with pytest.raises(ValueError, match="cannot choose"):
        captions.prompts(-1)


def test_rendering_is_deterministic() -> None:
    prompts = captions.prompts(8)
    clips = digits.render(prompts, seed=5)
    assert clips.shape == (8, 21, 3, 16, 16)
    assert clips.dtype == torch.float32
    assert clips.min() >= 0
    assert clips.max() <= 1
    assert torch.equal(clips, digits.render(prompts, seed=5))
    assert not torch.equal(clips, digits.render(prompts, seed=6))
    assert not torch.equal(clips, digits.render(prompts, seed=5, split="held_out"))
    assert torch.equal(digits.sample(4, 9)[0], digits.sample(4, 9)[0])
    assert digits.render([], seed=0).shape == (0, 21, 3, 16, 16)


def test_clips_move_and_shine_as_told() -> None:
    clips = digits.render(captions.PROMPTS, seed=0)
    light = clips.sum(2)
    places = torch.arange(16.0)
    down = (light.sum(3) * places).sum(2) / light.sum((2, 3))
    right = (light.sum(2) * places).sum(2) / light.sum((2, 3))
    moved = torch.stack([down[:, -1] - down[:, 0], right[:, -1] - right[:, 0]], dim=1)
    expected = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
    for scene, (vertical, horizontal), clip in zip(captions.SCENES, moved.tolist(), clips, strict=True):
        sign = expected[captions.DIRECTIONS[scene.direction]]
        along, across = (vertical, horizontal) if sign[0] else (horizontal, vertical)
        assert 5.9 <= along * sum(sign) <= 8.1
        assert abs(across) < 0.05
        assert clip.sum((0, 2, 3)).argmax() == scene.colour


def test_no_digit_image_is_in_both_splits() -> None:
    both = [
        {tuple(glyph.flatten().tolist()) for group in digits._glyphs(s) for glyph in group}
        for s in ("train", "held_out")
    ]
    assert len(both[0]) > 1400
    assert len(both[1]) > 350
    assert not both[0] & both[1]
