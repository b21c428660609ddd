"""A real `HunyuanVideoPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)

CALL = {
    "num_frames": 9,
    "height": 16,
    "width": 32,
    "true_cfg_scale": 3.0,
    "negative_prompt": "a dog",
    "max_sequence_length": 8,
    "prompt_template": {"template": "{}", "crop_start": 0},
}
TRACED = False  # it fills a mask with a boolean


def transformer(**changes: object) -> HunyuanVideoTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "num_refiner_layers": 1,
        "mlp_ratio": 2.0,
        "text_embed_dim": 8,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 6, 6),
    }
    return HunyuanVideoTransformer3DModel(**(config | changes)).eval()


def pipeline() -> HunyuanVideoPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLHunyuanVideo(
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(4, 4, 4, 4),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return HunyuanVideoPipeline(
        tiny_texts.llama(),
        tiny_texts.tokenizer(),
        denoiser,
        vae,
        scheduler,
        tiny_texts.clip_text(),
        tiny_texts.tokenizer(tiny_texts.CLIP_LENGTH),
    )
