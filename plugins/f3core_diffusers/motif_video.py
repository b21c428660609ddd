"""Motif-Video: ``MotifVideoTransformer3DModel``, joint attention over [all frames; text], with or without an attention
from frames to text behind it, in blocks of two streams and then of one.

The last blocks may be a decoder, whose frames attend to [themselves; the frames of the blocks before it] and to no
text. Image tokens (I2V) are text; the latents of a given first frame are channels of every frame.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusers import MotifVideoImage2VideoPipeline
from torch import nn

from f3core.adapter import Sketch
from f3core.sites import Layout
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.compacting import Left, standing
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Joint, Paired, Pattern
from f3core_diffusers.shifted import shifted_levels
from f3core_diffusers.sketch import picture_tokens

PATCH = 2
"""Latent rows and columns of a token in all published models, by the number of which noise levels are shifted"""


class MotifVideoAdapter(BlocksAdapter):
    name = "motif-video"
    tells_branches = True
    depths = {  # noqa: RUF012
        "transformer_blocks": "num_layers",
        "single_transformer_blocks": "num_single_layers",
    }
    hands = dict.fromkeys(depths, ("hidden_states", "encoder_hidden_states"))
    text = ("encoder_hidden_states", 2)
    image_tokens = 0
    """tokens of an image in example inputs"""

    def one_by_one(self, pipeline: Any) -> bool:
        return isinstance(pipeline, MotifVideoImage2VideoPipeline)

    def layers(self, denoiser: nn.Module) -> Iterator[tuple[str, Mapping[str, Pattern]]]:
        config = denoiser.config
        decoded = config.num_single_layers - config.num_decoder_layers
        for number in standing(denoiser, "transformer_blocks"):
            crossed = {"cross_attn": Cross()} if config.enable_text_cross_attention_dual else {}
            yield f"transformer_blocks.{number}", {"attn": Joint(), **crossed}
        for number in standing(denoiser, "single_transformer_blocks"):
            crossed = {"cross_attn": Cross()} if config.enable_text_cross_attention_single else {}
            encoder, decoder = {"attn": Joint(output=None), **crossed}, {"attn": Paired(output=None)}
            yield f"single_transformer_blocks.{number}", encoder if number < decoded else decoder

    def fixed(self, denoiser: nn.Module, path: str) -> str | None:
        config = denoiser.config
        if config.num_decoder_layers and path == f"single_transformer_blocks.{config.num_single_layers - 1}":
            return "a decoder without any block predicts nothing"
        return None

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        """The last blocks are the decoder."""
        encoders = denoiser.config.num_single_layers - denoiser.config.num_decoder_layers
        entries = {entry: len(left[stack]) for stack, entry in self.depths.items()}
        decoder = sum(number >= encoders for number in left["single_transformer_blocks"])
        return {**entries, "num_decoder_layers": decoder}

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        found = super().layout(denoiser, args, kwargs)
        image = kwargs.get("image_embeds", args[4] if len(args) > 4 else None)
        return found if image is None else replace(found, text=found.text + image.shape[1])

    def levels(
        self, scheduler: Any, steps: int, call: Mapping[str, Any], size: tuple[int, int, int]
    ) -> tuple[float, ...]:
        frames, height, width = size
        return shifted_levels(scheduler, steps, (frames, height // PATCH, width // PATCH))

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs = super().inputs(example) | {"encoder_attention_mask": example.padding_mask().bool()}
        if self.image_tokens and example.config.image_embed_dim is not None:
            inputs["image_embeds"] = example.noise(self.image_tokens, example.config.image_embed_dim)
        return inputs

    def sketch(self, source: str, *, steps: int, call: Mapping[str, Any]) -> Sketch:
        run = copy.copy(self)
        if "image" in call:
            run.image_tokens = picture_tokens(source, "text_encoder")
        return super(MotifVideoAdapter, run).sketch(source, steps=steps, call=call)
