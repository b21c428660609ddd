"""A real `SanaImageToVideoPipeline` of tiny random components."""

from __future__ import annotations

import tiny_sana_video
from diffusers import FlowMatchEulerDiscreteScheduler, SanaImageToVideoPipeline

CALL = tiny_sana_video.CALL
PRUNE = tiny_sana_video.PRUNE
IMAGE = True


def pipeline() -> SanaImageToVideoPipeline:
    parts = {**tiny_sana_video.pipeline().components, "scheduler": FlowMatchEulerDiscreteScheduler()}
    return SanaImageToVideoPipeline(**parts)
