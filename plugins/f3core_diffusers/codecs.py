"""`Codec`: clips to the latents that a pipeline's denoiser sees, the inverse of what the pipeline decodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from f3core.errors import ModelError

PIXELS_AT_ONCE = 2**23
"""pixels that are encoded in one go, to bound the memory it takes; a clip, or a picture, is never split"""


class Codec:
    """``vae`` of a pipeline: of clips, or of pictures, which then are a clip's frames.

    ``by_frame`` and ``by_pixel`` say how far it compresses time and space, ``channels`` how many its latents have.
    Raises `ModelError` where there is none, it cannot encode, or does not say so.
    """

    def __init__(self, pipeline: Any) -> None:
        found = getattr(pipeline, "vae", None)
        if found is None or not hasattr(found, "encoder"):
            named = "has no vae" if found is None else f"has the codec {type(found).__name__}, which does not encode"
            raise ModelError(f"{type(pipeline).__name__} {named}, so clips cannot be brought to its latents here")
        self.vae: Any = found
        channels = self.vae.config.get("z_dim") or self.vae.config.get("latent_channels")
        if channels is None:
            raise ModelError(f"the codec {type(self.vae).__name__} does not say how many channels its latents have")
        self.channels = int(channels)
        self.of_clips = any(isinstance(module, nn.Conv3d) for module in self.vae.encoder.modules())

        by_pixel = self._compression("spatial")
        by_frame = self._compression("temporal") if self.of_clips else 1
        if by_pixel is None and hasattr(self.vae.config, "block_out_channels"):
            by_pixel = 2 ** (len(self.vae.config.block_out_channels) - 1)
        if by_pixel is None or by_frame is None:
            raise ModelError(f"the codec {type(self.vae).__name__} does not say how far it compresses clips")
        self.by_frame, self.by_pixel = by_frame, by_pixel

    def size(self, latent: tuple[int, int, int]) -> tuple[int, int, int]:
        """Frames, height and width in pixels of latents of so many frames, rows and columns. A codec that compresses
        time keeps the first frame alone."""
        frames, height, width = latent
        return (frames - 1) * self.by_frame + 1, height * self.by_pixel, width * self.by_pixel

    def _compression(self, axis: str) -> int | None:
        for place, name in ((self.vae, f"{axis}_compression_ratio"), (self.vae.config, f"scale_factor_{axis}")):
            found = getattr(place, name, None)
            if found is not None:
                return int(found)
        return None

    @torch.no_grad()
    def encode(self, clips: Tensor) -> Tensor:
        """Latents [B, C, F', H', W'] in float32, of clips [B, F, 3, H, W] in [0, 1]: the mode of what the codec says,
        at the denoiser's scale."""
        upcast = self.vae.dtype == torch.float16 and bool(self.vae.config.get("force_upcast"))
        before = self.vae.dtype
        if upcast:
            self.vae.to(torch.float32)
        try:
            pixels = (2 * clips - 1).to(self.vae.device, self.vae.dtype)
            items = pixels.transpose(1, 2) if self.of_clips else pixels.flatten(0, 1)
            at_once: int = max(1, PIXELS_AT_ONCE // (items[0].numel() // 3))
            latents = torch.cat([self._mode(part) for part in torch.split(items, at_once)]).float()
        finally:
            if upcast:
                self.vae.to(before)
        if not self.of_clips:
            latents = latents.view(*clips.shape[:2], *latents.shape[1:]).transpose(1, 2)
        return self._scaled(latents)

    def _mode(self, items: Tensor) -> Tensor:
        try:
            encoded = self.vae.encode(items)
        except NotImplementedError as error:
            raise ModelError(f"the codec {type(self.vae).__name__} cannot encode clips: {error}") from error
        distribution = getattr(encoded, "latent_dist", None)
        mode: Tensor = encoded.latent if distribution is None else distribution.mode()
        return mode

    def _scaled(self, latents: Tensor) -> Tensor:
        """As pipelines have it: normalised channel by channel, or moved by ``shift_factor``; then scaled."""
        config = self.vae.config
        mean, std = (self._by_channel(name, latents) for name in ("latents_mean", "latents_std"))
        if mean is not None and std is not None:
            latents = (latents - mean) / std
        elif config.get("shift_factor") is not None:
            latents = latents - config.shift_factor
        return latents * (config.get("scaling_factor") or 1.0)

    def _by_channel(self, name: str, latents: Tensor) -> Tensor | None:
        found = vars(self.vae).get("_buffers", {}).get(name)
        found = self.vae.config.get(name) if found is None else found
        return None if found is None else torch.as_tensor(found).to(latents).view(1, -1, 1, 1, 1)
