"""Stable Video Diffusion: ``UNetSpatioTemporalConditionModel``, which animates an image and takes no prompt.

The pipeline ignores a spec's prompts; each still draws a seed of its own. CA is attention to the image's embedding, one
token (the only key, so that its softmax is always 1). The image's latents are channels of every frame, not tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from f3core.segments import argument
from f3core_diffusers.blocks import like, timestep
from f3core_diffusers.patterns import Cross, Rows, Temporal
from f3core_diffusers.unets import IN_FRAMES, UNetAdapter


class SVDAdapter(UNetAdapter):
    name = "svd"
    guidance = "max_guidance_scale"
    transformers = {  # noqa: RUF012
        "attentions": {
            "transformer_blocks": IN_FRAMES,
            "temporal_transformer_blocks": {
                "attn1": Temporal(("norm1",)),
                "attn2": Cross(("norm2",), rows=Rows.POSITION),
            },
        }
    }

    def prompted(self, pipeline: Any, prompts: Sequence[str]) -> dict[str, Any]:
        return {}

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """Guidance grows from frame to frame: its mean stands for it."""
        usual = inspect.signature(type(pipeline).__call__).parameters
        first, last = (float(call.get(name, usual[name].default)) for name in ("min_guidance_scale", self.guidance))
        return (1 - (first + last) / 2, (first + last) / 2) if last > 1 else (1.0,)

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        batch, frames, _, height, width = argument(args, kwargs, "sample", 0).shape
        return batch, frames, height, width

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
        return {
            "sample": torch.randn(batch, frames, config.in_channels, height, width, **like(denoiser)),
            "timestep": timestep(denoiser, batch),
            "encoder_hidden_states": torch.randn(batch, text or 1, config.cross_attention_dim, **like(denoiser)),
            "added_time_ids": torch.full((batch, ids), 6.0, **like(denoiser)),
            "return_dict": False,
        }
