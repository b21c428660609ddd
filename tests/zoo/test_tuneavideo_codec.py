"""The codec of the Tune-A-Video mini keeps what a frame shows, and its latents are standardised."""

from __future__ import annotations

from pathlib import Path

import f3core_zoo
import pytest
import torch
from diffusers import AutoencoderKL
from f3core_zoo import digits, judge
from f3core_zoo.train.tuneavideo import vae


@pytest.fixture(scope="module")
def codec() -> AutoencoderKL:
    folder = Path(f3core_zoo.__file__).parent / "digits_tuneavideo" / "vae"
    return AutoencoderKL.from_pretrained(folder).float().eval()


def test_held_out_frames_are_rebuilt(codec: AutoencoderKL) -> None:
    clips, _ = digits.sample(64, 5, split="held_out", frames=vae.FRAMES)
    rebuilt = vae.decode(codec, vae.encode(codec, clips))
    error = (rebuilt - clips).square().mean().item()
    assert vae.psnr(4 * error) >= 30  # of values in [-1, 1]


def test_rebuilt_clips_show_what_they_showed(codec: AutoencoderKL) -> None:
    prompts = digits.prompts(120, seed=0)
    clips = digits.render(prompts, seed=6, split="held_out", frames=vae.FRAMES)
    rebuilt = judge.text_accuracy(vae.decode(codec, vae.encode(codec, clips)), prompts)
    real = judge.text_accuracy(clips, prompts)
    assert rebuilt.digit >= real.digit - 0.03
    assert rebuilt.colour >= 0.99
    assert rebuilt.direction >= 0.99


def test_latents_are_standardised(codec: AutoencoderKL) -> None:
    latents = vae.encode(codec, digits.sample(128, 7, frames=vae.FRAMES)[0])
    assert latents.shape == (128, 4, 8, 8, 8)
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(4), atol=0.1, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(4), atol=0.1, rtol=0)
