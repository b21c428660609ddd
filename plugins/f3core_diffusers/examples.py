"""Example inputs: noise of the sizes that a denoiser's forward takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Example:
    """A forward to make inputs for: ``batch`` rows of ``frames`` latent frames of ``height`` × ``width``, and ``text``
    tokens. Tensors that it makes are on the denoiser's device, and those that are no numbers of things in its dtype."""

    denoiser: nn.Module
    batch: int
    frames: int
    height: int
    width: int
    text: int

    @property
    def config(self) -> Any:
        return self.denoiser.config

    def noise(self, *shape: int) -> Tensor:
        """[B, *shape], normal."""
        return torch.randn(self.batch, *shape, device=self.denoiser.device, dtype=self.denoiser.dtype)  # type: ignore[arg-type]

    def full(self, value: float, *shape: int) -> Tensor:
        """[B, *shape] of one value."""
        return self.noise(*shape).new_full((self.batch, *shape), value)

    def timestep(self, *shape: int, value: float = 500.0) -> Tensor:
        """A timestep [B, *shape] in float32; left out, in the middle of a generation."""
        return torch.full((self.batch, *shape), value, device=self.denoiser.device)  # type: ignore[arg-type]

    def places(self, number: int) -> Tensor:
        """0, 1, ... [number]."""
        return torch.arange(number, device=self.denoiser.device)  # type: ignore[arg-type]

    def padding_mask(self, text: int | None = None) -> Tensor:
        """A mask [B, T] of text tokens, 0 at padding: the last third of every second row."""
        text = text or self.text
        mask = torch.ones(self.batch, text, dtype=torch.long, device=self.denoiser.device)  # type: ignore[arg-type]
        mask[1::2, text - text // 3 :] = 0
        return mask
