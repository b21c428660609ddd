"""Helios: ``HeliosTransformer3DModel``, which makes a clip chunk by chunk: full 3-D attention over [past; chunk].

Tokens of the past, of given pictures and videos too, lie before the chunk's and pool several frames each. They count as
text: what a chunk goes on from stays, whatever is pruned. Each chunk is a generation of its own, from noise.
`HeliosPyramidPipeline`, whose steps are told by stage and whose stages differ in size, is not run by the commands.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, HeliosPipeline
from torch import nn

from f3core.adapter import Sketch
from f3core.errors import ModelError
from f3core.segments import text_tokens
from f3core.sites import AttentionCall, Layout, Removal, Segments
from f3core_diffusers.arguments import usual_arguments
from f3core_diffusers.base import DiffusersAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import SA, TA, Cross, Joint, visual_tokens
from f3core_diffusers.shifted import distinct, token_shift
from f3core_diffusers.wan import WanAdapter, latent_size


@dataclass(frozen=True)
class PastAndChunk(Joint):
    """Self-attention over [past; chunk]."""

    text_first: bool = True

    removals = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,)}  # noqa: RUF012


@dataclass(frozen=True)
class CrossBehindPast(Cross):
    """Attention from a chunk to text, or from [past; chunk]."""

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        chunk = layout.frames * layout.tokens
        visual = visual_tokens(self.rows, layout, call.batch, chunk)
        past = text_tokens(call.queries - chunk)
        return Segments(torch.cat([past, visual], dim=1), text_tokens(call.keys))


def _check(pipeline_class: str) -> None:
    """Raises `ModelError` for the pipeline that cannot be run."""
    if "Pyramid" in pipeline_class:
        raise ModelError(
            f"{pipeline_class} takes its steps by stages of several sizes, which no spec can tell; make a plan with "
            "HeliosPipeline, and prune by f3core.apply_plan_(pipeline.transformer, plan, adapter, 'transformer')"
        )


def _chunk_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    _, height, width = latent_size(source, denoiser, {**call, "num_frames": 1})
    return call["num_latent_frames_per_chunk"], height, width


class HeliosAdapter(WanAdapter):
    name = "helios"
    stacks = {"blocks": {"attn1": PastAndChunk(), "attn2": CrossBehindPast(companions=("norm2",))}}  # noqa: RUF012
    latent_size = staticmethod(_chunk_size)
    history: tuple[int, ...] = (16, 2, 1)
    """latent frames of the past in example inputs, far to near; the clip's first one is added to the near"""
    chunks = 1

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs, (long, mid, near) = super().inputs(example), self.history
        places = example.places(1 + long + mid + near + example.frames)[None]
        first, *past, inputs["indices_hidden_states"] = places.split([1, long, mid, near, example.frames], dim=1)
        past[-1] = torch.cat([first, past[-1]], dim=1)
        for name, indices in zip(("long", "mid", "short"), past, strict=True):
            shape = (example.config.in_channels, indices.shape[1], example.height, example.width)
            inputs[f"indices_latents_history_{name}"] = indices
            inputs[f"latents_history_{name}"] = example.noise(*shape)
        return inputs

    def generate(self, pipeline: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        _check(type(pipeline).__name__)
        return super().generate(pipeline, *args, **kwargs)

    def one_by_one(self, pipeline: Any) -> bool:
        return True

    def as_run_by(self, index: Mapping[str, Any]) -> DiffusersAdapter:
        _check(str(index["_class_name"]))
        return self

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        sigmas = np.linspace(0.999, 0.0, steps + 1)[:-1]
        scheduler.set_timesteps(steps, sigmas=sigmas, mu=token_shift(scheduler, math.prod(size) // 4))
        return distinct(scheduler.timesteps)

    def forwards(
        self, denoiser: nn.Module, given: Mapping[str, Any], inputs: Mapping[str, Any], rows: tuple[int, ...]
    ) -> list[tuple[Mapping[str, Any], tuple[int, ...]]]:
        return [(inputs, tuple(self.chunks * number for number in rows))]

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        given, run = {**usual_arguments(HeliosPipeline), **call}, copy.copy(self)
        by_frame = AutoencoderKLWan.load_config(source, subfolder="vae").get("scale_factor_temporal", 4)
        run.chunks = max(1, -(-given["num_frames"] // ((given["num_latent_frames_per_chunk"] - 1) * by_frame + 1)))
        run.history = tuple(given["history_sizes"])
        return super(HeliosAdapter, run).sketch(source, steps=steps, call=call)
