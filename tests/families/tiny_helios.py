"""A real `HeliosPipeline` of tiny random components, two chunks long."""

from __future__ import annotations

import tiny_wan
import torch
from diffusers import HeliosPipeline, HeliosScheduler, HeliosTransformer3DModel

CALL = {**tiny_wan.CALL, "num_frames": 10, "num_latent_frames_per_chunk": 3, "history_sizes": [8, 2, 1]}


def transformer(**changes: object) -> HeliosTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_dim": (4, 6, 6),
    }
    return HeliosTransformer3DModel(**(config | changes)).eval()


def pipeline() -> HeliosPipeline:
    wan = tiny_wan.pipeline()
    scheduler = HeliosScheduler(stages=1, shift=1.0, use_dynamic_shifting=True)
    return HeliosPipeline(wan.tokenizer, wan.text_encoder, wan.vae, scheduler, transformer())
