"""A real `MotifVideoPipeline` of tiny random components: blocks of two streams, of one, and of the decoder."""

from __future__ import annotations

import tiny_texts
import tiny_wan
import torch
from diffusers import (
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
)

CALL = {"num_frames": 5, "height": 16, "width": 32, "max_sequence_length": 8}


def transformer(**changes: object) -> MotifVideoTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 2,
        "num_decoder_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "rope_axes_dim": (4, 6, 6),
        "enable_text_cross_attention_dual": True,
        "enable_text_cross_attention_single": True,
    }
    return MotifVideoTransformer3DModel(**(config | changes)).eval()


def pipeline() -> MotifVideoPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = tiny_wan.vae()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    guider = ClassifierFreeGuidance(guidance_scale=3.0)
    return MotifVideoPipeline(scheduler, vae, tiny_texts.t5gemma2(), tiny_texts.tokenizer(), denoiser, guider)
