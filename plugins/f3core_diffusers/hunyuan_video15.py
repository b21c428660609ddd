"""HunyuanVideo 1.5: ``HunyuanVideo15Transformer3DModel``, joint attention over [all frames; text].

Text are the tokens of two text encoders and those of an image, sorted so that padding comes last; image tokens are
there without an image too, as padding. The latents of a given first frame are channels of every frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusers import AutoencoderKLHunyuanVideo15
from diffusers.pipelines.hunyuan_video1_5.image_processor import HunyuanVideo15ImageProcessor
from torch import nn

from f3core.segments import argument
from f3core.sites import Layout
from f3core_diffusers.arguments import opened
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.hunyuan_video import HunyuanLevels
from f3core_diffusers.patterns import Joint
from f3core_diffusers.sketch import codec_size

USUAL = (1000, 256, 729)
"""Tokens that the pipelines give the model, whatever the prompt: of its text, of what is quoted in it, of an image."""


def _latent_size(source: str, denoiser: nn.Module, call: Mapping[str, Any]) -> tuple[int, int, int]:
    """As the pipelines do: left out, the size is that of the model, as wide as the given image or as 16 : 9."""
    by_pixel = AutoencoderKLHunyuanVideo15.load_config(source, subfolder="vae").get("spatial_compression_ratio", 16)
    height, width = (call.get(name) for name in ("height", "width"))
    if height is None or width is None:
        image = opened(call).get("image")
        width, height = (16, 9) if image is None else image.size
        sizes = HunyuanVideo15ImageProcessor(vae_scale_factor=by_pixel)
        height, width = sizes.calculate_default_height_width(height, width, denoiser.config.target_size)
    whole = {name: size // by_pixel * by_pixel for name, size in (("height", height), ("width", width))}
    return codec_size(source, denoiser, {**call, **whole})


class HunyuanVideo15Adapter(HunyuanLevels, BlocksAdapter):
    name = "hunyuan-video-1.5"
    tells_branches = True
    stacks = {"transformer_blocks": {"attn": Joint()}}  # noqa: RUF012
    depths = {"transformer_blocks": "num_layers"}  # noqa: RUF012
    hands = {"transformer_blocks": ("hidden_states", "encoder_hidden_states")}  # noqa: RUF012
    text = ("encoder_hidden_states", 2)
    usual_text = sum(USUAL)
    latent_size = staticmethod(_latent_size)

    def one_by_one(self, pipeline: Any) -> bool:
        """An image's shape is that of the clip; and the codec's attention takes one clip at a time."""
        return True

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        places = (self.text, ("encoder_hidden_states_2", 5), ("image_embeds", 7))
        text = sum(argument(args, kwargs, *place).shape[1] for place in places)
        return replace(super().layout(denoiser, args, kwargs), text=text)

    def inputs(self, example: Example) -> dict[str, Any]:
        """``text`` is the number of all tokens but those of frames, shared out as the usual one is."""
        config, (words, quoted, image) = example.config, (max(1, example.text * u // sum(USUAL)) for u in USUAL)
        words += example.text - words - quoted - image
        inputs = super().inputs(replace(example, text=words))
        return inputs | {
            "timestep": inputs["timestep"].to(inputs["hidden_states"].dtype),
            "encoder_attention_mask": example.padding_mask(words),
            "encoder_hidden_states_2": example.noise(quoted, config.text_embed_2_dim),
            "encoder_attention_mask_2": example.padding_mask(quoted),
            "image_embeds": example.noise(image, config.image_embed_dim),
        }
