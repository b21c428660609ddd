"""HunyuanVideo: ``HunyuanVideoTransformer3DModel``, joint attention over [all frames; text].

Blocks of two streams run first, then blocks of one. Attention of text alone, which refines it beforehand, is no site.

Image tokens that the I2V text encoder puts into the prompt are text. The latents of a given first frame are channels of
every frame ("latent_concat") or stand in for those of frame 0 ("token_replace"). The scale that the model is told
(``guidance_scale``) is no classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from f3core.errors import ModelError
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Joint
from f3core_diffusers.shifted import distinct

if TYPE_CHECKING:
    from f3core.distillation.recipe import Recipe

ANSWER = 4
"""tokens of the prompt template with which the text encoder's answer would begin"""


class HunyuanLevels:
    """Mixin of the adapters whose pipelines spread noise levels evenly from 1 to the step before 0."""

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])
        return distinct(scheduler.timesteps)


class HunyuanVideoAdapter(HunyuanLevels, BlocksAdapter):
    name = "hunyuan-video"
    conditional_first = True
    tells_branches = True
    guidance = "true_cfg_scale"
    stacks = {  # noqa: RUF012
        "transformer_blocks": {"attn": Joint()},
        "single_transformer_blocks": {"attn": Joint(output=None)},
    }
    depths = {  # noqa: RUF012
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
    }
    hands = dict.fromkeys(depths, ("hidden_states", "encoder_hidden_states"))
    text = ("encoder_hidden_states", 2)
    usual_text = 256

    def guidance_of(self, given: Mapping[str, Any]) -> float:
        """Without a negative prompt the pipelines run no second branch."""
        negative = any(given.get(name) is not None for name in ("negative_prompt", "negative_prompt_embeds"))
        return super().guidance_of(given) if negative else 1.0

    def recipe(self, pipeline: Any, call: Mapping[str, Any]) -> Recipe:
        if getattr(pipeline.transformer.config, "image_condition_type", None) == "token_replace":
            raise ModelError(
                f"{type(pipeline).__name__} puts a clean first frame in place of the noisy one and denoises the rest, "
                "so how it is trained is not known here, and it cannot be distilled"
            )
        return super().recipe(pipeline, call)

    def text_of(self, denoiser: nn.Module, given: Mapping[str, Any]) -> int | None:
        """With an image that the text encoder sees, every so many of its tokens come before the text, and those that
        begin the answer are cut out of that."""
        text = super().text_of(denoiser, given)
        if text is None or "image_embed_interleave" not in given:
            return text
        usual = {"latent_concat": 2, "token_replace": 4}.get(denoiser.config.image_condition_type, 1)
        every, image = given["image_embed_interleave"] or usual, given["prompt_template"].get("image_emb_len", 576)
        return text - ANSWER + (-(-image // every) if 0 < every < 6 else image)

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs = super().inputs(example) | {
            "encoder_attention_mask": example.padding_mask(),
            "pooled_projections": example.noise(example.config.pooled_projection_dim),
        }
        if example.config.guidance_embeds:
            inputs["guidance"] = example.full(6000.0)
        return inputs
