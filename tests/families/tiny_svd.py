"""A real `StableVideoDiffusionPipeline` of tiny random components, its scheduler as published."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

PROMPTED = False
IMAGE = True
CALL = {"num_frames": 3, "height": 8, "width": 16, "max_guidance_scale": 3.0}


def unet(**changes: object) -> UNetSpatioTemporalConditionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 4,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 12,
        "cross_attention_dim": 8,
        "num_attention_heads": (2, 4),
        "num_frames": 3,
    }
    return UNetSpatioTemporalConditionModel(**(config | changes)).eval()


def pipeline() -> StableVideoDiffusionPipeline:
    denoiser = unet()
    torch.manual_seed(1)
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), force_upcast=False
    ).eval()
    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=8,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        interpolation_type="linear",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        timestep_type="continuous",
        steps_offset=1,
    )
    encoder = CLIPVisionModelWithProjection(config).eval()
    return StableVideoDiffusionPipeline(vae, encoder, denoiser, scheduler, CLIPImageProcessor())
