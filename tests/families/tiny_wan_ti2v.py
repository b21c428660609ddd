"""A real `WanPipeline` of tiny random components, as Wan 2.2 5B has it: a timestep for every token."""

from __future__ import annotations

import tiny_wan
from diffusers import WanPipeline

CALL = tiny_wan.CALL


def pipeline() -> WanPipeline:
    wan = tiny_wan.pipeline()
    return WanPipeline(
        wan.tokenizer, wan.text_encoder, wan.vae, wan.scheduler, transformer=wan.transformer, expand_timesteps=True
    )
