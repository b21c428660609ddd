"""The first stage: a Stable-Diffusion-shaped text-to-image U-Net and its text encoder, trained on single frames."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from ..common import Workplace
from . import loop, text
from .diffusion import Denoiser, Loss, clip_latents
from .vae import CHANNELS

CONFIG = {
    "sample_size": 8,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "block_out_channels": (48, 96, 96),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,  # the number of heads, as in Stable Diffusion's configs
    "cross_attention_dim": text.WIDTH,
    "norm_num_groups": 8,
}
BATCH = 64
TIMESTEP_POWER = 0.75
CHECKPOINT = "images"


def build() -> Denoiser:
    """U-Net and text encoder with fresh weights."""
    unet = UNet2DConditionModel(**CONFIG)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    return Denoiser(unet, text.build_encoder(text.build_tokenizer()))


def train(work: Workplace, steps: int = 1800, seed: int = 0) -> None:
    """Train for `steps` steps in all, each on `BATCH` frames; resumes from the last checkpoint."""
    latents, captions = clip_latents(work)
    frames = latents.transpose(1, 2).flatten(0, 1)
    torch.manual_seed(seed)
    model = build()
    loss = Loss(model, frames, captions.repeat_interleave(latents.shape[2]), batch=BATCH, power=TIMESTEP_POWER)
    loop.run(work, CHECKPOINT, model, loss, steps, seed)
