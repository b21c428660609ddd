"""A real `ChronoEditPipeline` of tiny random components, which reasons over five frames in the first of its steps."""

from __future__ import annotations

import tiny_skyreels_v2
import tiny_wan
import tiny_wan_i2v
import torch
from diffusers import ChronoEditPipeline, ChronoEditTransformer3DModel

CALL = {
    **tiny_wan_i2v.CALL,
    "num_frames": 9,
    "enable_temporal_reasoning": True,
    "num_temporal_reasoning_steps": 1,
}
IMAGE = True


def transformer(**changes: object) -> ChronoEditTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 10,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "image_dim": 8,
        "added_kv_proj_dim": 24,
        "rope_max_seq_len": 64,
    }
    return ChronoEditTransformer3DModel(**(config | changes)).eval()


def pipeline() -> ChronoEditPipeline:
    wan, pictures = tiny_wan.pipeline(), tiny_wan_i2v.pipeline()
    return ChronoEditPipeline(
        wan.tokenizer,
        wan.text_encoder,
        pictures.image_encoder,
        pictures.image_processor,
        transformer(),
        wan.vae,
        tiny_skyreels_v2.scheduler(),
    )
