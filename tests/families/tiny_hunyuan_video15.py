"""A real `HunyuanVideo15Pipeline` of tiny random components. It makes 1985 tokens of every prompt."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from transformers import ByT5Tokenizer

CALL = {"num_frames": 9, "height": 8, "width": 16}
TRACED = False  # it does not use the text behind its last block


def transformer(**changes: object) -> HunyuanVideo15Transformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "text_embed_2_dim": 8,
        "image_embed_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    }
    return HunyuanVideo15Transformer3DModel(**(config | changes)).eval()


def pipeline() -> HunyuanVideo15Pipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLHunyuanVideo15(
        block_out_channels=(8, 8, 8), latent_channels=4, layers_per_block=1, spatial_compression_ratio=4
    ).eval()
    words = tiny_texts.tokenizer()
    # the pipeline takes what comes behind the first 108 tokens
    words.chat_template = "{{ 'a ' * 108 }}{{ messages[-1]['content'] }} right"
    return HunyuanVideo15Pipeline(
        tiny_texts.qwen_vl(layers=2).model.language_model,
        words,
        denoiser,
        vae,
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        tiny_texts.t5(),
        ByT5Tokenizer(),
        ClassifierFreeGuidance(guidance_scale=3.0),
    )
