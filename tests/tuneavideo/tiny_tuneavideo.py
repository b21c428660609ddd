"""A tiny random Tune-A-Video, built locally; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from f3core_tuneavideo import TuneAVideoPipeline, TuneAVideoUNet
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

CONFIG: dict[str, Any] = {
    "sample_size": 4,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
    "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Stable Diffusion 1.4's"""
CALL: dict[str, Any] = {"video_length": 3, "height": 8, "width": 12, "guidance_scale": 3.0}
"""Generation arguments under which the denoiser sees 3 frames of 4 × 6 tokens."""
WORDS = ("<pad>", "<s>", "<unk>", "</s>", "a", "red", "cat", "dog", "runs")


def unet(**changes: Any) -> TuneAVideoUNet:
    """The denoiser alone, seeded; four transformer blocks at two resolutions, none of its weights zero."""
    torch.manual_seed(0)
    model = TuneAVideoUNet(**(CONFIG | changes)).eval()
    for name, module in model.named_modules():
        if name.endswith("attn_temp.to_out.0"):
            nn.init.normal_(module.weight, std=0.3)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=6,
    )


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(1)
    config = CLIPTextConfig(
        vocab_size=len(WORDS),
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    return CLIPTextModel(config).eval()


def vae() -> AutoencoderKL:
    torch.manual_seed(2)
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
        mid_block_add_attention=False,
    ).eval()


def pipeline() -> TuneAVideoPipeline:
    """The whole pipeline, seeded, in float32."""
    made = TuneAVideoPipeline(vae(), text_encoder(), tokenizer(), unet(), DDIMScheduler(**SCHEDULE))
    made.set_progress_bar_config(disable=True)
    return made
