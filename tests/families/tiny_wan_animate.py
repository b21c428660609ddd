"""A real `WanAnimatePipeline` of tiny random components, two segments long."""

from __future__ import annotations

import tiny_texts
import tiny_wan
import torch
from diffusers import AutoencoderKLWan, WanAnimatePipeline, WanAnimateTransformer3DModel

CALL = {"segment_frame_length": 5, "height": 16, "width": 32, "guidance_scale": 3.0, "max_sequence_length": 512}
"""3 latent frames of 4 × 8, the reference among them; its attention takes the last 512 tokens for text."""
IMAGE = True
VIDEOS = {"pose_video": 9, "face_video": 9}


def transformer(**changes: object) -> WanAnimateTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 12,
        "latent_channels": 4,
        "out_channels": 4,
        "text_dim": 8,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "image_dim": 8,
        "added_kv_proj_dim": 32,
        "rope_max_seq_len": 64,
        "motion_encoder_channel_sizes": {"4": 4, "8": 4},
        "motion_encoder_size": 8,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 8,
        "face_encoder_hidden_dim": 8,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
        "motion_encoder_batch_size": 32,
    }
    return WanAnimateTransformer3DModel(**(config | changes)).eval()


def pipeline() -> WanAnimatePipeline:
    wan = tiny_wan.pipeline()
    torch.manual_seed(1)
    vae = AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
        scale_factor_temporal=4,
        scale_factor_spatial=4,
    ).eval()
    return WanAnimatePipeline(
        wan.tokenizer,
        wan.text_encoder,
        vae,
        wan.scheduler,
        tiny_texts.clip_image_processor(),
        tiny_texts.clip_vision(),
        transformer(),
    )
