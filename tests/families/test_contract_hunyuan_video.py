"""The HunyuanVideo adapter under the contract: the text-to-video model, and one whose first frame is given."""

from __future__ import annotations

import pytest
import tiny_hunyuan_video
import torch
from f3core_diffusers.hunyuan_video import HunyuanVideoAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestHunyuanVideo(AdapterContract):
    adapter = HunyuanVideoAdapter()

    def build(self) -> nn.Module:
        return tiny_hunyuan_video.transformer()


@pytest.mark.slow
class TestHunyuanVideoTokenReplace(AdapterContract):
    adapter = HunyuanVideoAdapter()

    def build(self) -> nn.Module:
        return tiny_hunyuan_video.transformer(image_condition_type="token_replace", guidance_embeds=False)


def test_a_negative_prompt_is_that_of_every_clip() -> None:
    adapter, pipe = HunyuanVideoAdapter(), tiny_hunyuan_video.pipeline()
    pipe.set_progress_bar_config(disable=True)

    def clips(prompts: list[str], seeds: list[int]) -> torch.Tensor:
        return adapter.generate(pipe, prompts, steps=1, seeds=seeds, call=tiny_hunyuan_video.CALL)

    both = clips(["a cat", "a red dog"], [1, 2])
    assert torch.allclose(both[1:], clips(["a red dog"], [2]), atol=1e-4)


def test_guided_by_a_scale_and_a_negative_prompt_together() -> None:
    pipe, guided = tiny_hunyuan_video.pipeline(), {"true_cfg_scale": 3.0, "negative_prompt": ""}
    adapter = HunyuanVideoAdapter()
    assert adapter.branches(pipe, "transformer", guided) == (3.0, -2.0)
    for given in ({"true_cfg_scale": 3.0}, {"negative_prompt": ""}, {"guidance_scale": 6.0}):
        assert adapter.branches(pipe, "transformer", given) == (1.0,)
