"""CogVideoX 1.0 and 1.5: ``CogVideoXTransformer3DModel``, joint attention over [text; all frames].

The latents of a given first frame (I2V) are channels of every frame, not tokens. 1.5 has tokens of two latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusers.models.embeddings import get_3d_rotary_pos_embed

from f3core.errors import ModelError
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Joint


class CogVideoXAdapter(BlocksAdapter):
    name = "cogvideox"
    timestep_at = 2
    axes = "FCHW"
    usual_text = "max_text_seq_length"
    stacks = {"transformer_blocks": {"attn1": Joint(text_first=True)}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    hands = {"transformer_blocks": ("hidden_states", "encoder_hidden_states")}  # noqa: RUF012

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """Raises `ModelError` for a scale that changes from step to step."""
        if call.get("use_dynamic_cfg"):
            raise ModelError(
                "with use_dynamic_cfg branches weigh otherwise at every step, so what removals do to the "
                "guided prediction is not known; set it to false, or choose a criterion that tries none"
            )
        return super().branches(pipeline, component, call)

    def inputs(self, example: Example) -> dict[str, Any]:
        config, (by_frame, by_row, by_column) = example.config, self.patch(example.denoiser)
        example = replace(example, frames=-(-example.frames // by_frame) * by_frame)
        inputs = super().inputs(example)
        if config.use_rotary_positional_embeddings:
            grid = (example.height // by_row, example.width // by_column)
            inputs["image_rotary_emb"] = get_3d_rotary_pos_embed(
                config.attention_head_dim,
                None,
                grid,
                example.frames // by_frame,
                grid_type="slice",
                max_size=grid,
                device=example.denoiser.device,
            )
        if getattr(config, "ofs_embed_dim", None):
            inputs["ofs"] = example.full(2.0)[:1]
        return inputs
