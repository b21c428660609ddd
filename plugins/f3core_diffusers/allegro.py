"""Allegro: ``AllegroTransformer3DModel``, full 3-D self-attention (SA and TA in one map) and text cross-attention.

``norm2`` lies before the feed-forward net, so that no norm dies with the cross-attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLAllegro
from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro
from torch import nn

from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.sketch import codec_size


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """As diffusers' pipeline does: the codec has a first frame of its own in clips of an odd number of frames only."""
    by_frame = AutoencoderKLAllegro.load_config(source, subfolder="vae").get("temporal_compression_ratio", 4)
    frames = call["num_frames"] or denoiser.config.sample_frames * by_frame
    first = frames % 2
    _, height, width = codec_size(source, denoiser, {**call, "num_frames": 1})
    return -(-(frames - first) // by_frame) + first, height, width


class AllegroAdapter(BlocksAdapter):
    name = "allegro"
    timestep_at = 2
    text_channels = "caption_channels"
    stacks = {"transformer_blocks": {"attn1": Full3D(companions=("norm1",)), "attn2": Cross()}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    latent_size = staticmethod(_latent_size)

    def _open(self, source: str, dtype: torch.dtype) -> Any:
        pipeline = super()._open(source, dtype)
        pipeline.vae.enable_tiling()  # it decodes in no other way,
        pipeline.vae.enable_slicing()  # and clip by clip
        return pipeline

    def inputs(self, example: Example) -> dict[str, Any]:
        config, grid, device = example.config, self.grid(example), example.denoiser.device
        scale, crop = tuple(config[f"interpolation_scale_{axis}"] for axis in "thw"), ((0, 0), grid[1:])
        tables = get_3d_rotary_pos_embed_allegro(
            config.attention_head_dim, crop, grid[1:], grid[0], interpolation_scale=scale, device=device
        )
        places = torch.cartesian_prod(*map(example.places, grid))
        return super().inputs(example) | {
            "encoder_hidden_states": example.noise(1, example.text, config.caption_channels),
            "encoder_attention_mask": example.padding_mask(),
            "image_rotary_emb": (tables[:3], tuple(places.T[:, None].contiguous())),
        }
