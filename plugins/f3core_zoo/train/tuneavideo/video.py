"""The second stage: the image U-Net, inflated as Tune-A-Video does, trained with all its parameters on clips."""

from __future__ import annotations

import torch
from f3core_tuneavideo import TuneAVideoUNet, inflate

from ..common import Workplace
from . import images, loop
from .diffusion import Denoiser, Loss, clip_latents

BATCH = 8
CHECKPOINT = "video"


def build(work: Workplace | None = None) -> Denoiser:
    """The inflated model; with `work`, inflated from the weights that the image stage left there."""
    model = images.build()
    if work is not None:
        loop.load_average(work, images.CHECKPOINT, model)
    unet: TuneAVideoUNet = inflate(model.unet)
    return Denoiser(unet.to(memory_format=torch.channels_last), model.encoder)


def train(work: Workplace, steps: int = 4000, seed: int = 0) -> None:
    """Train for `steps` steps in all, each on `BATCH` clips; resumes from the last checkpoint."""
    latents, captions = clip_latents(work)
    torch.manual_seed(seed)
    model = build(work)
    loop.run(work, CHECKPOINT, model, Loss(model, latents, captions, BATCH), steps, seed)
