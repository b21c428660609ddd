"""SANA-Video: ``SanaVideoTransformer3DModel``, cross-attention to text, which can be dropped.

Its self-attention over all frames is linear: it has no map over keys that could lose some, so neither TA nor SA can be
measured or pruned. A given first picture (I2V) is frame 0, with timestep 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.pipelines.sana_video.pipeline_sana_video import ASPECT_RATIO_480_BIN, ASPECT_RATIO_720_BIN
from diffusers.video_processor import VideoProcessor
from torch import nn

from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.blocks import BlocksAdapter, like, padding_mask, timestep
from f3core_diffusers.patterns import Cross
from f3core_diffusers.sketch import codec_size

BINS = {30: ASPECT_RATIO_480_BIN, 22: ASPECT_RATIO_720_BIN}
"""Sizes that the pipelines choose from, by the denoiser's ``sample_size``."""


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    height, width = call["height"], call["width"]
    if call["use_resolution_binning"]:
        if denoiser.config.sample_size not in BINS:
            raise ValueError("there are no resolution bins for it; set use_resolution_binning: false")
        bins = BINS[denoiser.config.sample_size]
        height, width = VideoProcessor.classify_height_width_bin(height, width, ratios=bins)
    return codec_size(source, denoiser, {"num_frames": call["frames"], "height": height, "width": width}, pixels=32)


class SanaVideoAdapter(BlocksAdapter):
    name = "sana-video"
    timestep_at = 2
    stacks = {"transformer_blocks": {"attn2": Cross()}}  # noqa: RUF012
    latent_size = staticmethod(_latent_size)

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config, text = denoiser.config, text or 300
        return {
            "hidden_states": torch.randn(batch, config.in_channels, frames, height, width, **like(denoiser)),
            "encoder_hidden_states": torch.randn(batch, text, config.caption_channels, **like(denoiser)),
            "timestep": timestep(denoiser, batch),
            "encoder_attention_mask": padding_mask(denoiser, batch, text),
            "return_dict": False,
        }

    def one_by_one(self, pipeline: Any) -> bool:
        return "image" in inspect.signature(type(pipeline).__call__).parameters

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        return TimestepsOfTokens() if "ImageToVideo" in str(index["_class_name"]) else self


class TimestepsOfTokens(SanaVideoAdapter):
    """Where the image-to-video pipeline runs the model."""

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        inputs = super().example_inputs(denoiser, frames=frames, height=height, width=width, batch=batch, text=text)
        by_frame, by_row, by_column = self.patch(denoiser)
        grid = (1, frames // by_frame, height // by_row, width // by_column)
        return {**inputs, "timestep": inputs["timestep"].reshape(-1, 1, 1, 1, 1).repeat(1, *grid)}
