"""The second stage: the image U-Net, inflated as Tune-A-Video does, trained with all its parameters on clips.

First by denoising alone, which makes the frames of a clip agree on the digit and on the line it moves along; then with
`order`'s helper task as well, which puts them in order.
"""

from __future__ import annotations

import torch
from f3core_tuneavideo import TuneAVideoUNet, inflate

from ..common import Workplace
from . import images, loop
from .diffusion import Denoiser, Loss, clip_latents
from .order import OrderedDenoiser, OrderedLoss

BATCH = 8
AGREE, ORDER = "agree", "order"  # the checkpoints of the two parts
AGREE_STEPS = 2850
# Between its warm-up and its decay the learning rate of this part is constant; it stops before the decay.
AGREE_CURVE = 6000
AGREE_POWER, ORDER_POWER = 0.75, 0.35
ORDER_WEIGHT = 0.1


def build() -> Denoiser:
    """The inflated model with fresh weights."""
    return _inflated(images.build())


def train(work: Workplace, steps: int = 2050, seed: int = 0, agree_steps: int = AGREE_STEPS) -> None:
    """Train for `agree_steps` steps of denoising alone and `steps` with the helper task, each on `BATCH` clips.

    Resumes from the last checkpoint. Raises `FileNotFoundError` where the image stage left none.
    """
    latents, captions = clip_latents(work)
    torch.manual_seed(seed)
    image = images.build()
    loop.load_average(work, images.CHECKPOINT, image)
    model = _inflated(image)
    loss = Loss(model, latents, captions, batch=BATCH, power=AGREE_POWER)
    loop.run(work, AGREE, model, loss, agree_steps, seed, curve=AGREE_CURVE)
    ordered = OrderedDenoiser(model)
    with_order = OrderedLoss(ordered, ORDER_WEIGHT, latents, captions, batch=BATCH, power=ORDER_POWER)
    loop.run(work, ORDER, ordered, with_order, steps, seed)


def load(work: Workplace) -> tuple[Denoiser, int]:
    """The trained model, its weights averaged, and the step of the second part that they are from."""
    ordered = OrderedDenoiser(build())
    step = loop.load_average(work, ORDER, ordered)
    ordered.order.remove()
    return ordered.denoiser, step


def _inflated(image: Denoiser) -> Denoiser:
    unet: TuneAVideoUNet = inflate(image.unet)
    return Denoiser(unet.to(memory_format=torch.channels_last), image.encoder)
