"""A real `AllegroPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    EulerAncestralDiscreteScheduler,
)

CALL = {"num_frames": 17, "height": 128, "width": 144, "guidance_scale": 3.0, "max_sequence_length": 8}
READY = ("vae.enable_tiling",)


def transformer(**changes: object) -> AllegroTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": 2,
        "cross_attention_dim": 24,
        "sample_height": 8,
        "sample_width": 16,
        "sample_frames": 3,
        "caption_channels": 8,
    }
    return AllegroTransformer3DModel(**(config | changes)).eval()


def pipeline() -> AllegroPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLAllegro(
        block_out_channels=(1,) * 4,
        temporal_downsample_blocks=(True, True, True, False),
        temporal_upsample_blocks=(False, True, True, True),
        layers_per_block=1,
        norm_num_groups=1,
        temporal_compression_ratio=8,
        sample_size=128,
    ).eval()
    return AllegroPipeline(tiny_texts.tokenizer(), tiny_texts.t5(), vae, denoiser, EulerAncestralDiscreteScheduler())
