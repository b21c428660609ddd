"""What `inspect_class` finds in real denoisers of every pattern."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from f3core.inspection.inspect_model import Group, Inspection, inspect_class
from f3core.sites import AttentionKind, Removal

diffusers = pytest.importorskip("diffusers")
CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
SELF_ONLY, DROP = Removal.SELF_ONLY, Removal.DROP

TINY_WAN = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 32,
    "num_layers": 3,
    "rope_max_seq_len": 64,
}
TINY_UNET = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "norm_num_groups": 8,
}


def lengths(group: Group) -> list[tuple[str, str, str]]:
    return [(str(call.rows), str(call.queries), str(call.keys)) for call in group.calls]


def by_pattern(found: Inspection) -> dict[str, Group]:
    return {group.pattern: group for group in found.groups}


def test_full_3d_attention_and_cross_attention() -> None:
    found = inspect_class(diffusers.WanTransformer3DModel, {"num_layers": 3})
    itself, text = found.groups
    assert (itself.pattern, lengths(itself)) == ("blocks.*.attn1", [("B", "F·S", "F·S")])
    assert (itself.kinds, itself.removals) == ((SA, TA), {TA: (SELF_ONLY,)})
    assert [(each.path, each.index) for each in itself.modules] == [(f"blocks.{i}.attn1", i) for i in range(3)]
    assert (itself.heads, itself.levels) == ((40,), (1,))
    assert (itself.tokens, itself.norm, itself.output) == (
        {"hidden_states": 1, "rotary_emb": 1},
        "blocks.*.norm1",
        "to_out.0",
    )
    assert (text.pattern, lengths(text)) == ("blocks.*.attn2", [("B", "F·S", "T")])
    assert (text.kinds, text.removals) == ((CA,), {CA: (DROP,)})
    assert [each.index for each in text.modules] == [0, 1, 2]
    assert found.model == "diffusers.WanTransformer3DModel"
    assert not found.notes


def test_packed_inputs_are_found() -> None:
    found = inspect_class(diffusers.LTXVideoTransformer3DModel, {"num_layers": 1})
    assert found.inputs["hidden_states"] == "B,F*H*W,128"
    assert [(group.kinds, lengths(group)) for group in found.groups] == [
        ((SA, TA), [("B", "F·S", "F·S")]),
        ((CA,), [("B", "F·S", "T")]),
    ]
    assert found.groups[1].calls[0].masked


def test_joint_attention_with_text_last_in_two_stacks() -> None:
    groups = by_pattern(
        inspect_class(diffusers.HunyuanVideoTransformer3DModel, {"num_layers": 2, "num_single_layers": 3})
    )
    refiner = groups.pop("context_embedder.token_refiner.refiner_blocks.*.attn")
    assert (refiner.kinds, refiner.removals, lengths(refiner)) == ((), {}, [("B", "T", "T")])
    assert refiner.roles[0].remark == "text alone: no site"
    assert {each.index for each in refiner.modules} == {None}
    for group in groups.values():
        assert (group.kinds, group.removals) == ((CA, SA, TA), {TA: (SELF_ONLY,)})
        assert lengths(group) == [("B", "F·S + T", "F·S + T")]
        assert group.roles[0].keys == "all frames, S tokens each; then text"
        assert group.calls[0].masked
    assert {name: [each.index for each in group.modules] for name, group in groups.items()} == {
        "transformer_blocks.*.attn": [0, 1],
        "single_transformer_blocks.*.attn": [2, 3, 4],
    }


def test_joint_attention_with_text_first_whose_length_is_an_argument_of_the_constructor() -> None:
    found = inspect_class(diffusers.CogVideoXTransformer3DModel, {"num_layers": 1})
    (group,) = found.groups
    assert lengths(group) == [("B", "F·S + T", "F·S + T")]
    assert group.roles[0].queries == "text; then all frames, S tokens each"
    assert found.inputs["hidden_states"] == "B,F,16,H,W"
    assert not found.notes


def test_a_loop_over_rows_whose_masks_pick_tokens_is_one_call() -> None:
    groups = by_pattern(inspect_class(diffusers.MochiTransformer3DModel, {"num_layers": 2}))
    assert lengths(groups["transformer_blocks.*.attn1"]) == [("B", "F·S + T", "F·S + T")]
    assert groups["time_embed.pooler"].kinds == ()


def test_cascaded_attention_at_several_resolutions() -> None:
    config = TINY_UNET | {
        "down_block_types": ("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        "attention_head_dim": 8,
    }
    groups = by_pattern(inspect_class(diffusers.UNet3DConditionModel, config))
    spatial = groups["down_blocks.*.attentions.*.transformer_blocks.*.attn1"]
    text = groups["down_blocks.*.attentions.*.transformer_blocks.*.attn2"]
    temporal = groups["down_blocks.*.temp_attentions.*.transformer_blocks.*.attn1"]
    assert (spatial.kinds, spatial.removals, lengths(spatial)) == ((SA,), {SA: (DROP,)}, [("B·F", "S", "S")])
    assert spatial.roles[0].keys == "one frame a row, S tokens"
    assert (text.kinds, text.removals, lengths(text)) == ((CA,), {CA: (DROP,)}, [("B·F", "S", "T")])
    assert (temporal.kinds, lengths(temporal)) == ((SA, TA), [("B·S", "F", "F")])
    assert temporal.roles[0].keys == "one place of all frames a row, a token a frame"
    assert temporal.removals == {TA: (SELF_ONLY, DROP)}
    assert [str(level) for level in temporal.levels] == ["1", "1/4"]
    assert spatial.heads == (4, 8)
    assert {name: [each.index for each in group.modules] for name, group in groups.items() if "attn1" in name} == {
        "transformer_in.transformer_blocks.*.attn1": [0],
        "down_blocks.*.attentions.*.transformer_blocks.*.attn1": [1, 2],
        "down_blocks.*.temp_attentions.*.transformer_blocks.*.attn1": [1, 2],
        "mid_block.attentions.*.transformer_blocks.*.attn1": [3],
        "mid_block.temp_attentions.*.transformer_blocks.*.attn1": [3],
        "up_blocks.*.attentions.*.transformer_blocks.*.attn1": [4, 5, 6, 7],
        "up_blocks.*.temp_attentions.*.transformer_blocks.*.attn1": [4, 5, 6, 7],
    }


def test_text_that_a_pipeline_repeats_for_every_frame() -> None:
    config = TINY_UNET | {
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
    }
    found = inspect_class(diffusers.UNetMotionModel, config)
    assert found.inputs["encoder_hidden_states"] == "B*F,T,16"
    groups = by_pattern(found)
    assert groups["down_blocks.*.attentions.*.transformer_blocks.*.attn2"].kinds == (CA,)
    assert groups["down_blocks.*.motion_modules.*.transformer_blocks.*.attn1"].kinds == (SA, TA)


def test_what_has_no_default_is_assumed_and_said() -> None:
    found = inspect_class(diffusers.LatteTransformer3DModel)
    assert "patch_size=2" in found.notes[0]
    assert found.config["patch_size"] == 2
    assert {group.pattern: (lengths(group)[0], group.kinds) for group in found.groups} == {
        "transformer_blocks.*.attn1": (("B·F", "S", "S"), (SA,)),
        "transformer_blocks.*.attn2": (("B·F", "S", "T"), (CA,)),
        "temporal_transformer_blocks.*.attn1": (("B·S", "F", "F"), (SA, TA)),
    }


def test_parts_that_come_with_more_layers_only() -> None:
    groups = by_pattern(inspect_class(diffusers.WanVACETransformer3DModel, {"num_layers": 3, "vace_layers": [0, 2]}))
    assert [each.index for each in groups["vace_blocks.*.attn1"].modules] == [0, 1]
    assert [each.index for each in groups["blocks.*.attn1"].modules] == [2, 3, 4]


def test_tracing_without_weights_and_computing_find_the_same() -> None:
    traced = inspect_class(diffusers.WanTransformer3DModel, TINY_WAN)
    assert inspect_class(diffusers.WanTransformer3DModel, TINY_WAN, real=True) == traced


@pytest.mark.parametrize(
    ("adapter", "model_class", "config"),
    [
        ("wan", "WanTransformer3DModel", TINY_WAN),
        ("cogvideox", "CogVideoXTransformer3DModel", {"num_layers": 2}),
        ("ltx", "LTXVideoTransformer3DModel", {"num_layers": 2}),
    ],
)
def test_proposals_are_what_the_adapter_says(adapter: str, model_class: str, config: dict[str, Any]) -> None:
    from f3core.registry import installed

    found = inspect_class(getattr(diffusers, model_class), config)
    with torch.device("meta"):
        model = getattr(diffusers, model_class)(**config)
    sites = installed().make("adapter", adapter).sites(model, "transformer")
    proposed = {each.path: (each.index, {*group.kinds}) for group in found.groups for each in group.modules}
    assert proposed == {site.path: (site.index, {*site.kinds}) for site in sites}
