"""A real `Kandinsky5T2VPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)

CALL = {
    "num_frames": 9,
    "height": 16,
    "width": 32,
    "guidance_scale": 3.0,
    "negative_prompt": "a green dog runs",
    "max_sequence_length": 6,  # what the tokenizer leaves of every prompt in the template
}


def transformer(**changes: object) -> Kandinsky5Transformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 8,
        "in_text_dim2": 8,
        "time_dim": 16,
        "model_dim": 32,
        "ff_dim": 64,
        "num_text_blocks": 1,
        "num_visual_blocks": 2,
        "axes_dims": (4, 6, 6),
    }
    model = Kandinsky5Transformer3DModel(**(config | changes)).eval()
    for name, parameter in model.named_parameters():
        if "modulation" in name:  # all zeros, as one begins to train
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def pipeline() -> Kandinsky5T2VPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
        spatial_compression_ratio=4,
    ).eval()
    return Kandinsky5T2VPipeline(
        denoiser,
        vae,
        tiny_texts.qwen_vl(),
        tiny_texts.tokenizer(256),
        tiny_texts.clip_text(),
        tiny_texts.tokenizer(tiny_texts.CLIP_LENGTH),
        FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
