"""A real `LTXImageToVideoPipeline` of tiny random components: tokens of the given image have timesteps of their own."""

from __future__ import annotations

import tiny_ltx
from diffusers import LTXImageToVideoPipeline

CALL = tiny_ltx.CALL
IMAGE = True


def pipeline() -> LTXImageToVideoPipeline:
    return LTXImageToVideoPipeline(**tiny_ltx.pipeline().components)
