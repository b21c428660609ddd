"""SANA-Video: ``SanaVideoTransformer3DModel``, cross-attention to text, which can be dropped.

Its self-attention over all frames is linear: it has no map over keys that could lose some, so neither TA nor SA can be
measured or pruned. A given first picture (I2V) is frame 0, with timestep 0.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from diffusers.pipelines.sana_video.pipeline_sana_video import ASPECT_RATIO_480_BIN, ASPECT_RATIO_720_BIN
from diffusers.video_processor import VideoProcessor
from torch import nn

from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
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
    text_channels = "caption_channels"
    usual_text = 300
    stacks = {"transformer_blocks": {"attn2": Cross()}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    latent_size = staticmethod(_latent_size)

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | {"encoder_attention_mask": example.padding_mask()}

    def one_by_one(self, pipeline: Any) -> bool:
        return "image" in inspect.signature(type(pipeline).__call__).parameters

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        return TimestepsOfTokens() if "ImageToVideo" in str(index["_class_name"]) else self


class TimestepsOfTokens(SanaVideoAdapter):
    """Where the image-to-video pipeline runs the model."""

    def inputs(self, example: Example) -> dict[str, Any]:
        return super().inputs(example) | {"timestep": example.timestep(1, *self.grid(example))}
