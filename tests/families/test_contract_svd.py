"""The Stable Video Diffusion adapter under the contract, its size, and its guidance, which grows over the frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_svd
from f3core_diffusers.svd import SVDAdapter
from torch import nn

from f3core.contract_facts import FactsContract
from f3core.sites import FORWARD, AttentionKind
from f3core.testing import AdapterContract

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL


class TestSVD(AdapterContract):
    """Levels as a generation has them, below zero at its end."""

    adapter = SVDAdapter()
    component = "unet"
    levels = (1.625, 0.75, -0.25, -1.5)

    def build(self) -> nn.Module:
        return tiny_svd.unet(
            down_block_types=("CrossAttnDownBlockSpatioTemporal",),
            up_block_types=("CrossAttnUpBlockSpatioTemporal",),
            block_out_channels=(32,),
            num_attention_heads=(2,),
        )


class TestSVDDeeper(FactsContract):
    """Blocks of fewer tokens, and one token of an image, as in its pipeline."""

    adapter = SVDAdapter()
    component = "unet"
    text = None

    def build(self) -> nn.Module:
        return tiny_svd.unet()


def test_published_models_have_their_size() -> None:
    models = SVDAdapter().published()
    assert len(models) == 2
    for published in models:
        unet = published.sketch().denoisers["unet"]
        assert sum(tensor.numel() for tensor in unet.parameters()) == 1_524_623_082


def test_blocks_over_frames_attend_to_frames_then_to_the_image() -> None:
    sites = SVDAdapter().sites(tiny_svd.unet(), "unet")
    layer = [(site.path, site.kinds) for site in sites if site.index == 0]
    first = "down_blocks.0.attentions.0"
    assert layer == [
        (f"{first}.transformer_blocks.0.attn1", (SA,)),
        (f"{first}.transformer_blocks.0.attn2", (CA,)),
        (f"{first}.temporal_transformer_blocks.0.attn1", (SA, TA)),
        (f"{first}.temporal_transformer_blocks.0.attn2", (CA,)),
    ]


@pytest.mark.parametrize(
    ("call", "weights"),
    [
        ({}, (-1.0, 2.0)),
        ({"min_guidance_scale": 2.0, "max_guidance_scale": 4.0}, (-2.0, 3.0)),
        ({"max_guidance_scale": 1.0}, (1.0,)),
    ],
)
def test_guidance_weighs_as_in_the_middle_of_the_clip(call: dict[str, float], weights: tuple[float, ...]) -> None:
    pipe = tiny_svd.pipeline()
    assert SVDAdapter().branches(pipe, "unet", call) == weights


def test_noise_levels_of_a_generation_fall_below_zero() -> None:
    adapter, pipe = SVDAdapter(), tiny_svd.pipeline()
    levels = adapter.levels(pipe.scheduler, 5, {}, (3, 4, 8))
    assert list(levels) == sorted(levels, reverse=True)
    assert levels[0] > 1.6
    assert levels[-1] < -1.5
    assert [adapter.noise_level((None, t), {}) for t in pipe.scheduler.timesteps] == list(levels)


def test_sizes_that_a_call_leaves_out_are_the_models_own(tmp_path: Path) -> None:
    tiny_svd.pipeline().save_pretrained(tmp_path)
    sketch = SVDAdapter().sketch(str(tmp_path), steps=2, call={"height": 8, "width": 16})
    assert sketch.inputs["unet"][FORWARD]["sample"].shape == (1, 3, 8, 4, 8)
    assert sketch.inputs["unet"][FORWARD]["encoder_hidden_states"].shape == (1, 1, 8)
    assert sketch.rows["unet"][FORWARD] == (2, 2)
    assert SVDAdapter().sketch(str(tmp_path), steps=2, call={"max_guidance_scale": 1.0}).rows["unet"][FORWARD] == (1, 1)
