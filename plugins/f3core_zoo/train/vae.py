"""Trains the tiny `AutoencoderKLWan` that turns 21 frames of 16x16 pixels into 11 latent frames of 8x8."""

from __future__ import annotations

import math
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

from .. import digits
from .common import MODEL_DIR, Workplace, psnr, warm_then_decay

CONFIG = {
    "base_dim": 12,
    "z_dim": 8,
    "dim_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True],
    "scale_factor_temporal": 2,
    "scale_factor_spatial": 2,
}
# The posterior's spread is fixed: a learned one starts at 1 and drowns the means for the first few hundred steps.
SPREAD = 0.1
MEAN_WEIGHT = 1e-4
BATCH = 8
# Short windows are cheap and teach most of it; the codec's memory reaches further back, so whole clips follow, with
# less noise and a learning-rate curve of their own.
WINDOW = 9
WINDOW_STEPS = 1000
WINDOW_NOISE, CLIP_NOISE = 0.1, 0.03
_CHECKPOINT = "vae.pt"


def train(work: Workplace, steps: int = 1600, seed: int = 0, learning_rate: float = 3e-3) -> None:
    """Train, or go on training, for `steps` steps in all and save to the model folder."""
    torch.manual_seed(seed)
    model = AutoencoderKLWan(**CONFIG, latents_mean=[0.0] * CONFIG["z_dim"], latents_std=[1.0] * CONFIG["z_dim"])
    _fix_spread(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    began = time.perf_counter()
    for step in range(first, steps):
        windows = step < WINDOW_STEPS
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm_then_decay(step, WINDOW_STEPS if windows else steps, 30)
        clips, _ = digits.sample(BATCH, seed * 1_000_003 + step)
        if windows:
            start = step % (digits.FRAMES - WINDOW + 1)
            clips = clips[:, start : start + WINDOW]
        target = to_model(clips)
        means = model.encode(target).latent_dist.mean
        # The noise comes from a generator that depends on the step alone, so that a resumed run repeats itself.
        noise = torch.Generator().manual_seed(seed * 7_000_003 + step)
        noisy = means + (WINDOW_NOISE if windows else CLIP_NOISE) * torch.randn(means.shape, generator=noise)
        rebuilt = decode_unclamped(model, noisy)
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
    """Clips [B, F, 3, H, W] in [0, 1] as the codec takes them: [B, 3, F, H, W] in [-1, 1]."""
    return clips.transpose(1, 2) * 2 - 1


def decode_unclamped(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """`model.decode` without its last step, a clamp to [-1, 1].

    The background lies on that bound, where the clamp passes no gradient: trained through it, the codec never starts.
    """
    model.clear_cache()
    hidden = model.post_quant_conv(latents)
    frames = []
    for i in range(hidden.shape[2]):
        model._conv_idx = [0]
        frames.append(
            model.decoder(
                hidden[:, :, i : i + 1], feat_cache=model._feat_map, feat_idx=model._conv_idx, first_chunk=i == 0
            )
        )
    model.clear_cache()
    return torch.cat(frames, dim=2)


@torch.no_grad()
def encode(model: AutoencoderKLWan, clips: Tensor, batch: int = 64) -> Tensor:
    """Latents [B, C, 11, 8, 8] of clips [B, 21, 3, 16, 16] in [0, 1], not yet normalised."""
    return torch.cat([model.encode(to_model(part)).latent_dist.mode() for part in clips.split(batch)])


@torch.no_grad()
def _finish(model: AutoencoderKLWan) -> None:
    """Measure on held-out digits, record the latents' statistics in the config, and save."""
    model.eval()
    clips, _ = digits.sample(64, 1, split="held_out")
    rebuilt = model.decode(encode(model, clips)).sample
    print(f"vae held-out psnr {psnr(F.mse_loss(rebuilt, to_model(clips)).item()):.2f} dB")
    latents = encode(model, digits.sample(512, 2)[0])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    print("vae latents mean", mean.tolist(), "std", std.tolist())
    model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    model.half().save_pretrained(MODEL_DIR / "vae")


def _fix_spread(model: AutoencoderKLWan) -> None:
    """Make the codec's posterior as wide as `SPREAD` everywhere, whatever the clip."""
    with torch.no_grad():
        half = CONFIG["z_dim"]
        model.quant_conv.weight[half:] = 0.0
        model.quant_conv.bias[half:] = 2 * math.log(SPREAD)
