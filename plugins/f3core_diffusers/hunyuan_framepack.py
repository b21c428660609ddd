"""FramePack: ``HunyuanVideoFramepackTransformer3DModel``, which makes a clip section by section: joint attention over
[past; all frames of a section; image; text].

Tokens of the past, of the given image too, pool several frames each. They count as text, as those of the image do: what
a section goes on from stays, whatever is pruned. Each section is a generation of its own, from noise. Rows run alone
have their padding cut off; costs without values are those of text without padding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoFramepackPipeline
from torch import nn

from f3core.adapter import Sketch
from f3core.segments import argument
from f3core.sites import Layout
from f3core_diffusers.arguments import usual_arguments
from f3core_diffusers.examples import Example
from f3core_diffusers.hunyuan_video import HunyuanVideoAdapter
from f3core_diffusers.patterns import Between
from f3core_diffusers.shifted import distinct, token_shift
from f3core_diffusers.sketch import codec_size, picture_tokens

PAST = (("latents_clean", 8, 1), ("latents_history_2x", 10, 2), ("latents_history_4x", 12, 4))
"""Latents of the past: name and position in the forward, and how many frames and patches a token pools"""
PAST_FRAMES = (2, 2, 16)
"""latent frames of each that the pipeline gives"""
PATCH = 2
MOST_SHIFT = math.log(7.0)


def _section_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    return call["latent_window_size"], *codec_size(source, denoiser, {**call, "num_frames": 1})[1:]


class HunyuanFramepackAdapter(HunyuanVideoAdapter):
    name = "hunyuan-video-framepack"
    tells_branches = False
    stacks = {  # noqa: RUF012
        "transformer_blocks": {"attn": Between()},
        "single_transformer_blocks": {"attn": Between(output=None)},
    }
    latent_size = staticmethod(_section_size)
    image_tokens = 729
    """tokens of the image in example inputs"""
    sections = 1

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        found, before = super().layout(denoiser, args, kwargs), 0
        for name, place, pooled in PAST:
            _, _, frames, height, width = argument(args, kwargs, name, place).shape
            before += -(-frames // pooled) * -(-height // (PATCH * pooled)) * -(-width // (PATCH * pooled))
        image = argument(args, kwargs, "image_embeds", 5)
        return replace(found, text=before + image.shape[1] + found.text, before=before)

    def take_rows(self, arguments: Any, layout: Layout, rows: range) -> Any:
        """The places of frames are those of every row. Branches are not told, so arguments have their names here."""
        places = {name: value for name, value in arguments.items() if name.startswith("indices")}
        return {**super().take_rows(arguments, layout, rows), **places}

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs, config = super().inputs(example), example.config
        inputs["image_embeds"] = example.noise(self.image_tokens, config.image_proj_dim)
        places = example.places(example.frames + sum(PAST_FRAMES))
        inputs["indices_latents"], *past = places.split([example.frames, *PAST_FRAMES])
        for (name, *_), indices in zip(PAST, past, strict=True):
            inputs[name] = example.noise(config.in_channels, len(indices), example.height, example.width)
            inputs[f"indices_{name}"] = indices
        return inputs

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        shift = min(token_shift(scheduler, math.prod(size) // PATCH**2), MOST_SHIFT)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1], mu=shift)
        return distinct(scheduler.timesteps)

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        return [(inputs, tuple(self.sections * number for number in rows))]

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        given, run = {**usual_arguments(HunyuanVideoFramepackPipeline), **call}, copy.copy(self)
        by_frame = AutoencoderKLHunyuanVideo.load_config(source, subfolder="vae").get("temporal_compression_ratio", 4)
        run.sections = max(1, -(-given["num_frames"] // ((given["latent_window_size"] - 1) * by_frame + 1)))
        run.image_tokens = picture_tokens(source, "image_encoder")
        return super(HunyuanFramepackAdapter, run).sketch(source, steps=steps, call=call)
