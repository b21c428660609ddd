"""A real `LTXPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

CALL = {"num_frames": 9, "height": 32, "width": 64, "guidance_scale": 3.0, "max_sequence_length": 8}


def transformer(**changes: object) -> LTXVideoTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 8,
        "num_layers": 2,
    }
    return LTXVideoTransformer3DModel(**(config | changes)).eval()


def pipeline() -> LTXPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        downsample_type=("conv", "conv"),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=16,
        max_image_seq_len=64,
        shift_terminal=0.1,
    )
    return LTXPipeline(scheduler, vae, tiny_texts.t5(), tiny_texts.tokenizer(), denoiser)
