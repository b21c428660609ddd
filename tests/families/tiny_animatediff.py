"""A real `AnimateDiffPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import tiny_unet3d
import torch
from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter, UNet2DConditionModel, UNetMotionModel

CALL = {"num_frames": 3, "height": 8, "width": 16, "guidance_scale": 5.0}

BLOCKS = {"block_out_channels": (8, 16)}
MOTION = {"motion_layers_per_block": 1, "motion_norm_num_groups": 4, "motion_num_attention_heads": 2}


def unet(**changes: object) -> UNetMotionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 4,
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "num_attention_heads": 2,
        "motion_num_attention_heads": 2,
    }
    return UNetMotionModel(**(BLOCKS | config | changes)).eval()


def pipeline() -> AnimateDiffPipeline:
    """Made as users make it: of a U-Net for images and a motion adapter."""
    torch.manual_seed(0)
    images = UNet2DConditionModel(
        **BLOCKS,
        sample_size=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    ).eval()
    motion = MotionAdapter(**BLOCKS, **MOTION).eval()
    words = tiny_texts.tokenizer(tiny_texts.CLIP_LENGTH)
    return AnimateDiffPipeline(tiny_unet3d.vae(), tiny_texts.clip_text(), words, images, motion, DDIMScheduler())
