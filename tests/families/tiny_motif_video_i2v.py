"""A real `MotifVideoImage2VideoPipeline` of tiny random components: image tokens beside the text."""

from __future__ import annotations

import tiny_motif_video
from diffusers import MotifVideoImage2VideoPipeline
from transformers import SiglipImageProcessorPil

CALL = tiny_motif_video.CALL
IMAGE = True


def pipeline() -> MotifVideoImage2VideoPipeline:
    parts = tiny_motif_video.pipeline().components
    parts["transformer"] = tiny_motif_video.transformer(image_embed_dim=8)
    parts["feature_extractor"] = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return MotifVideoImage2VideoPipeline(**parts)
