"""What `inspect_class` finds in real denoisers of every pattern, and in modules made to be strange."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from f3core.errors import ModelError, SpecError
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


# --- models of our own ----------------------------------------------------------------------------------------------


def attend(query: Tensor, key: Tensor) -> Tensor:
    out = nn.functional.scaled_dot_product_attention(query[:, None], key[:, None], key[:, None])
    return out[:, 0]


class Denoiser(nn.Module):
    """[B, 4, F, H, W] in and out, with whatever `mix` does to tokens [B, F, S, 8] in between."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.mixer = Mixer(self.mix)

    def forward(self, sample: Tensor) -> Tensor:
        tokens = self.inner(sample.flatten(3).permute(0, 2, 3, 1))
        return self.mixer(tokens)

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        raise NotImplementedError


class Mixer(nn.Module):
    def __init__(self, mix: Any) -> None:
        super().__init__()
        self.out = nn.Linear(8, 8)
        self._mix = mix

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self._mix(tokens))


class TwoFrames(Denoiser):
    """Frames in the batch, with keys of the first and the previous frame."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        keys = torch.cat([tokens[:, :1].expand_as(tokens), tokens.roll(1, 1)], dim=2)
        return attend(tokens.flatten(0, 1), keys.flatten(0, 1))


class Pooled(Denoiser):
    """Every fourth token of the clip is a key."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        return attend(tokens.flatten(1, 2), tokens[:, :, ::4].flatten(1, 2))


class Windows(Denoiser):
    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        windows = tokens.unflatten(2, (-1, 16)).flatten(0, 2)
        return attend(windows, windows)


class Squares(Denoiser):
    """As many keys as a frame has tokens, squared."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return attend(clip, clip[:, :1].expand(-1, tokens.shape[1] ** 2, -1))


class Picky(Denoiser):
    """Attends to the tokens that it likes."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return attend(clip, clip[:, clip[0, :, 0] > 0])


class Linear(Denoiser):
    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        clip = tokens.flatten(1, 2)
        return clip @ (clip.transpose(1, 2) @ clip)


@pytest.mark.parametrize(
    ("model_class", "expected", "kinds", "remark"),
    [
        (TwoFrames, ("B·F", "S", "2·S"), (SA, TA), "every row has keys of 2 frames"),
        (Pooled, ("B", "F·S", "F·S/4"), (SA, TA), "keys are not the tokens that ask"),
        (Windows, ("B·F·S", "16", "16"), (), "windows, or rows or columns"),
        (Squares, ("B", "F·S", "None"), (), "no simple rule"),
    ],
)
def test_strange_attention(
    model_class: type[nn.Module], expected: tuple[str, ...], kinds: tuple[AttentionKind, ...], remark: str
) -> None:
    (group,) = inspect_class(model_class).groups
    assert group.pattern == "mixer"
    assert lengths(group) == [expected]
    assert group.kinds == kinds
    assert remark in group.roles[0].remark


def test_a_forward_that_reads_values_is_computed_on_demand() -> None:
    with pytest.raises(ModelError, match=r"Picky ran; tried: .*ValuesNeeded[\s\S]*give --real"):
        inspect_class(Picky)
    (group,) = inspect_class(Picky, real=True).groups
    assert lengths(group)[0][:2] == ("B", "F·S")


def test_a_model_without_visible_attention_is_refused() -> None:
    with pytest.raises(ModelError, match="its attention is linear or written out"):
        inspect_class(Linear)


class Riddle(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)

    def forward(self, sample: Tensor, riddle: Tensor, hint: int | None = None) -> Tensor:
        tokens = self.proj(sample.flatten(2).transpose(1, 2))
        return attend(tokens, self.proj(riddle))


def test_what_cannot_be_guessed_is_asked_for_and_can_be_given() -> None:
    with pytest.raises(ModelError, match=r"Riddle.forward needs riddle, .* give --input riddle="):
        inspect_class(Riddle)
    (group,) = inspect_class(Riddle, {}, {"riddle": "B,T,4"}).groups
    assert (group.kinds, lengths(group)) == ((CA,), [("B", "F·S", "T")])
    with pytest.raises(SpecError, match="--input ridle: Riddle"):
        inspect_class(Riddle, {}, {"ridle": "B,T,4"})


def test_where_nothing_runs_the_error_says_what_was_tried() -> None:
    with pytest.raises(ModelError) as caught:
        inspect_class(Riddle, {}, {"riddle": "B,T,5"})
    said = str(caught.value)
    assert "no forward of Riddle ran" in said
    assert "It stopped at: return attend(tokens, self.proj(riddle))" in said
    assert "Tried for those named there: riddle: B,T,5" in said
    assert "--input riddle=..." in said


class Poured(nn.Module):
    """Joint attention whose tokens are written into one tensor, not put together."""

    def __init__(self, text_dim: int = 5) -> None:
        super().__init__()
        self.video, self.text = nn.Linear(4, 8), nn.Linear(text_dim, 8)

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        video, text = self.video(sample.flatten(2).transpose(1, 2)), self.text(encoder_hidden_states)
        both = video.new_zeros(video.shape[0], video.shape[1] + text.shape[1], 8)
        both[:, : text.shape[1]] = text
        both[:, text.shape[1] :] = video
        return attend(both, both)


class Wrapped(Poured):
    """Text on either side of the video."""

    def forward(self, sample: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        video, text = self.video(sample.flatten(2).transpose(1, 2)), self.text(encoder_hidden_states)
        both = torch.cat([text, video, text], dim=1)
        return attend(both, both)


def test_the_place_of_text_is_told_only_where_it_was_seen() -> None:
    (group,) = inspect_class(Poured).groups
    assert (group.pattern, group.kinds, lengths(group)) == ("", (CA, SA, TA), [("B", "F·S + T", "F·S + T")])
    assert group.roles[0].keys == "all frames, S tokens each; and text, first or last: look at the processor"
    (group,) = inspect_class(Wrapped).groups
    assert lengths(group) == [("B", "F·S + 2·T", "F·S + 2·T")]
    assert group.roles[0].keys == "text on both sides of all frames, S tokens each"


class Fixed(Denoiser):
    """Takes six frames and no others."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        if tokens.shape[1] != 6:
            raise ValueError("six frames, please")
        return attend(tokens.flatten(1, 2), tokens.flatten(1, 2))


class Odd(Denoiser):
    """Takes 4n + 1 frames, an odd number."""

    @staticmethod
    def mix(tokens: Tensor) -> Tensor:
        if tokens.shape[1] % 4 != 1:
            raise ValueError("an odd number, please")
        return attend(tokens.flatten(1, 2), tokens.flatten(1, 2))


def test_a_size_that_cannot_vary_is_noted() -> None:
    (note,) = inspect_class(Fixed).notes
    assert note.startswith("F (latent frames) could not be varied")
    assert note.endswith("ValueError: six frames, please")


def test_sizes_that_a_model_takes_can_be_given() -> None:
    with pytest.raises(ModelError, match="an odd number, please"):
        inspect_class(Odd)
    found = inspect_class(Odd, sizes={"F": 5})
    assert (found.sizes["F"], found.notes) == (5, ())
    assert lengths(found.groups[0]) == [("B", "F·S", "F·S")]


def test_constructors_are_checked() -> None:
    with pytest.raises(SpecError, match=r"--config widht: Riddle has no such argument; did you mean 'width'"):
        inspect_class(Riddle, {"widht": 3})
    with pytest.raises(ModelError, match=r"Riddle could not be built with width=-1: .* give its constructor arguments"):
        inspect_class(Riddle, {"width": -1})
