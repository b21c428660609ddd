"""A real `EasyAnimatePipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import (
    AutoencoderKLMagvit,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
)

CALL = {"num_frames": 5, "height": 16, "width": 32, "guidance_scale": 3.0, "negative_prompt": "a left"}
TRACED = False  # torch.jit takes sizes for tensors, and its rotary table rounds them


def transformer(**changes: object) -> EasyAnimateTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "num_layers": 2,
        "mmdit_layers": 1,
        "time_embed_dim": 8,
        "add_norm_text_encoder": True,
        "text_embed_dim": 8,
    }
    return EasyAnimateTransformer3DModel(**(config | changes)).eval()


def pipeline() -> EasyAnimatePipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLMagvit(
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("SpatialDownBlock3D", "SpatialTemporalDownBlock3D", "SpatialTemporalDownBlock3D"),
        up_block_types=("SpatialUpBlock3D", "SpatialTemporalUpBlock3D", "SpatialTemporalUpBlock3D"),
        layers_per_block=1,
        norm_num_groups=2,
    ).eval()
    texts = {"text_encoder": tiny_texts.qwen_vl(), "tokenizer": tiny_texts.chat_tokenizer()}
    return EasyAnimatePipeline(vae, **texts, transformer=denoiser, scheduler=FlowMatchEulerDiscreteScheduler())
