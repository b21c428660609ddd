"""LTX-Video: ``LTXVideoTransformer3DModel``, full 3-D self-attention over packed latents, and text cross-attention.

A given first frame (I2V) replaces latents of frame 0 and counts as frame 0; it has timesteps of its own, the noise
level is the highest. Condition tokens of ``LTXConditionPipeline`` lie before the frames, and its calls do not tell how
many there are, nor of how many frames the rest is: such calls are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from f3core.errors import ModelError
from f3core.segments import argument
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.shifted import shifted_levels

if TYPE_CHECKING:
    from f3core.distillation.recipe import Recipe


def packed_size(args: Sequence[Any], kwargs: Mapping[str, Any], first: int) -> tuple[int, int, int]:
    """Frames, rows and columns of packed tokens, as the forward's arguments from position ``first`` on say.

    Raises `ModelError` where they do not say, or other numbers than there are tokens.
    """
    names = ("num_frames", "height", "width")
    rest = (*args[first:], None, None, None)
    size = [kwargs.get(name, rest[i]) for i, name in enumerate(names)]
    tokens = argument(args, kwargs, "hidden_states", 0).shape[1]
    if None in size or tokens != math.prod(size):
        raise ModelError(
            f"a forward over {tokens} packed tokens says num_frames, height and width {size}, so which frame a token "
            "belongs to is unknown; run a text-to-video or image-to-video pipeline, which says so, without conditions"
        )
    return size[0], size[1], size[2]


def by_token(given: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """``inputs`` as a pipeline with these arguments gives them: one that starts from an image tells a timestep a token,
    because tokens of the image have their own."""
    if "image" not in given:
        return dict(inputs)
    tokens = inputs["hidden_states"].shape[1]
    return {**inputs, "timestep": inputs["timestep"][:, None].expand(-1, tokens)}


class LTXAdapter(BlocksAdapter):
    name = "ltx"
    timestep_at = 2
    text_channels = "caption_channels"
    usual_text = 128
    stacks = {"transformer_blocks": {"attn1": Full3D(companions=("norm1",)), "attn2": Cross()}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        return argument(args, kwargs, "hidden_states", 0).shape[0], *packed_size(args, kwargs, 4)

    def patch(self, denoiser: nn.Module) -> tuple[int, int, int]:
        return 1, 1, 1  # latents are packed before the forward, which is told numbers of tokens

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        return shifted_levels(scheduler, steps, size)

    def recipe(self, pipeline: Any, call: Mapping[str, Any]) -> Recipe:
        from f3core_diffusers.packed_training import PackedRecipe

        return PackedRecipe(self, pipeline, call)

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        return [(by_token(given, inputs), rows)]

    def inputs(self, example: Example) -> dict[str, Any]:
        size = {"num_frames": example.frames, "height": example.height, "width": example.width}
        return super().inputs(example) | {
            "hidden_states": example.noise(math.prod(size.values()), example.config.in_channels),
            "encoder_attention_mask": example.padding_mask(),
            "rope_interpolation_scale": (8 / 25, 32, 32),
            **size,
        }
