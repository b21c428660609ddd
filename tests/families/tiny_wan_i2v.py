"""A real `WanImageToVideoPipeline` of tiny random components, as Wan 2.1 has it: image tokens beside the text."""

from __future__ import annotations

import tiny_texts
import tiny_wan
from diffusers import WanImageToVideoPipeline

CALL = {**tiny_wan.CALL, "max_sequence_length": 512}
"""Its attention takes the last 512 tokens for text."""
IMAGE = True


def pipeline() -> WanImageToVideoPipeline:
    wan = tiny_wan.pipeline()
    return WanImageToVideoPipeline(
        wan.tokenizer,
        wan.text_encoder,
        wan.vae,
        wan.scheduler,
        tiny_texts.clip_image_processor(),
        tiny_texts.clip_vision(),
        transformer=tiny_wan.transformer(in_channels=10, image_dim=8, added_kv_proj_dim=32),
    )
