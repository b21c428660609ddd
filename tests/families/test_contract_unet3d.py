"""The ModelScope adapter under the contract, and what it refuses."""

from __future__ import annotations

import pytest
import tiny_unet3d
import torch
from f3core_diffusers.unet3d import UNet3DAdapter
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


def test_attention_that_is_no_linear_map_is_not_folded() -> None:
    adapter, unet = UNet3DAdapter(), tiny_unet3d.unet()
    unet.transformer_in.transformer_blocks[0].attn1.residual_connection = True
    plan = example_plan(adapter.name, adapter.sites(unet, "unet"), (AttentionKind.TEMPORAL, Removal.SELF_ONLY))
    with pytest.raises(PlanError, match="residual_connection"):
        apply_plan_(unet, plan, adapter, "unet")
