"""`TuneAVideoPipeline`: clips from text by DDIM sampling with classifier-free guidance, and the way back.

Source: arXiv 2212.11565, section 3.3; DDIM inversion as in arXiv 2010.02502.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from f3core_tuneavideo.unet import TuneAVideoUNet

STOCK = "TextToVideoSDPipeline"
"""diffusers' pipeline of the same components, under whose name ours is saved so that diffusers alone loads it"""

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class TuneAVideoPipelineOutput(BaseOutput):
    """``frames``: [B, F, 3, H, W] in [0, 1] for "pt", [B, F, H, W, 3] for "np", lists of images for "pil",
    latents [B, C, F, H', W'] for "latent"."""

    frames: Any


class TuneAVideoPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Stable Diffusion's parts around a `TuneAVideoUNet`. `load_pipeline` makes one from a folder or a hub id."""

    model_cpu_offload_seq = "text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: TuneAVideoUNet,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.video_processor = VideoProcessor(do_resize=False, vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        video_length: int = 24,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 12.5,
        negative_prompt: str | Sequence[str] | None = None,
        eta: float = 0.0,
        generator: Generators = None,
        latents: Tensor | None = None,
        video: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> TuneAVideoPipelineOutput | tuple[Any]:
        """Generate one clip a prompt, of ``video_length`` frames of ``height`` × ``width`` pixels.

        ``generator`` is one, or one a prompt: then a prompt's noise does not depend on the others. The start is
        ``latents`` [B or 1, C, F, H', W'] or what `invert` makes of ``video`` [B or 1, F, 3, H, W] where one is given;
        they decide the size of the clip. Guidance is off at a scale of 1 or less. Raises ValueError for sizes that
        the autoencoder cannot make and for numbers of prompts, negative prompts and generators that do not agree.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        device, dtype = self._execution_device, self.unet.dtype
        guided = guidance_scale > 1
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = list(generator)
        text = self._encode(prompts)
        if guided:
            text = torch.cat([self._encode(self._negative(negative_prompt, len(prompts))), text])
        if video is not None:
            if latents is not None:
                raise ValueError("give latents or a video to start from, not both")
            latents = self.invert(video, num_inference_steps=num_inference_steps)
        latents = self._start(latents, len(prompts), video_length, height, width, generator).to(device, dtype)

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        extra = {"eta": eta, "generator": generator} if isinstance(self.scheduler, DDIMScheduler) else {}
        for timestep in self.progress_bar(self.scheduler.timesteps):
            rows = torch.cat([latents, latents]) if guided else latents
            with self.unet.cache_context("uncond_cond" if guided else "cond"):
                predicted = self.unet(self.scheduler.scale_model_input(rows, timestep), timestep, text)
            if guided:
                plain, asked = predicted.chunk(2)
                predicted = plain + guidance_scale * (asked - plain)
            latents = self.scheduler.step(predicted, timestep, latents, **extra).prev_sample

        frames = latents if output_type == "latent" else self._decode(latents, output_type)
        self.maybe_free_model_hooks()
        return TuneAVideoPipelineOutput(frames=frames) if return_dict else (frames,)

    @torch.no_grad()
    def invert(self, video: Tensor, prompt: str | Sequence[str] = "", num_inference_steps: int = 50) -> Tensor:
        """Latents [B, C, F, H', W'] from which sampling at guidance 1 and with the same prompt gives back ``video``.

        ``video`` is [B, F, 3, H, W] in [0, 1]. DDIM run backwards: the smaller the steps, the closer. Raises
        ValueError for a scheduler whose timestep spacing has no inverse.
        """
        device = self._execution_device
        batch, frames = video.shape[:2]
        prompts = [prompt] * batch if isinstance(prompt, str) else list(prompt)
        text = self._encode(prompts)
        pictures = video.flatten(0, 1).to(device, self.vae.dtype)
        encoded = torch.cat([self.vae.encode(2 * part - 1).latent_dist.mode() for part in pictures.split(frames)])
        latents = (encoded * self.vae.config.scaling_factor).unflatten(0, (batch, frames)).transpose(1, 2)
        latents = latents.to(self.unet.dtype)
        scheduler = DDIMInverseScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(num_inference_steps, device=device)
        for timestep in self.progress_bar(scheduler.timesteps):
            with self.unet.cache_context("cond"):
                predicted = self.unet(latents, timestep, text)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
        return latents

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As diffusers', under the name of its own pipeline with these components, which loads the folder too."""
        super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / self.config_name
        index = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**index, "_class_name": STOCK}, indent=2) + "\n", encoding="utf-8")

    # --- parts ------------------------------------------------------------------------------------------------------

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        """Text embeddings [B, L, D] on the U-Net's device and dtype."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self._execution_device
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if masked else None
        return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0].to(device, self.unet.dtype)

    def _negative(self, negative: str | Sequence[str] | None, number: int) -> list[str]:
        if negative is None or isinstance(negative, str):
            return [negative or ""] * number
        if len(negative) != number:
            raise ValueError(f"{len(negative)} negative prompts for {number} prompts")
        return list(negative)

    def _start(
        self,
        latents: Tensor | None,
        batch: int,
        frames: int,
        height: int | None,
        width: int | None,
        generator: Generators,
    ) -> Tensor:
        """Noise [B, C, F, H', W'], unless latents are given; row i's by generator i when there is one a row."""
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"{len(generator)} generators for {batch} prompts")
        if latents is not None:
            if latents.shape[0] not in (1, batch):
                raise ValueError(f"latents of {latents.shape[0]} clips for {batch} prompts")
            return latents.expand(batch, *latents.shape[1:])
        factor = self.vae_scale_factor
        size = [n or (self.unet.config.sample_size or 64) * factor for n in (height, width)]
        if size[0] % factor or size[1] % factor:
            raise ValueError(f"height and width must be multiples of {factor}, not {size[0]} and {size[1]}")
        shape = (batch, self.unet.config.in_channels, frames, size[0] // factor, size[1] // factor)
        return randn_tensor(shape, generator, self._execution_device, self.unet.dtype)

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        """Frames of latents [B, C, F, H', W'], a clip at a time."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        clips = [self.vae.decode(clip.transpose(0, 1)).sample.transpose(0, 1) for clip in scaled]
        return self.video_processor.postprocess_video(torch.stack(clips).float(), output_type)
