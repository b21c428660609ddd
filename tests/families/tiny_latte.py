"""A real `LattePipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import tiny_unet3d
import torch
from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

CALL = {"video_length": 3, "height": 8, "width": 16, "guidance_scale": 3.0, "mask_feature": False}


def transformer(**changes: object) -> LatteTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "cross_attention_dim": 16,
        "attention_bias": True,
        "sample_size": 8,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "caption_channels": 8,
        "video_length": 3,
    }
    return LatteTransformer3DModel(**(config | changes)).eval()


def pipeline() -> LattePipeline:
    return LattePipeline(tiny_texts.tokenizer(), tiny_texts.t5(), tiny_unet3d.vae(), transformer(), DDIMScheduler())
