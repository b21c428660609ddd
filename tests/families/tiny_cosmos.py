"""A real `CosmosTextToWorldPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import AutoencoderKLCosmos, CosmosTextToWorldPipeline, CosmosTransformer3DModel, EDMEulerScheduler
from passing_guardrail import PassingGuardrail

CALL = {"num_frames": 9, "height": 16, "width": 32, "guidance_scale": 3.0, "max_sequence_length": 8}


def transformer(**changes: object) -> CosmosTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "mlp_ratio": 2,
        "text_embed_dim": 8,
        "adaln_lora_dim": 4,
        "max_size": (4, 16, 16),
        "concat_padding_mask": False,  # diffusers resizes that mask by torchvision, which f3core does not need
    }
    return CosmosTransformer3DModel(**(config | changes)).eval()


def pipeline() -> CosmosTextToWorldPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8),
        decode_block_out_channels=(8, 8, 8),
        attention_resolutions=(),
        resolution=32,
        num_layers=1,
        patch_size=2,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        latents_mean=None,
        latents_std=None,
    ).eval()
    scheduler = EDMEulerScheduler(sigma_max=80.0, sigma_min=0.002, final_sigmas_type="sigma_min")
    return CosmosTextToWorldPipeline(
        tiny_texts.t5(), tiny_texts.tokenizer(), denoiser, vae, scheduler, PassingGuardrail().eval()
    )
