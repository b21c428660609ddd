"""A real `AnyFlowPipeline` of tiny random components."""

from __future__ import annotations

import tiny_wan
import torch
from diffusers import AnyFlowPipeline, AnyFlowTransformer3DModel, FlowMapEulerDiscreteScheduler

CALL = tiny_wan.CALL


def transformer(**changes: object) -> AnyFlowTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return AnyFlowTransformer3DModel(**(config | changes)).eval()


def pipeline() -> AnyFlowPipeline:
    wan = tiny_wan.pipeline()
    return AnyFlowPipeline(wan.tokenizer, wan.text_encoder, transformer(), wan.vae, FlowMapEulerDiscreteScheduler())
