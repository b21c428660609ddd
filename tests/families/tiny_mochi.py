"""A real `MochiPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

CALL = {"num_frames": 13, "height": 32, "width": 48, "guidance_scale": 3.0, "max_sequence_length": 8}


def transformer(**changes: object) -> MochiTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "pooled_projection_dim": 16,
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "max_sequence_length": 8,
    }
    made = MochiTransformer3DModel(**(config | changes)).eval()
    torch.nn.init.normal_(made.pos_frequencies)
    return made


def pipeline() -> MochiPipeline:
    denoiser = transformer()
    torch.manual_seed(1)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
        add_attention_block=(False,) * 5,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, vae, tiny_texts.t5(), tiny_texts.tokenizer(), denoiser)
