"""A real `ConsisIDPipeline` of tiny random components, where OpenCV is installed: diffusers has none without it."""

from __future__ import annotations

import tiny_cogvideox
import torch
from diffusers import ConsisIDPipeline, ConsisIDTransformer3DModel
from diffusers.utils import is_opencv_available

CALL = tiny_cogvideox.CALL
IMAGE = True
TENSORS = {"id_cond": [(1, 8)], "id_vit_hidden": [(1, 577, 8)] * 2}


def transformer(**changes: object) -> ConsisIDTransformer3DModel:
    torch.manual_seed(0)
    config = {
        "num_attention_heads": 3,
        "attention_head_dim": 16,
        "in_channels": 8,
        "out_channels": 4,
        "num_layers": 2,
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "sample_width": 16,
        "sample_height": 8,
        "sample_frames": 9,
        "max_text_seq_length": 8,
        "use_rotary_positional_embeddings": True,
        "is_train_face": True,
        "cross_attn_dim_head": 4,
        "cross_attn_num_heads": 2,
        "LFE_id_dim": 8,
        "LFE_vit_dim": 8,
        "LFE_depth": 2,
        "LFE_num_scale": 2,
        "LFE_dim_head": 4,
        "LFE_num_heads": 2,
        "LFE_num_id_token": 2,
        "LFE_num_querie": 3,
        "LFE_output_dim": 32,
    }
    return ConsisIDTransformer3DModel(**(config | changes)).eval()


if is_opencv_available():

    def pipeline() -> ConsisIDPipeline:
        parts = {**tiny_cogvideox.pipeline().components, "transformer": transformer()}
        return ConsisIDPipeline(**parts)
