"""A real `HunyuanVideo15ImageToVideoPipeline` of tiny random components; the image decides on the size of the clip."""

from __future__ import annotations

import tiny_hunyuan_video15
import tiny_texts
from diffusers import HunyuanVideo15ImageToVideoPipeline
from transformers import SiglipImageProcessorPil

CALL = {"num_frames": 9}
IMAGE = True


def pipeline() -> HunyuanVideo15ImageToVideoPipeline:
    parts = tiny_hunyuan_video15.pipeline().components
    parts["transformer"] = tiny_hunyuan_video15.transformer(target_size=16)
    return HunyuanVideo15ImageToVideoPipeline(
        **parts,
        image_encoder=tiny_texts.siglip_vision(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 27, "width": 27}),
    )
