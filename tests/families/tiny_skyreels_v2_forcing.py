"""A real `SkyReelsV2DiffusionForcingPipeline` of tiny random components: a timestep a frame, causal over blocks."""

from __future__ import annotations

import tiny_skyreels_v2
import tiny_wan
from diffusers import SkyReelsV2DiffusionForcingPipeline

CALL = {**tiny_wan.CALL, "num_frames": 17, "causal_block_size": 3}
"""9 latent frames in 3 blocks, denoised in step"""


def pipeline() -> SkyReelsV2DiffusionForcingPipeline:
    wan = tiny_wan.pipeline()
    denoiser = tiny_skyreels_v2.transformer()
    return SkyReelsV2DiffusionForcingPipeline(
        wan.tokenizer, wan.text_encoder, denoiser, wan.vae, tiny_skyreels_v2.scheduler()
    )
