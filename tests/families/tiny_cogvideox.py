"""A real `CogVideoXPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel

CALL = {"num_frames": 9, "height": 16, "width": 32, "guidance_scale": 3.0, "max_sequence_length": 8}


def transformer(**changes: object) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "sample_width": 16,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 8,
    }
    return CogVideoXTransformer3DModel(**(config | changes)).eval()


def pipeline() -> CogVideoXPipeline:
    denoiser = transformer(use_rotary_positional_embeddings=True)
    torch.manual_seed(1)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    ).eval()
    return CogVideoXPipeline(tiny_texts.tokenizer(), tiny_texts.t5(), vae, denoiser, CogVideoXDDIMScheduler())
