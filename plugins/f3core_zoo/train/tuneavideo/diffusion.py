"""What the two stages train on: latents of rendered clips, and the v-prediction loss, some captions left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextModel

from ... import digits
from ..common import Workplace
from . import text, vae

CLIPS = 12_288
CLIPS_SEED = 100
CAPTION_DROPOUT = 0.12
_LATENTS = "latents.pt"


class Denoiser(nn.Module):
    """What is trained: a U-Net, of images or of clips, and the text encoder."""

    def __init__(self, unet: nn.Module, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.encoder = encoder

    def forward(self, noisy: Tensor, timestep: Tensor, ids: Tensor) -> Tensor:
        """The v-prediction for latents `noisy` at `timestep` [B], under tokens [B, 16]."""
        out: Tensor = self.unet(noisy, timestep, self.encoder(ids).last_hidden_state, return_dict=False)
        return out[0] if isinstance(out, tuple) else out


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise curve, rescaled to end in pure noise, which is what sampling starts from."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=True,
    )


def clip_latents(work: Workplace) -> tuple[Tensor, Tensor]:
    """Scaled latents [12288, 4, 8, 8, 8] of training clips in half precision, and caption indices; made once."""
    if not work.path(_LATENTS).exists():
        codec = AutoencoderKL.from_pretrained(vae.MODEL_DIR / "vae").float().eval()
        latents, captions = [], []
        for part in range(CLIPS // 512):
            clips, scenes = digits.sample(512, CLIPS_SEED + part, frames=vae.FRAMES)
            latents.append(vae.encode(codec, clips).half())
            captions += [digits.SCENES.index(scene) for scene in scenes]
        work.save(_LATENTS, {"latents": torch.cat(latents), "captions": torch.tensor(captions)})
    data = work.load(_LATENTS)
    assert data is not None
    return data["latents"], data["captions"]


class Loss:
    """Mean squared error of the v-prediction on random rows of `latents` [N, 4, ...], noise independent everywhere.

    Most of what a caption decides is decided at high noise: a `power` below 1 shifts the timesteps that way.
    """

    def __init__(self, model: Denoiser, latents: Tensor, captions: Tensor, *, batch: int, power: float) -> None:
        self.model, self.latents, self.captions = model, latents, captions
        self.batch, self.power = batch, power
        self.ids = text.tokenize(text.build_tokenizer())
        self.scheduler = scheduler()

    def __call__(self, generator: torch.Generator) -> Tensor:
        """The loss of one batch, drawn from `generator`."""
        pick = torch.randint(len(self.latents), (self.batch,), generator=generator)
        clean = self.latents[pick].float()
        dropped = torch.rand(self.batch, generator=generator) < CAPTION_DROPOUT
        caption = torch.where(dropped, len(self.ids) - 1, self.captions[pick])
        # One level from each of as many equal slices, in place of as many draws from the whole: a quieter loss.
        slices = torch.arange(self.batch) + torch.rand(self.batch, generator=generator)
        level = (slices / self.batch).clamp_max(1 - 1e-6) ** self.power
        timestep = (level * self.scheduler.config.num_train_timesteps).long()
        noise = torch.randn(clean.shape, generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, timestep)
        target = self.scheduler.get_velocity(clean, noise, timestep)
        return F.mse_loss(self.model(noisy, timestep, self.ids[caption]), target)
