"""Kandinsky 5.0 video: ``Kandinsky5Transformer3DModel``, full 3-D self-attention and text cross-attention.

Sites are the visual blocks; the blocks before them mix text with text alone. A given first frame and its mask (I2V) are
channels, frame 0's own and zeros elsewhere, not tokens. A prompt has as many tokens as it is long, so that a plan from
configs alone counts the pipeline's ``max_sequence_length``. Variants with ``attention_type: nabla`` (clips of ten
seconds, and Pro) attend to blocks of keys that flex attention picks anew in every call: they are refused.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from f3core.errors import ModelError
from f3core.segments import argument
from f3core.sites import AttentionSite
from f3core_diffusers.blocks import BlocksAdapter, like, timestep
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.sketch import codec_size


class Kandinsky5Adapter(BlocksAdapter):
    name = "kandinsky5"
    timestep_at = 2
    conditional_first = True
    stacks = {  # noqa: RUF012
        "visual_transformer_blocks": {
            "self_attention": Full3D(companions=("self_attention_norm",), output="out_layer"),
            "cross_attention": Cross(companions=("cross_attention_norm",), output="out_layer"),
        }
    }
    latent_size = staticmethod(functools.partial(codec_size, pixels=16, rounds=True))

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        """Raises `ModelError` for sparse variants."""
        if denoiser.config.attention_type == "nabla":  # all that diffusers runs otherwise
            raise ModelError(
                "this Kandinsky 5.0 attends by attention_type 'nabla', whose sparse map can be neither scored nor "
                "restricted; prune a model whose attention is dense, such as Lite of five seconds"
            )
        return super().sites(denoiser, component)

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        batch, frames, height, width, _ = argument(args, kwargs, "hidden_states", 0).shape
        return batch, frames, height, width

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config, text = denoiser.config, text or 512
        channels = config.in_visual_dim * 2 + 1 if config.visual_cond else config.in_visual_dim
        grid = (size // by for size, by in zip((frames, height, width), self.patch(denoiser), strict=True))
        return {
            "hidden_states": torch.randn(batch, frames, height, width, channels, **like(denoiser)),
            "encoder_hidden_states": torch.randn(batch, text, config.in_text_dim, **like(denoiser)),
            "timestep": timestep(denoiser, batch),
            "pooled_projections": torch.randn(batch, config.in_text_dim2, **like(denoiser)),
            "visual_rope_pos": [torch.arange(size, device=denoiser.device) for size in grid],
            "text_rope_pos": torch.arange(text, device=denoiser.device),
            "scale_factor": (1.0, 2.0, 2.0),
            "return_dict": False,
        }
