"""A real `TextToVideoSDPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel

CALL = {"num_frames": 3, "height": 8, "width": 16, "guidance_scale": 5.0}


def unet(**changes: object) -> UNet3DConditionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 4,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
    }
    return UNet3DConditionModel(**(config | changes)).eval()


def vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
    ).eval()


def pipeline() -> TextToVideoSDPipeline:
    words = tiny_texts.tokenizer(tiny_texts.CLIP_LENGTH)
    return TextToVideoSDPipeline(vae(), tiny_texts.clip_text(), words, unet(), DDIMScheduler())
