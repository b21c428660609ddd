"""The judge reads real clips well, and its two metrics behave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from f3core_zoo import captions, digits, judge
from f3core_zoo.plugins import Digits, FrechetVideo, JudgeFeatures, TextAccuracy

from f3core.evaluate import batches

PROMPTS = captions.prompts(360, seed=1)


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return digits.render(PROMPTS, seed=7, split="held_out")


def test_judge_reads_held_out_digits(real: torch.Tensor) -> None:
    accuracy = judge.text_accuracy(real, PROMPTS)
    assert accuracy.digit >= 0.95
    assert accuracy.colour >= 0.99
    assert accuracy.direction >= 0.99
    assert accuracy.all <= min(accuracy.digit, accuracy.colour, accuracy.direction)


@pytest.mark.parametrize("frames", [5, 8])
def test_clips_of_fewer_frames_are_read_at_the_worlds_pace(frames: int) -> None:
    prompts = PROMPTS[:240]
    short = digits.render(prompts, seed=7, split="held_out", frames=frames)
    accuracy = judge.text_accuracy(short, prompts)
    assert accuracy.digit >= 0.93
    assert accuracy.colour >= 0.99
    assert accuracy.direction >= 0.99
    held = judge.as_clips(torch.arange(float(frames)).view(1, -1, 1, 1, 1).expand(-1, -1, 3, 16, 16))[0, :, 0, 0, 0]
    assert held.tolist() == sorted(held.tolist())
    assert len(held) == digits.FRAMES
    assert set(held.tolist()) == set(range(frames))
    with pytest.raises(ValueError, match="expected clips"):
        judge.as_clips(short[:, :0])


def test_wrong_captions_score_low(real: torch.Tensor) -> None:
    # The next caption of the list shows another digit nine times in ten.
    accuracy = judge.text_accuracy(real[:120], [*PROMPTS[1:120], PROMPTS[0]])
    assert accuracy.digit < 0.2
    assert accuracy.all < 0.05


def test_reversed_clips_move_the_other_way(real: torch.Tensor) -> None:
    opposite = torch.tensor([1, 0, 3, 2])
    forwards, backwards = judge.verdicts(real[:60])[:, 2], judge.verdicts(real[:60].flip(1))[:, 2]
    assert (backwards == opposite[forwards]).float().mean() > 0.95


def test_channels_last_arrays_are_taken_too(real: torch.Tensor) -> None:
    last = np.moveaxis(real[:12].numpy(), 2, -1)
    assert torch.equal(judge.verdicts(last), judge.verdicts(real[:12]))
    with pytest.raises(ValueError, match="expected clips"):
        judge.as_clips(torch.zeros(2, 21, 3, 8, 8))


def test_frechet_of_a_set_with_itself_is_zero(real: torch.Tensor) -> None:
    features = judge.features(real[:100])
    assert judge.frechet(features, features) < 1e-6
    # Fewer clips than features: both covariances are singular.
    assert judge.frechet(features[:20], features[:20]) < 1e-6


def test_frechet_of_known_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    second = 2 * torch.randn(200_000, 3, generator=generator, dtype=torch.float64) + 1
    # |mean|^2 = 3; per axis (1 - 2)^2 = 1.
    assert judge.frechet(first, second) == pytest.approx(6.0, abs=0.1)
    assert judge.frechet(second, first) == pytest.approx(judge.frechet(first, second))


def test_frechet_video_grows_with_noise(real: torch.Tensor) -> None:
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
    distances = [judge.frechet_video((real + s * noise).clamp(0, 1), PROMPTS) for s in (0.0, 0.2, 0.4, 0.8)]
    assert distances == sorted(distances)
    assert distances[-1] > 4 * distances[0]
    shuffled = real[:, torch.randperm(21, generator=torch.Generator().manual_seed(0))]
    assert judge.frechet_video(shuffled, PROMPTS) > 2 * distances[0]


def test_metrics_want_one_prompt_per_clip(real: torch.Tensor) -> None:
    for measure in (judge.text_accuracy, judge.frechet_video):
        with pytest.raises(ValueError, match="one prompt per clip"):
            measure(real[:3], PROMPTS[:2])
        with pytest.raises(ValueError, match="one prompt per clip"):
            measure(real[:0], [])
    with pytest.raises(ValueError, match="two clips or more"):
        judge.frechet_video(real[:1], PROMPTS[:1])


def test_plugin_objects_give_named_figures(real: torch.Tensor) -> None:
    shown = batches(real[:24], PROMPTS[:24])
    figures = TextAccuracy().measure(shown)
    assert list(figures) == ["digit", "colour", "direction", "all"]
    assert list(FrechetVideo().measure(shown)) == ["frechet_video"]
    assert torch.equal(JudgeFeatures()(real[:5]), judge.features(real[:5]))
    assert Digits().prompts(5, 3) == captions.prompts(5, 3)
