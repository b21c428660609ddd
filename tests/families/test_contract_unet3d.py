"""The ModelScope adapter under the contract, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_unet3d
import torch
from diffusers import VideoToVideoSDPipeline
from f3core_diffusers.unet3d import UNet3DAdapter
from PIL import Image
from torch import nn

from f3core.contract import example_plan
from f3core.errors import PlanError
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_
from f3core.testing import AdapterContract


class TestUNet3D(AdapterContract):
    """As few blocks as show every kind of site, to be fast; `Whole` is a U-Net of two resolutions."""

    adapter = UNet3DAdapter()
    component = "unet"

    def build(self) -> nn.Module:
        blocks = {"down_block_types": ("CrossAttnDownBlock3D",), "up_block_types": ("UpBlock3D",)}
        return tiny_unet3d.unet(block_out_channels=(8,), **blocks)


class Whole(TestUNet3D):
    def build(self) -> nn.Module:
        return tiny_unet3d.unet(layers_per_block=2)


def test_a_whole_unet_says_where_its_attention_is() -> None:
    contract = Whole()
    contract.test_sites_exist_and_run_in_the_order_listed()
    contract.test_segments_cover_every_token_and_give_the_declared_kinds()
    contract.test_probe_equals_explicit_softmax(torch.float32)
    layers: dict[int, list[str]] = {}
    for site in contract.adapter.sites(contract.build(), "unet"):
        layers.setdefault(site.index, []).append(site.path.replace(".transformer_blocks.0", ""))
    assert len(layers) == 1 + 2 + 1 + 3
    assert layers[0] == ["transformer_in.attn1", "transformer_in.attn2"]
    assert layers[2] == [
        f"down_blocks.0.{name}.1.attn{i}" for name in ("attentions", "temp_attentions") for i in (1, 2)
    ]
    assert layers[3][0].startswith("mid_block.attentions.0")


def test_a_video_to_start_from_decides_size_and_steps(tmp_path: Path) -> None:
    parts = tiny_unet3d.pipeline().components
    VideoToVideoSDPipeline(**parts).save_pretrained(tmp_path / "model")
    frames = [Image.effect_noise((16, 8), 90).convert("RGB") for _ in range(5)]
    frames[0].save(tmp_path / "video.gif", save_all=True, append_images=frames[1:])
    call = {"video": str(tmp_path / "video.gif"), "strength": 0.6, "guidance_scale": 5.0}
    adapter = UNet3DAdapter()
    sketch = adapter.sketch(str(tmp_path / "model"), steps=4, call=call)
    pipe = adapter.load(str(tmp_path / "model"), dtype=None, device=torch.device("cpu"))
    seen = []
    pipe.unet.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((adapter.noise_level(args, kwargs), adapter.layout(_m, args, kwargs))),
        with_kwargs=True,
    )
    clips = adapter.generate(pipe, ["a cat", "a dog"], steps=4, seeds=[0, 1], call=call)
    assert clips.shape == (2, 5, 3, 8, 16)
    assert tuple(level for level, _ in seen) == 2 * sketch.levels
    planned = adapter.layout_of(sketch.denoisers["unet"], sketch.inputs["unet"]["forward"])
    assert seen[0][1] == replace(planned, batch=2)
    assert len(sketch.levels) == 2


def test_attention_that_is_no_linear_map_is_not_folded() -> None:
    adapter, unet = UNet3DAdapter(), tiny_unet3d.unet()
    unet.transformer_in.transformer_blocks[0].attn1.residual_connection = True
    plan = example_plan(adapter.name, adapter.sites(unet, "unet"), (AttentionKind.TEMPORAL, Removal.SELF_ONLY))
    with pytest.raises(PlanError, match="residual_connection"):
        apply_plan_(unet, plan, adapter, "unet")
