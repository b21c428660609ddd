"""AnimateDiff: ``UNetMotionModel``, a Stable Diffusion U-Net (1.x or XL) with motion modules, both of whose attentions
are over frames.

Image prompts (IP-Adapter) are further keys of the spatial ``attn2`` and count as text; other first latents (video to
video, PIA) are no tokens. FreeNoise is not covered: it attends within windows of fewer frames than the clip has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusers.models.attention import FreeNoiseTransformerBlock
from torch import nn

from f3core.errors import ModelError
from f3core.guidance import take_rows
from f3core.sites import Layout
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Pattern
from f3core_diffusers.unets import IN_FRAMES, OVER_FRAMES, UNetAdapter

TIME_IDS = 6
"""numbers that tell Stable Diffusion XL the sizes of an image and its crop"""


class AnimateDiffAdapter(UNetAdapter):
    name = "animatediff"
    transformers = {  # noqa: RUF012
        "attentions": {"transformer_blocks": IN_FRAMES},
        "motion_modules": {"transformer_blocks": OVER_FRAMES},
    }

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        if any(isinstance(module, FreeNoiseTransformerBlock) for module in denoiser.modules()):
            raise ModelError(
                "adapter 'animatediff' cannot prune under FreeNoise, whose attention sees windows of frames; call the "
                "pipeline's disable_free_noise() first"
            )
        return super().layers(denoiser)

    def with_denoisers(self, pipeline: Any, denoisers: Mapping[str, nn.Module]) -> Any:
        """The U-Net holds the motion modules, pruned or not. Pipelines keep a copy, which does not run and would be
        saved along: left out, unless the pipeline (as that of Stable Diffusion XL) does not load without."""
        spare = {"motion_adapter"} & set(pipeline._optional_components)
        return super().with_denoisers(pipeline, {**denoisers, **dict.fromkeys(spare)})

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        """A video noised with ``strength`` takes so many steps less, or (``enforce_inference_steps``) smaller ones."""
        if call.get("enforce_inference_steps"):
            steps = int(steps / call["strength"])
        return super().levels(scheduler, steps, call, size)

    def take_rows(self, arguments: Any, layout: Layout, rows: range) -> Any:
        """Text, and what a ControlNet adds, come once a frame."""
        frames = range(rows.start * layout.frames, rows.stop * layout.frames)
        return take_rows(super().take_rows(arguments, layout, rows), layout.batch * layout.frames, frames)

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs, config = super().inputs(example), example.config
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"].repeat_interleave(example.frames, dim=0)
        if config.addition_embed_type == "text_time":
            pooled = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim
            ids = example.full(512.0, TIME_IDS)
            inputs["added_cond_kwargs"] = {"text_embeds": example.noise(pooled), "time_ids": ids}
        return inputs
