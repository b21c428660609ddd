"""Wan 2.1 and 2.2: ``WanTransformer3DModel``, full 3-D self-attention (SA and TA in one map) and text cross-attention.

Image-conditioning tokens of the I2V models are keys of ``attn2`` and count as text; the latents of a given first frame
are channels of every frame, or (Wan 2.2 5B, whose tokens have timesteps of their own) frame 0.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.sketch import divided

PIXELS = 16
"""What diffusers' Wan pipelines want height and width to be multiples of."""
BLOCK = {"attn1": Full3D(companions=("norm1",)), "attn2": Cross(companions=("norm2",))}
"""The attention of one of Wan's blocks."""


def latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """As diffusers' Wan pipelines do: other numbers of pixels are refused, of frames and patches rounded."""
    codec, patch = AutoencoderKLWan.load_config(source, subfolder="vae"), denoiser.config.patch_size
    by_frame, by_pixel = codec.get("scale_factor_temporal", 4), codec.get("scale_factor_spatial", 8)
    frames = call["num_frames"]
    if frames % by_frame != 1:
        frames = frames // by_frame * by_frame + 1
    height, width = (divided(call[name], PIXELS, name) * PIXELS // by_pixel for name in ("height", "width"))
    return (max(frames, 1) - 1) // by_frame + 1, height // patch[1] * patch[1], width // patch[2] * patch[2]


class WanAdapter(BlocksAdapter):
    name = "wan"
    conditional_first = True
    tells_branches = True
    stacks = {"blocks": BLOCK}  # noqa: RUF012
    depths = {"blocks": "num_layers"}  # noqa: RUF012
    text = ("encoder_hidden_states", 2)
    text_channels = "text_dim"
    latent_size = staticmethod(latent_size)

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs, config = super().inputs(example), example.config
        if config.get("image_dim") is not None:
            image = example.noise(257, config.image_dim)
            if config.get("pos_embed_seq_len"):  # the first and the last of a clip
                image = torch.cat([image, image])
            inputs["encoder_hidden_states_image"] = image
        return inputs

    def one_by_one(self, pipeline: Any) -> bool:
        return "image" in inspect.signature(type(pipeline).__call__).parameters

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        return TimestepsOfTokens() if index.get("expand_timesteps") else self


class TimestepsOfTokens(WanAdapter):
    """Where a pipeline with ``expand_timesteps`` runs the model."""

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | {"timestep": example.timestep(math.prod(self.grid(example)))}
