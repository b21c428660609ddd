"""Blocks of the Tune-A-Video U-Net: what is left of it is a `TuneAVideoUNet` wherever its skips are balanced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
import unet_pruning as cut
from diffusers import DiffusionPipeline, UNet2DConditionModel
from f3core_tuneavideo import TuneAVideoUNet, inflate
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from hypothesis import example, given, settings
from hypothesis import strategies as st

from f3core.block import Block, Stage
from f3core.contract import distance
from f3core.errors import PlanError
from f3core.flops import costs, count
from f3core.meta import meta_copy, on_meta
from f3core.plan import by_layer
from f3core.registry import installed
from f3core.sites import FORWARD, Removal, Structure
from f3core.skipping import Skip
from f3core.surgery import Pruned, parameter_count

ADAPTER = TuneAVideoAdapter()
SIZES: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 2,
}
INNERMOST = {
    *(f"down_blocks.2.pairs.{i}" for i in range(2)),
    *(f"up_blocks.0.pairs.{i}" for i in range(3)),
    "mid_block",
    "samplers",
}
SECOND = {"down_blocks.0.pairs.1", "up_blocks.2.pairs.1"}
DENOISER = tiny.unet(**SIZES)
BLOCKS = ADAPTER.blocks(DENOISER, "unet")
INPUTS = {
    "sample": torch.randn(1, 4, 2, 6, 5, generator=torch.Generator().manual_seed(0)),
    "timestep": torch.tensor([300.0]),
    "encoder_hidden_states": torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(1)),
}


def block(path: str) -> Block:
    return next(each for each in BLOCKS if each.path == path)


def test_blocks_are_where_they_lie() -> None:
    paths = [each.path for each in BLOCKS]
    assert paths[:6] == [f"down_blocks.{level}.pairs.{number}" for level in range(3) for number in range(2)]
    assert paths[6:11] == ["mid_block", *(f"up_blocks.0.pairs.{number}" for number in range(3)), "samplers"]
    assert paths[11:] == [f"up_blocks.{stage}.pairs.{number}" for stage in (1, 2) for number in range(3)]
    assert [each.level for each in BLOCKS] == [0, 0, 1, 1, *[2] * 7, 1, 1, 1, 0, 0, 0]
    assert block("up_blocks.1.pairs.2").stage is Stage.UP
    assert block("up_blocks.1.pairs.2").number == 2
    fixed = {each.path: each.fixed for each in BLOCKS if each.fixed}
    assert fixed == {
        "down_blocks.1.pairs.0": "it changes the width from 8 to 16",
        "up_blocks.2.pairs.0": "it changes the width from 16 to 8",
    }


def test_the_innermost_level_goes_as_one() -> None:
    layers = by_layer(BLOCKS)
    assert [len(layer) for layer in layers.values()] == [1] * 4 + [7] + [1] * 6
    assert set(layers["unet[4]"]) == {f"unet.{path}" for path in INNERMOST}


@pytest.mark.parametrize("path", [each.path for each in BLOCKS if not each.fixed and not each.needs])
def test_every_block_can_go_alone(path: str) -> None:
    left = cut.check_pruned(ADAPTER, DENOISER, INPUTS, {path})
    stays = path == "mid_block"  # which leaves no gap among the skips
    assert isinstance(left, Pruned) != stays


@given(st.sets(st.sampled_from([each.path for each in BLOCKS])))
@example(INNERMOST)
@example(INNERMOST | SECOND)
@example(INNERMOST | {"down_blocks.1.pairs.1", "up_blocks.1.pairs.1"} | SECOND)
@example(INNERMOST | {"down_blocks.1.pairs.1", "up_blocks.1.pairs.2"})
@example({"down_blocks.1.pairs.1", "up_blocks.0.pairs.1"})
@settings(max_examples=15, deadline=None)
def test_any_blocks_can_go_together(chosen: set[str]) -> None:
    gone = cut.drawn(BLOCKS, chosen)
    if gone:
        cut.check_pruned(ADAPTER, DENOISER, INPUTS, gone)


@pytest.mark.parametrize(
    ("gone", "down", "up"),
    [
        (SECOND, [1, 2, 2], [2, 3, 3]),
        ({"down_blocks.1.pairs.1", "up_blocks.1.pairs.0"}, [2, 1, 2], [3, 2, 3]),
        ({"down_blocks.2.pairs.0", "down_blocks.2.pairs.1", "up_blocks.0.pairs.0", "up_blocks.0.pairs.1"}, None, None),
        (INNERMOST, [2, 2], [3, 3]),
        (INNERMOST | SECOND, [1, 2], [2, 3]),
    ],
)
def test_balanced_removals_leave_a_smaller_unet(gone: set[str], down: list[int] | None, up: list[int] | None) -> None:
    left = cut.check_pruned(ADAPTER, DENOISER, INPUTS, gone)
    assert type(left) is TuneAVideoUNet
    if down is not None:
        assert cut.pairs_left(left) == [down, up]


@pytest.mark.parametrize(
    "gone",
    [
        {"down_blocks.0.pairs.1"},
        {"up_blocks.1.pairs.1"},
        {"down_blocks.1.pairs.1", "up_blocks.1.pairs.2"},  # the second pair up would get the third's skip
        {"down_blocks.1.pairs.1", "up_blocks.2.pairs.1"},  # of another level
    ],
)
def test_what_would_take_another_skip_stays_skipped(gone: set[str]) -> None:
    left = cut.check_pruned(ADAPTER, DENOISER, INPUTS, gone)
    assert isinstance(left, Pruned)
    assert sum(isinstance(module, Skip) for module in left.modules()) == len(cut.modules_of(DENOISER, gone))
    assert cut.pruned(ADAPTER, DENOISER, gone | INNERMOST).config.block_out_channels == (8, 16, 16)


def test_weights_stay_where_they_were_or_move_with_their_pair() -> None:
    left = cut.pruned(ADAPTER, DENOISER, SECOND)
    moved = left.get_submodule("up_blocks.2.resnets.1").conv1.weight
    assert moved is DENOISER.get_submodule("up_blocks.2.resnets.2").conv1.weight
    assert left.get_submodule("up_blocks.2.attentions.1").norm.weight is DENOISER.up_blocks[2].attentions[2].norm.weight


def test_gradients_reach_everything() -> None:
    for gone in (INNERMOST | SECOND, {"mid_block", "up_blocks.1.pairs.1"}):
        left = cut.pruned(ADAPTER, tiny.unet(**SIZES), gone)
        cut.check_backward(left, INPUTS)


def test_students_can_be_looked_at_and_pruned_again() -> None:
    small = cut.pruned(ADAPTER, DENOISER, INNERMOST)
    again = ADAPTER.blocks(small, "unet")
    assert {each.level for each in again} == {0, 1}
    names = {each.path for each in again}
    assert "mid_block" not in names
    assert "samplers" in names
    assert next(each for each in again if each.path == "samplers").fixed is not None
    cut.check_pruned(ADAPTER, small, INPUTS, SECOND - {"up_blocks.2.pairs.1"} | {"up_blocks.1.pairs.1"})
    uneven = cut.pruned(ADAPTER, DENOISER, {"up_blocks.1.pairs.1", "mid_block"})
    names = {each.path for each in ADAPTER.blocks(uneven, "unet")}
    assert names == {each.path for each in BLOCKS} - {"up_blocks.1.pairs.1", "mid_block"}
    assert len(ADAPTER.sites(uneven, "unet")) == len(ADAPTER.sites(DENOISER, "unet")) - 6


def test_works_on_meta() -> None:
    for gone in (INNERMOST | SECOND, {"mid_block", "up_blocks.1.pairs.1"}):
        left, real = cut.pruned(ADAPTER, meta_copy(DENOISER), gone), cut.pruned(ADAPTER, DENOISER, gone)
        assert {k: v.shape for k, v in left.state_dict().items()} == {k: v.shape for k, v in real.state_dict().items()}
        assert left(**on_meta(INPUTS)).shape == INPUTS["sample"].shape


def test_what_goes_is_priced_exactly() -> None:
    whole, inputs = meta_copy(DENOISER), on_meta(INPUTS)
    prices = costs(ADAPTER, {"unet": whole}, {"unet": {FORWARD: inputs}}, [Structure.BLOCK])
    drop = (Structure.BLOCK, Removal.DROP)
    for gone in (INNERMOST | SECOND, {"mid_block", "up_blocks.1.pairs.1"}):
        left = cut.pruned(ADAPTER, whole, gone)
        saved = sum(prices.saved(f"unet.{path}", *drop, FORWARD) for path in gone)
        freed = sum(prices.parameters_saved(f"unet.{path}", *drop) for path in gone)
        assert count(left, inputs).total == prices.forward["unet"][FORWARD] - saved
        assert parameter_count(left) == prices.parameters["unet"] - freed


@pytest.mark.parametrize(
    ("gone", "why"),
    [
        ({"down_blocks.1.pairs.0"}, "unet.down_blocks.1.pairs.0 cannot go: it changes the width from 8 to 16"),
        (INNERMOST - {"mid_block"}, "unet.samplers can only go together with mid_block"),
    ],
)
def test_refuses_what_cannot_go(gone: set[str], why: str) -> None:
    with pytest.raises(PlanError, match=why):
        cut.pruned(ADAPTER, DENOISER, gone)


def test_samplers_around_what_cannot_go_cannot_go_either() -> None:
    blocks = ADAPTER.blocks(tiny.unet(), "unet")
    samplers = next(each for each in blocks if each.path == "samplers")
    assert samplers.fixed == "all between them has to go too, and down_blocks.1.pairs.0 cannot"


def test_a_single_level_has_no_samplers() -> None:
    sizes = {"block_out_channels": (8,), "down_block_types": ("DownBlock3D",), "up_block_types": ("UpBlock3D",)}
    denoiser = tiny.unet(**sizes)
    blocks = ADAPTER.blocks(denoiser, "unet")
    assert [each.path for each in blocks if each.needs] == []
    gone = {each.path for each in blocks}
    left = cut.check_pruned(ADAPTER, denoiser, INPUTS, gone)  # nothing but the first and the last convolution
    assert isinstance(left, Pruned)


def test_full_size_by_the_rule() -> None:
    with torch.device("meta"):
        left = cut.pruned(ADAPTER, TuneAVideoUNet(), cut.vdmini(ADAPTER.blocks(TuneAVideoUNet(), "unet")))
    assert type(left) is TuneAVideoUNet
    assert (left.config.layers_per_block, left.config.mid_block_type) == ([1, 1, 2], None)
    assert left.config.block_out_channels == (320, 640, 1280)
    assert sum(p.numel() for p in left.parameters()) == 512_150_084


def test_the_mini_pruned_by_the_rule_loads_as_any_other(tmp_path: Path) -> None:
    source = installed().entry("source", "zoo:digits-tune-a-video").folder
    pipeline = ADAPTER.load(source, dtype=torch.float32, device=torch.device("cpu"))
    left = cut.pruned(ADAPTER, pipeline.unet, cut.vdmini(ADAPTER.blocks(pipeline.unet, "unet")))
    assert type(left) is TuneAVideoUNet
    assert sum(p.numel() for p in left.parameters()) == 1_951_444
    ADAPTER.save(ADAPTER.with_denoisers(pipeline, {"unet": left}), tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path).unet
    inputs = {**INPUTS, "encoder_hidden_states": torch.randn(1, 3, 64)}
    assert again.config.block_out_channels == [48, 96]
    assert distance(cut.run(again, inputs), cut.run(left, inputs)) == 0


def test_smaller_unets_for_images_are_inflated_too() -> None:
    """BK-SDM's, which have fewer pairs and no mid block."""
    flat = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": None,
        "layers_per_block": (2, 1),
    }
    torch.manual_seed(0)
    image = UNet2DConditionModel(**tiny.CONFIG | flat).eval()
    sample, text = torch.randn(1, 4, 4, 4), torch.randn(1, 3, 12)
    with torch.no_grad():
        found = inflate(image).eval()(sample[:, :, None], 5, text)
        assert (found[:, :, 0] - image(sample, 5, text).sample).abs().max() <= 1e-5
