"""`TuneAVideoPipeline`: shapes, rows that do not depend on each other, guidance, and DDIM inversion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from f3core_tuneavideo import TuneAVideoPipeline
from tiny_tuneavideo import CALL, SCHEDULE, pipeline
from torch import Tensor


@pytest.fixture(scope="module")
def pipe() -> TuneAVideoPipeline:
    return pipeline()


def generate(pipe: TuneAVideoPipeline, *seeds: int, **changes: Any) -> Tensor:
    generators = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
    prompts = ["a red cat runs", "a dog"][: len(seeds)]
    call = {**CALL, "num_inference_steps": 3, "output_type": "pt", "prompt": prompts, "generator": generators}
    return pipe(**{**call, **changes}).frames


def test_makes_clips_of_the_size_asked_for(pipe: TuneAVideoPipeline) -> None:
    frames = generate(pipe, 1, 2)
    assert frames.shape == (2, 3, 3, 8, 12)
    assert 0 <= frames.min() < frames.max() <= 1
    assert generate(pipe, 1, output_type="np").shape == (1, 3, 8, 12, 3)
    assert generate(pipe, 1, output_type="latent").shape == (1, 4, 3, 4, 6)
    (clip,) = pipe("a dog", 2, num_inference_steps=1, return_dict=False)[0]
    assert [picture.size for picture in clip] == [(8, 8)] * 2


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_row_is_decided_by_its_own_prompt_and_generator(pipe: TuneAVideoPipeline, eta: float) -> None:
    both, alone = generate(pipe, 1, 2, eta=eta), generate(pipe, 1, eta=eta)
    assert (both[:1] - alone).abs().max() <= 1e-5
    assert (both[0] - both[1]).abs().max() > 1e-3


def test_guidance_is_off_at_one_and_runs_both_branches_in_one_forward(pipe: TuneAVideoPipeline) -> None:
    rows: list[tuple[int, Tensor]] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _m, args: rows.append((len(args[0]), args[2])))
    try:
        plain = generate(pipe, 1, guidance_scale=1.0)
        guided = generate(pipe, 1)
        negative = generate(pipe, 1, negative_prompt="a dog")
    finally:
        hook.remove()
    assert [number for number, _ in rows] == [1] * 3 + [2] * 6
    assert torch.equal(rows[3][1][1:], rows[0][1])  # the prompt's branch is the second
    assert len({float(clip.sum()) for clip in (plain, guided, negative)}) == 3


def test_given_latents_take_the_place_of_noise(pipe: TuneAVideoPipeline) -> None:
    noise = torch.randn(1, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(generate(pipe, 9, latents=noise), generate(pipe, 1))
    assert generate(pipe, 1, 2, latents=noise).shape[0] == 2


def clip() -> Tensor:
    """[1, 3, 3, 8, 12]: a ramp that moves."""
    ramp = torch.linspace(0, 1, 12).expand(3, 8, 12)
    return torch.stack([ramp.roll(2 * i, -1) for i in range(3)])[None]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sampling_from_an_inverted_clip_gives_it_back(spacing: str, prediction: str) -> None:
    """To 0.02 at 100 steps, of latents up to 0.12; the error falls with the size of a step."""
    pipe = pipeline()
    pipe.scheduler = DDIMScheduler(**SCHEDULE | {"timestep_spacing": spacing, "prediction_type": prediction})
    with torch.no_grad():
        for parameter in pipe.unet.conv_out.parameters():
            parameter.mul_(0.2)  # a random U-Net is rougher than a trained one
        encoded = pipe.vae.encode(2 * clip()[0] - 1).latent_dist.mode().transpose(0, 1)[None]
    encoded = encoded * pipe.vae.config.scaling_factor
    off = {}
    for steps in (10, 100):
        call = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "latent"}
        off[steps] = float((pipe("", video=clip(), **call).frames - encoded).abs().max())
    assert off[100] <= min(0.02, off[10] / 4)


def test_mistakes_are_named(pipe: TuneAVideoPipeline) -> None:
    with pytest.raises(ValueError, match="multiples of 2"):
        generate(pipe, 1, height=9)
    with pytest.raises(ValueError, match="1 generators for 2 prompts"):
        generate(pipe, 1, prompt=["a", "b"])
    with pytest.raises(ValueError, match="3 negative prompts for 1"):
        generate(pipe, 1, negative_prompt=["a"] * 3)
    with pytest.raises(ValueError, match="latents of 3 clips"):
        generate(pipe, 1, 2, latents=torch.zeros(3, 4, 3, 4, 6))
    with pytest.raises(ValueError, match="not both"):
        generate(pipe, 1, latents=torch.zeros(1, 4, 3, 4, 6), video=clip())
