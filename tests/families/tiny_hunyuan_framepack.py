"""A real `HunyuanVideoFramepackPipeline` of tiny random components, which makes two sections."""

from __future__ import annotations

import tiny_hunyuan_video
import tiny_texts
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
)
from transformers import SiglipImageProcessorPil

CALL = {**tiny_hunyuan_video.CALL, "num_frames": 18, "latent_window_size": 3}
IMAGE = True
TRACED = False  # it does not use what its last block makes of the past


def transformer(**changes: object) -> HunyuanVideoFramepackTransformer3DModel:
    plain = dict(tiny_hunyuan_video.transformer().config)
    torch.manual_seed(0)
    config = {name: value for name, value in plain.items() if not name.startswith("_")}
    own = {"has_clean_x_embedder": True, "has_image_proj": True, "image_proj_dim": 8}
    return HunyuanVideoFramepackTransformer3DModel(**(config | own | changes)).eval()


def pipeline() -> HunyuanVideoFramepackPipeline:
    parts = tiny_hunyuan_video.pipeline().components
    parts["transformer"] = transformer()
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return HunyuanVideoFramepackPipeline(
        **parts,
        image_encoder=tiny_texts.siglip_vision(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 27, "width": 27}),
    )
