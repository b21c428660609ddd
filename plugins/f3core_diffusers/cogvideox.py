"""CogVideoX 1.0 and 1.5: ``CogVideoXTransformer3DModel``, joint attention over [text; all frames].

The latents of a given first frame (I2V) are channels of every frame, not tokens. 1.5 has tokens of two latent frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import nn

from f3core.segments import argument
from f3core_diffusers.blocks import BlocksAdapter, like, timestep
from f3core_diffusers.patterns import Joint


class CogVideoXAdapter(BlocksAdapter):
    name = "cogvideox"
    timestep_at = 2
    stacks = {"transformer_blocks": {"attn1": Joint(text_first=True)}}  # noqa: RUF012

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        batch, frames, _, height, width = argument(args, kwargs, "hidden_states", 0).shape
        return batch, frames, height, width

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        text = text or config.max_text_seq_length
        by_frame, by_row, by_column = self.patch(denoiser)
        frames = -(-frames // by_frame) * by_frame
        inputs = {
            "hidden_states": torch.randn(batch, frames, config.in_channels, height, width, **like(denoiser)),
            "encoder_hidden_states": torch.randn(batch, text, config.text_embed_dim, **like(denoiser)),
            "timestep": timestep(denoiser, batch),
            "return_dict": False,
        }
        if config.use_rotary_positional_embeddings:
            inputs["image_rotary_emb"] = get_3d_rotary_pos_embed(
                config.attention_head_dim,
                None,
                (height // by_row, width // by_column),
                frames // by_frame,
                grid_type="slice",
                max_size=(height // by_row, width // by_column),
                device=denoiser.device,
            )
        if getattr(config, "ofs_embed_dim", None):
            inputs["ofs"] = torch.full((1,), 2.0, **like(denoiser))
        return inputs
