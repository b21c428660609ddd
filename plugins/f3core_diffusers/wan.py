"""Wan 2.1 and 2.2: ``WanTransformer3DModel``, full 3-D self-attention (SA and TA in one map) and text cross-attention.

Dropping ``attn1`` takes its own-frame attention along; ``self_only`` keeps it. Image-conditioning tokens of the I2V
models are keys of ``attn2`` and count as text; the latents of a given first frame count as frame 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import nn

from f3core.adapter import Sketch
from f3core.attention import frames_in_batch, other_frames_only
from f3core.clock import Gate
from f3core.segments import argument, query_tokens, text_tokens
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.sketch import divided, sketch

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL

PIXELS = 16
"""What diffusers' Wan pipelines want height and width to be multiples of."""


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """As diffusers' Wan pipelines do: other numbers of pixels are refused, of frames and patches rounded."""
    codec, patch = AutoencoderKLWan.load_config(source, subfolder="vae"), denoiser.config.patch_size
    by_frame, by_pixel = codec.get("scale_factor_temporal", 4), codec.get("scale_factor_spatial", 8)
    frames = call["num_frames"]
    if frames % by_frame != 1:
        frames = frames // by_frame * by_frame + 1
    height, width = (divided(call[name], PIXELS, name) * PIXELS // by_pixel for name in ("height", "width"))
    return (max(frames, 1) - 1) // by_frame + 1, height // patch[1] * patch[1], width // patch[2] * patch[2]


class WanAdapter(DiffusersAdapter):
    name = "wan"
    conditional_first = True
    tells_branches = True

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        found = []
        for i in range(len(denoiser.blocks)):
            block = f"blocks.{i}"
            found.append(
                AttentionSite(
                    component,
                    f"{block}.attn1",
                    index=i,
                    kinds=(SA, TA),
                    removals={TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.MASK,)},
                    companions=(f"{block}.norm1",),
                    output="to_out.0",
                )
            )
            found.append(
                AttentionSite(
                    component,
                    f"{block}.attn2",
                    index=i,
                    kinds=(CA,),
                    removals={CA: (Removal.DROP,)},
                    companions=(f"{block}.norm2",),
                    output="to_out.0",
                )
            )
        return found

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        batch, _, frames, height, width = argument(args, kwargs, "hidden_states", 0).shape
        text = argument(args, kwargs, "encoder_hidden_states", 2).shape[1]
        by_frame, by_row, by_column = denoiser.config.patch_size
        return Layout(batch, frames // by_frame, (height // by_row) * (width // by_column), text)

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        query = query_tokens(layout, call)
        return Segments(query, query if TA in site.kinds else text_tokens(call.keys))

    def restrict(
        self, module: nn.Module, site: AttentionSite, target: AttentionKind, removal: Removal, gate: Gate
    ) -> nn.Module:
        if removal is Removal.SELF_ONLY:
            return frames_in_batch(module, gate, fold=("hidden_states", "rotary_emb"))
        return other_frames_only(module, gate, mask="attention_mask")

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        return sketch(self, source, _latent_size, steps=steps, call=call)

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        like = {"device": denoiser.device, "dtype": denoiser.dtype}
        inputs = {
            "hidden_states": torch.randn(batch, config.in_channels, frames, height, width, **like),
            "timestep": torch.full((batch,), 500.0, device=denoiser.device),
            "encoder_hidden_states": torch.randn(batch, text or 512, config.text_dim, **like),
            "return_dict": False,
        }
        if config.image_dim is not None:
            inputs["encoder_hidden_states_image"] = torch.randn(batch, 257, config.image_dim, **like)
        return inputs
