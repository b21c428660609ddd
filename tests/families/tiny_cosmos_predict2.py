"""A real `Cosmos2VideoToWorldPipeline` of tiny random components: every frame has a timestep of its own."""

from __future__ import annotations

import tiny_cosmos
import tiny_texts
import tiny_wan
from diffusers import Cosmos2VideoToWorldPipeline, FlowMatchEulerDiscreteScheduler
from passing_guardrail import PassingGuardrail

CALL = {**tiny_cosmos.CALL, "num_frames": 5}
IMAGE = True


def pipeline() -> Cosmos2VideoToWorldPipeline:
    vae = tiny_wan.pipeline().vae
    channels = vae.config.z_dim
    denoiser = tiny_cosmos.transformer(in_channels=channels + 1, out_channels=channels, extra_pos_embed_type=None)
    return Cosmos2VideoToWorldPipeline(
        tiny_texts.t5(),
        tiny_texts.tokenizer(),
        denoiser,
        vae,
        FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        PassingGuardrail().eval(),
    )
