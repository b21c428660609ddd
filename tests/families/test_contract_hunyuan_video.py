"""The HunyuanVideo adapter under the contract: the text-to-video model, and one whose first frame is given."""

from __future__ import annotations

import pytest
import tiny_hunyuan_video
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


def test_guided_by_a_scale_and_a_negative_prompt_together() -> None:
    pipe, guided = tiny_hunyuan_video.pipeline(), {"true_cfg_scale": 3.0, "negative_prompt": ""}
    adapter = HunyuanVideoAdapter()
    assert adapter.branches(pipe, "transformer", guided) == (3.0, -2.0)
    for given in ({"true_cfg_scale": 3.0}, {"negative_prompt": ""}, {"guidance_scale": 6.0}):
        assert adapter.branches(pipe, "transformer", given) == (1.0,)
