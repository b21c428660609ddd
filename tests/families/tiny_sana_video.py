"""A real `SanaVideoPipeline` of tiny random components."""

from __future__ import annotations

import tiny_texts
import tiny_wan
import torch
from diffusers import DPMSolverMultistepScheduler, SanaVideoPipeline, SanaVideoTransformer3DModel

CALL = {
    "frames": 5,
    "height": 32,
    "width": 64,
    "guidance_scale": 3.0,
    "max_sequence_length": 8,
    "use_resolution_binning": False,
    "complex_human_instruction": None,
}
PRUNE = {"target": "CA"}


def transformer(**changes: object) -> SanaVideoTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 32,
        "caption_channels": 8,
        "rope_max_seq_len": 64,
    }
    return SanaVideoTransformer3DModel(**(config | changes)).eval()


def pipeline() -> SanaVideoPipeline:
    vae = tiny_wan.pipeline().vae
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0, algorithm_type="dpmsolver++"
    )
    return SanaVideoPipeline(tiny_texts.tokenizer(), tiny_texts.gemma(), vae, transformer(), scheduler)
