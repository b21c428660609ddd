"""AnyFlow: ``AnyFlowTransformer3DModel``, Wan's blocks over latents [B, F, C, H, W], with two timesteps for each frame:
where it is, and where the step is to lead. The level of a forward is that of its noisiest frame.

Latents of a given beginning are frames as any other; image-conditioning tokens count as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from f3core.segments import argument
from f3core_diffusers.blocks import like
from f3core_diffusers.wan import WanAdapter


class AnyFlowAdapter(WanAdapter):
    name = "anyflow"
    conditional_first = False
    tells_branches = False
    text = ("encoder_hidden_states", 3)

    def latents(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, int, int, int]:
        batch, frames, _, height, width = argument(args, kwargs, "hidden_states", 0).shape
        return batch, frames, height, width

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config = denoiser.config
        inputs = {
            "hidden_states": torch.randn(batch, frames, config.in_channels, height, width, **like(denoiser)),
            "timestep": torch.full((batch, frames), 500.0, device=denoiser.device),  # type: ignore[arg-type]
            "r_timestep": torch.full((batch, frames), 250.0, device=denoiser.device),  # type: ignore[arg-type]
            "encoder_hidden_states": torch.randn(batch, text or 512, config.text_dim, **like(denoiser)),
            "return_dict": False,
        }
        if config.image_dim is not None:
            inputs["encoder_hidden_states_image"] = torch.randn(batch, 257, config.image_dim, **like(denoiser))
        return inputs
