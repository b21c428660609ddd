"""A real `WanVACEPipeline` of tiny random components."""

from __future__ import annotations

import tiny_wan
import torch
from diffusers import WanVACEPipeline, WanVACETransformer3DModel

CALL = tiny_wan.CALL


def transformer(**changes: object) -> WanVACETransformer3DModel:
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
        "rope_max_seq_len": 64,
        "vace_layers": [0],
        "vace_in_channels": 12,
    }
    return WanVACETransformer3DModel(**(config | changes)).eval()


def pipeline() -> WanVACEPipeline:
    wan = tiny_wan.pipeline()
    return WanVACEPipeline(wan.tokenizer, wan.text_encoder, wan.vae, wan.scheduler, transformer=transformer())
