"""Cosmos 1.0, Predict2, Predict2.5 and Transfer2.5: ``CosmosTransformer3DModel``, full 3-D self-attention and
cross-attention to text.

Given frames (video-to-world) replace latents of their own frames; a channel marks them, as one does padding. Tokens of
a given image (Transfer2.5) are keys of ``attn2`` beside the text and count as text. Transfer2.5's control branch is
another model, and left as it is. Norms are adaptive and give the gates too, so that none dies with its attention.
Published sizes count the padding's channel among the latents', because diffusers resizes its mask by torchvision.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from f3core.segments import argument
from f3core.sites import Layout
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.compacting import Left, spaced
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.shifted import distinct
from f3core_diffusers.sketch import codec_size


class CosmosAdapter(BlocksAdapter):
    name = "cosmos"
    conditional_first = True
    stacks = {"transformer_blocks": {"attn1": Full3D(), "attn2": Cross()}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    text = ("encoder_hidden_states", 2)
    latent_size = staticmethod(functools.partial(codec_size, pixels=16))

    def fixed(self, denoiser: nn.Module, path: str) -> str | None:
        every = denoiser.config.controlnet_block_every_n
        if every and int(path.rpartition(".")[2]) % every == 0:
            return "what a control branch adds comes in there"
        return None

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        config, stays = denoiser.config, left["transformer_blocks"]
        if not config.controlnet_block_every_n:
            return super().smaller(denoiser, left)
        every = spaced(stays, config.controlnet_block_every_n, config.num_layers)
        return every and {"num_layers": len(stays), "controlnet_block_every_n": every}

    def branches(self, pipeline: Any, component: str, call: Mapping[str, Any]) -> tuple[float, ...]:
        """These pipelines add the guided difference to the conditional branch, not to the unconditional one."""
        weights = super().branches(pipeline, component, call)
        return weights if len(weights) == 1 else (weights[0] + 1, weights[1] - 1)

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        context = argument(args, kwargs, *self.text)
        text, *image = context if isinstance(context, tuple) else (context,)
        found = super().layout(denoiser, args[:1], {**kwargs, self.text[0]: text})
        return replace(found, text=found.text + sum(tokens.shape[1] for tokens in image))

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        """Of the last frame: where frames have timesteps of their own, given frames, which come first, keep theirs."""
        return float(argument(args, kwargs, "timestep", self.timestep_at).flatten()[-1])

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        """1.0 tells its denoiser the scheduler's timesteps, Predict2 sigma/(sigma + 1), and 2.5 sigma."""
        if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            scheduler.register_to_config(sigma_max=80.0, sigma_min=0.002)  # as Predict2's pipelines do
            scheduler.set_timesteps(sigmas=torch.linspace(0, 1, steps, dtype=torch.float64))
            found = scheduler.sigmas[:steps] / (scheduler.sigmas[:steps] + 1)
        else:
            scheduler.set_timesteps(steps)
            found = scheduler.timesteps if isinstance(scheduler, EDMEulerScheduler) else scheduler.sigmas[:steps]
        return distinct(found)

    def inputs(self, example: Example) -> dict[str, Any]:
        config, inputs = example.config, super().inputs(example) | {"fps": 30}
        if config.extra_pos_embed_type is None:  # since Predict2, every frame has its own
            inputs["timestep"] = example.timestep(1, example.frames, 1, 1)
        if config.concat_padding_mask:
            inputs["padding_mask"] = torch.zeros_like(example.noise(example.height, example.width)[:1, None])
        if config.use_crossattn_projection:
            inputs["encoder_hidden_states"] = example.noise(example.text, config.crossattn_proj_in_channels)
        if not config.img_context_dim_in:
            return {**inputs, "attention_mask": example.padding_mask().bool()}
        image = example.noise(config.img_context_num_tokens, config.img_context_dim_in)
        return {**inputs, "encoder_hidden_states": (inputs["encoder_hidden_states"], image)}
