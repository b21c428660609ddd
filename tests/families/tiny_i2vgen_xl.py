"""A real `I2VGenXLPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import tiny_unet3d
import torch
from diffusers import DDIMScheduler, I2VGenXLPipeline, I2VGenXLUNet

CALL = {"num_frames": 3, "height": 8, "width": 16, "guidance_scale": 5.0, "clip_skip": None}
IMAGE = True


def unet(**changes: object) -> I2VGenXLUNet:
    torch.manual_seed(0)
    config = {
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 8,
        "attention_head_dim": 4,
    }
    return I2VGenXLUNet(**(config | changes)).eval()


def pipeline() -> I2VGenXLPipeline:
    denoiser, vae = unet(), tiny_unet3d.vae()
    words = tiny_texts.tokenizer(tiny_texts.CLIP_LENGTH)
    torch.manual_seed(2)
    return I2VGenXLPipeline(
        vae=vae,
        text_encoder=tiny_texts.clip_text(),
        tokenizer=words,
        image_encoder=tiny_texts.clip_vision_projected(),
        feature_extractor=tiny_texts.clip_image_processor(),
        unet=denoiser,
        scheduler=DDIMScheduler(),
    )
