"""A real `Cosmos2_5_PredictBasePipeline` of tiny random components, which is told sigmas and reads chats."""

from __future__ import annotations

import tiny_cosmos
import tiny_texts
import tiny_wan
from diffusers import Cosmos2_5_PredictBasePipeline, UniPCMultistepScheduler
from passing_guardrail import PassingGuardrail

CALL = {**tiny_cosmos.CALL, "num_frames": 5}


def pipeline() -> Cosmos2_5_PredictBasePipeline:
    vae = tiny_wan.pipeline().vae
    channels, layers = vae.config.z_dim, 2
    text = tiny_texts.qwen_vl(8, layers)
    denoiser = tiny_cosmos.transformer(
        in_channels=channels + 1,
        out_channels=channels,
        extra_pos_embed_type=None,
        use_crossattn_projection=True,
        crossattn_proj_in_channels=8 * layers,
        encoder_hidden_states_channels=8,
    )
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, use_karras_sigmas=True, sigma_max=200.0, sigma_min=0.01
    )
    return Cosmos2_5_PredictBasePipeline(
        text, tiny_texts.chat_tokenizer(512), denoiser, vae, scheduler, PassingGuardrail().eval()
    )
