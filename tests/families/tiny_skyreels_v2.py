"""A real `SkyReelsV2Pipeline` of tiny random components."""

from __future__ import annotations

import tiny_wan
import torch
from diffusers import SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel, UniPCMultistepScheduler

CALL = tiny_wan.CALL


def transformer(**changes: object) -> SkyReelsV2Transformer3DModel:
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
    }
    return SkyReelsV2Transformer3DModel(**(config | changes)).eval()


def scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def pipeline() -> SkyReelsV2Pipeline:
    wan = tiny_wan.pipeline()
    return SkyReelsV2Pipeline(wan.tokenizer, wan.text_encoder, transformer(), wan.vae, scheduler())
