"""EasyAnimate 5 and 5.1: ``EasyAnimateTransformer3DModel``, joint attention over [text; all frames].

Embeddings of a second text encoder (T5, in 5.0) are text too. The latents of given frames (inpaint, I2V) and of a
control video are channels of every frame, not tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.compacting import Left
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Joint
from f3core_diffusers.sketch import codec_size


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    rounded = {name: call[name] // 16 * 16 for name in ("height", "width")}  # as the pipelines do
    return codec_size(source, denoiser, {**call, **rounded})


class EasyAnimateAdapter(BlocksAdapter):
    name = "easyanimate"
    usual_text = 256
    text = ("encoder_hidden_states", 3)
    stacks = {"transformer_blocks": {"attn1": Joint(text_first=True)}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    hands = {"transformer_blocks": ("hidden_states", "encoder_hidden_states")}  # noqa: RUF012
    latent_size = staticmethod(_latent_size)

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """The first blocks have weights of their own for text."""
        apart = sum(number < denoiser.config.mmdit_layers for number in left["transformer_blocks"])
        return {"num_layers": len(left["transformer_blocks"]), "mmdit_layers": apart}

    def generate(
        self, pipeline: Any, prompts: Sequence[str], *, steps: int, seeds: Sequence[int], call: Mapping[str, Any]
    ) -> torch.Tensor:
        """A guided call of the pipeline needs a negative prompt."""
        negative = call.get("negative_prompt") or ""
        return super().generate(pipeline, prompts, steps=steps, seeds=seeds, call={**call, "negative_prompt": negative})

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            return super().levels(scheduler, steps, call, size)
        scheduler.set_timesteps(steps, mu=1)
        return tuple(map(float, scheduler.timesteps))

    def inputs(self, example: Example) -> dict[str, Any]:
        config, size = example.config, (example.frames, example.height, example.width)
        inputs = super().inputs(example) | {"hidden_states": example.noise(config.out_channels, *size)}
        if given := config.in_channels - config.out_channels:
            inputs["inpaint_latents"] = example.noise(given, *size)
        return inputs
