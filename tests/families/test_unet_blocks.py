"""Blocks of diffusers' video U-Nets: any that can go, alone and together, and what is left of the published sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import tiny_animatediff
import tiny_i2vgen_xl
import tiny_svd
import tiny_unet3d
import torch
import unet_pruning as cut
from diffusers import UNet3DConditionModel, UNetMotionModel, UNetSpatioTemporalConditionModel
from f3core_diffusers.animatediff import AnimateDiffAdapter
from f3core_diffusers.i2vgen_xl import I2VGenXLAdapter
from f3core_diffusers.svd import SVDAdapter
from f3core_diffusers.unet3d import UNet3DAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from f3core.adapter import Adapter
from f3core.block import Block
from f3core.errors import PlanError
from f3core.meta import meta_copy, on_meta
from f3core.skipping import Skip
from f3core.surgery import Pruned

INNERMOST = {
    *(f"down_blocks.2.pairs.{i}" for i in range(2)),
    *(f"up_blocks.0.pairs.{i}" for i in range(3)),
    "mid_block",
    "samplers",
}
SECOND = {"down_blocks.0.pairs.1", "up_blocks.2.pairs.1"}
EVERY_SECOND = {
    *(f"down_blocks.{i}.pairs.1" for i in range(3)),
    *(f"up_blocks.{i}.pairs.1" for i in range(3)),
}


@dataclass(frozen=True)
class Family:
    """A tiny U-Net of three levels, the widths of the inner two alike, that runs sizes which do not halve evenly."""

    adapter: Adapter
    make: Callable[..., nn.Module]
    width: int = 8

    @cached_property
    def denoiser(self) -> nn.Module:
        torch.manual_seed(1)
        usual = inspect.signature(type(self.make())).parameters
        types = {
            "down_block_types": usual["down_block_types"].default[1:],
            "up_block_types": usual["up_block_types"].default[:3],
        }
        heads = {"num_attention_heads": (2, 4, 4)} if self.width > 8 else {}
        made = self.make(
            block_out_channels=(self.width, 2 * self.width, 2 * self.width), layers_per_block=2, **types, **heads
        )
        for parameter in made.parameters():  # the last of some modules' layers start as zeros
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
        return made

    @cached_property
    def blocks(self) -> list[Block]:
        return self.adapter.blocks(self.denoiser, "unet")

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        torch.manual_seed(2)
        return self.adapter.example_inputs(self.denoiser, frames=2, height=6, width=5, text=3)


SVD = Family(SVDAdapter(), tiny_svd.unet, 32)
UNET3D = Family(UNet3DAdapter(), tiny_unet3d.unet)
MOTION = Family(AnimateDiffAdapter(), tiny_animatediff.unet)
I2VGEN = Family(I2VGenXLAdapter(), tiny_i2vgen_xl.unet)
FAMILIES = {"svd": SVD, "unet3d": UNET3D, "animatediff": MOTION, "i2vgen-xl": I2VGEN}
EACH = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
BY_LEVEL = pytest.mark.parametrize("family", [SVD, MOTION], ids=["svd", "animatediff"])
"""whose configs have the pairs of each level"""


def check(family: Family, gone: set[str]) -> Any:
    left = cut.check_pruned(family.adapter, family.denoiser, family.inputs, gone)
    assert left.num_upsamplers == len(left.up_blocks) - 1
    if hasattr(left.up_blocks[0], "resolution_idx"):
        assert [stage.resolution_idx for stage in left.up_blocks] == list(range(len(left.up_blocks)))
    return left


@EACH
def test_pairs_that_change_the_width_cannot_go(family: Family) -> None:
    fixed = {block.path: block.fixed for block in family.blocks if block.fixed}
    narrow, wide = family.width, 2 * family.width
    assert fixed == {
        "down_blocks.1.pairs.0": f"it changes the width from {narrow} to {wide}",
        "up_blocks.2.pairs.0": f"it changes the width from {wide} to {narrow}",
    }
    with pytest.raises(PlanError, match=f"unet.up_blocks.2.pairs.0 cannot go: {fixed['up_blocks.2.pairs.0']}"):
        cut.pruned(family.adapter, family.denoiser, {"up_blocks.2.pairs.0"})
    with pytest.raises(PlanError, match=r"unet.samplers can only go together with down_blocks.2.pairs.0, down_bl"):
        cut.pruned(family.adapter, family.denoiser, {"samplers"})


ALONE = ("down_blocks.0.pairs.0", "mid_block", "up_blocks.0.pairs.2")
"""one of each kind; the contract takes out all"""


@EACH
def test_a_block_can_go_alone(family: Family) -> None:
    """It stays skipped, as nothing balances it."""
    for block in family.blocks:
        if block.path in ALONE:
            left = check(family, {block.path})
            assert isinstance(left, Pruned)
            assert len([m for m in left.modules() if isinstance(m, Skip)]) == len(block.parts)


@EACH
@given(st.data())
@settings(max_examples=3, deadline=None)
def test_any_blocks_can_go_together(family: Family, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from([block.path for block in family.blocks]), min_size=4))
    gone = cut.drawn(family.blocks, chosen)
    if gone:
        check(family, gone)


@EACH
def test_the_innermost_level_leaves_whole(family: Family) -> None:
    left = check(family, INNERMOST | SECOND)
    assert cut.pairs_left(left) == [[1, 2], [2, 3]]
    assert [path for path, module in left.named_modules() if isinstance(module, Skip)] == ["mid_block"]
    assert len(family.adapter.sites(left, "unet")) < len(family.adapter.sites(family.denoiser, "unet"))
    names = [block.path for block in family.adapter.blocks(left, "unet")]
    assert "mid_block" not in names
    assert max(block.level for block in family.adapter.blocks(left, "unet")) == 1


@pytest.mark.parametrize("family", [UNET3D, MOTION], ids=["unet3d", "animatediff"])
def test_an_up_block_is_never_emptied(family: Family) -> None:
    """As diffusers cuts as many skips off the pile as an up block has pairs, of which 0 are all."""
    left = check(family, INNERMOST - {"samplers"})
    assert len(left.up_blocks[0].resnets) == 3


@EACH
def test_second_pairs_of_all_levels_leave_a_smaller_stock_model(family: Family) -> None:
    left = check(family, EVERY_SECOND)
    assert type(left) is type(family.denoiser)
    assert left.config.layers_per_block == 1
    second, third = left.up_blocks[1].resnets[1], family.denoiser.get_submodule("up_blocks.1.resnets.2")
    assert all(a is b for a, b in zip(second.parameters(), third.parameters(), strict=True))


@BY_LEVEL
def test_second_pairs_of_some_levels_leave_a_smaller_stock_model(family: Family) -> None:
    left = check(family, SECOND)
    assert type(left) is type(family.denoiser)
    assert left.config.layers_per_block == [1, 2, 2]


@pytest.mark.parametrize("family", [UNET3D, I2VGEN], ids=["unet3d", "i2vgen-xl"])
def test_what_the_config_cannot_say_is_compact_all_the_same(family: Family) -> None:
    left = check(family, SECOND)
    assert isinstance(left, Pruned)
    assert not any(isinstance(module, Skip) for module in left.modules())
    assert left.config.layers_per_block == 2


@EACH
def test_gradients_reach_everything(family: Family) -> None:
    gone = INNERMOST | {"up_blocks.1.pairs.1"}
    cut.check_backward(cut.pruned(family.adapter, family.denoiser, gone), family.inputs)


@EACH
def test_works_on_meta(family: Family) -> None:
    gone = INNERMOST | {"up_blocks.1.pairs.1"}
    left = cut.pruned(family.adapter, meta_copy(family.denoiser), gone)
    (made,) = left(**on_meta(family.inputs))
    assert made.shape == cut.run(family.denoiser, family.inputs)[0].shape


def test_freeu_runs_in_what_is_left() -> None:
    left = cut.pruned(MOTION.adapter, MOTION.denoiser, INNERMOST | SECOND)
    left.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert cut.run(left, MOTION.inputs)[0].isfinite().all()


def test_motion_modules_of_a_stock_student_can_be_saved(tmp_path: Path) -> None:
    left = cut.pruned(MOTION.adapter, MOTION.denoiser, EVERY_SECOND)
    left.save_motion_modules(str(tmp_path))
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize(
    ("gone", "stock"),
    [({"down_blocks.0.pairs.0", "up_blocks.1.pairs.1"}, True), ({"mid_block", "up_blocks.0.pairs.1"}, False)],
)
def test_saved_pipelines_come_back(
    gone: set[str], stock: bool, tmp_path: Path, loaded_elsewhere: Callable[..., torch.Tensor]
) -> None:
    adapter, plain = AnimateDiffAdapter(), tiny_animatediff.pipeline()
    left = cut.pruned(adapter, plain.unet, gone)
    assert isinstance(left, Pruned) != stock
    small = adapter.with_denoisers(plain, {"unet": left})
    adapter.save(small, tmp_path / "model")
    clip = adapter.generate(small, ["a red cat"], steps=2, seeds=[3], call=tiny_animatediff.CALL)
    asked = {**tiny_animatediff.CALL, "num_inference_steps": 2, "prompt": ["a red cat"]}
    assert torch.equal(loaded_elsewhere(tmp_path / "model", [3], asked), clip)


PUBLISHED: dict[str, tuple[Adapter, Callable[[], nn.Module], int, int]] = {
    "Stable Video Diffusion": (SVDAdapter(), UNetSpatioTemporalConditionModel, 1_524_623_082, 939_884_186),
    "VideoCrafter2's sizes": (UNet3DAdapter(), UNet3DConditionModel, 1_411_233_860, 814_600_580),
    "AnimateDiff on Stable Diffusion 2.1": (
        AnimateDiffAdapter(),
        lambda: UNetMotionModel(
            cross_attention_dim=1024, num_attention_heads=(5, 10, 20, 20), use_linear_projection=True
        ),
        1_319_120_004,
        692_172_484,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_by_the_rule(name: str) -> None:
    """VDMini's; of Stable Video Diffusion the paper reports that about 40 % go."""
    adapter, make, whole, small = PUBLISHED[name]
    with torch.device("meta"):
        denoiser = make()
        assert sum(p.numel() for p in denoiser.parameters()) == whole
        left = cut.pruned(adapter, denoiser, cut.vdmini(adapter.blocks(denoiser, "unet")))
    assert sum(p.numel() for p in left.parameters()) == small
    assert cut.pairs_left(left) == [[1, 1, 2], [2, 2, 3]]
    assert not hasattr(left.down_blocks[-1].downsamplers, "children")
