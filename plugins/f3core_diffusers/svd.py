"""Stable Video Diffusion: ``UNetSpatioTemporalConditionModel``, which animates an image and takes no prompt.

The pipeline ignores a spec's prompts; each still draws a seed of its own. CA is attention to the image's embedding, one
token (the only key, so that its softmax is always 1). The image's latents are channels of every frame, not tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Rows, Temporal
from f3core_diffusers.unets import IN_FRAMES, UNetAdapter


class SVDAdapter(UNetAdapter):
    name = "svd"
    axes = "FCHW"
    usual_text = 1
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

    def inputs(self, example: Example) -> dict[str, Any]:
        config = example.config
        ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
        return super().inputs(example) | {"added_time_ids": example.full(6.0, ids)}
