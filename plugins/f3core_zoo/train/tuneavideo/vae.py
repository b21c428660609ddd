"""Trains the tiny `AutoencoderKL` that turns a frame of 16x16 pixels into 4 latent channels of 8x8."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from ... import digits
from ..common import PACKAGE, Workplace, psnr, warm_then_decay

MODEL_DIR = PACKAGE / "digits_tuneavideo"
FRAMES = 8
CHANNELS = 4
CONFIG = {
    "block_out_channels": (16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "latent_channels": CHANNELS,
    "norm_num_groups": 8,
    "sample_size": digits.SIZE,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
# The posterior's spread is fixed: a learned one starts at 1 and drowns the means for the first few hundred steps.
SPREAD = 0.05
NOISE = 0.05
MEAN_WEIGHT = 1e-3
CLIPS_A_STEP = 12
_CHECKPOINT = "vae.pt"


def train(work: Workplace, steps: int = 1500, seed: int = 0, learning_rate: float = 3e-3) -> None:
    """Train, or go on training, for `steps` steps in all and save to the model folder."""
    torch.manual_seed(seed)
    model = AutoencoderKL(**CONFIG)
    _fix_spread(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    began = time.perf_counter()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm_then_decay(step, steps, 30)
        clips, _ = digits.sample(CLIPS_A_STEP, seed * 1_000_003 + step, frames=FRAMES)
        target = to_model(clips)
        means = model.encode(target).latent_dist.mean
        # The noise comes from a generator that depends on the step alone, so that a resumed run repeats itself.
        noise = torch.Generator().manual_seed(seed * 7_000_003 + step)
        rebuilt = model.decode(means + NOISE * torch.randn(means.shape, generator=noise)).sample
        loss = F.mse_loss(rebuilt, target) + 0.2 * F.l1_loss(rebuilt, target) + MEAN_WEIGHT * means.square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            error = F.mse_loss(rebuilt, target).item()
            print(f"vae {step + 1}/{steps} psnr {psnr(error):.1f} dB, {time.perf_counter() - began:.0f} s", flush=True)
            work.save(_CHECKPOINT, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    _finish(model)


def to_model(clips: Tensor) -> Tensor:
    """Clips [B, F, 3, H, W] in [0, 1] as the codec takes them: single frames [B*F, 3, H, W] in [-1, 1]."""
    return clips.flatten(0, 1) * 2 - 1


@torch.no_grad()
def encode(model: AutoencoderKL, clips: Tensor, batch: int = 64) -> Tensor:
    """Scaled latents [B, 4, F, 8, 8] of clips [B, F, 3, 16, 16] in [0, 1]."""
    parts = [model.encode(to_model(part)).latent_dist.mode() for part in clips.split(batch)]
    return torch.cat(parts).unflatten(0, clips.shape[:2]).transpose(1, 2) * model.config.scaling_factor


@torch.no_grad()
def decode(model: AutoencoderKL, latents: Tensor) -> Tensor:
    """Clips [B, F, 3, 16, 16] in [0, 1] of scaled latents [B, 4, F, 8, 8]."""
    frames = latents.transpose(1, 2)
    pixels = model.decode(frames.flatten(0, 1) / model.config.scaling_factor).sample
    return (pixels / 2 + 0.5).clamp(0, 1).unflatten(0, frames.shape[:2])


@torch.no_grad()
def _finish(model: AutoencoderKL) -> None:
    """Standardise the latents, measure on held-out digits, and save."""
    model.eval()
    _standardise(model, encode(model, digits.sample(512, 2, frames=FRAMES)[0]))
    latents = encode(model, digits.sample(512, 3, frames=FRAMES)[0])
    print("vae latents mean", latents.mean((0, 2, 3, 4)).tolist(), "std", latents.std((0, 2, 3, 4)).tolist())
    clips, _ = digits.sample(64, 1, split="held_out", frames=FRAMES)
    rebuilt = decode(model, encode(model, clips))
    print(f"vae held-out psnr {psnr(4 * F.mse_loss(rebuilt, clips).item()):.2f} dB")
    model.half().save_pretrained(MODEL_DIR / "vae")


@torch.no_grad()
def _standardise(model: AutoencoderKL, latents: Tensor) -> None:
    """Give each latent channel mean 0 and spread 1, inside the two 1x1 convolutions that frame the latents.

    `scaling_factor` has one number for all channels and Stable Diffusion's codec no shift; this needs neither.
    """
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    into, out = model.quant_conv, model.post_quant_conv
    half = CHANNELS
    into.weight[:half] /= std.view(-1, 1, 1, 1)
    into.bias[:half] = (into.bias[:half] - mean) / std
    into.bias[half:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)


@torch.no_grad()
def _fix_spread(model: AutoencoderKL) -> None:
    """Make the codec's posterior as wide as `SPREAD` everywhere, whatever the frame."""
    model.quant_conv.weight[CHANNELS:] = 0.0
    model.quant_conv.bias[CHANNELS:] = 2 * math.log(SPREAD)
