"""Kandinsky 5.0 video: ``Kandinsky5Transformer3DModel``, full 3-D self-attention and text cross-attention.

Sites are the visual blocks; the blocks before them mix text with text alone. A given first frame and its mask (I2V) are
channels, frame 0's own and zeros elsewhere, not tokens. A prompt has as many tokens as it is long, so that a plan from
configs alone counts the pipeline's ``max_sequence_length``; prompts generated together are padded to the longest
without a mask, so that each clip is generated alone. Variants with ``attention_type: nabla`` (clips of ten
seconds, and Pro) attend to blocks of keys that flex attention picks anew in every call: they are refused.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from f3core.errors import ModelError
from f3core.sites import AttentionSite
from f3core_diffusers.blocks import BlocksAdapter
from f3core_diffusers.examples import Example
from f3core_diffusers.patterns import Cross, Full3D
from f3core_diffusers.sketch import codec_size


class Kandinsky5Adapter(BlocksAdapter):
    name = "kandinsky5"
    timestep_at = 2
    axes = "FHWC"
    conditional_first = True
    stacks = {  # noqa: RUF012
        "visual_transformer_blocks": {
            "self_attention": Full3D(companions=("self_attention_norm",), output="out_layer"),
            "cross_attention": Cross(companions=("cross_attention_norm",), output="out_layer"),
        }
    }
    depths = {"visual_transformer_blocks": "num_visual_blocks"}  # noqa: RUF012
    latent_size = staticmethod(functools.partial(codec_size, pixels=16, rounds=True))

    def one_by_one(self, pipeline: Any) -> bool:
        return True

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        """Raises `ModelError` for sparse variants."""
        if denoiser.config.attention_type == "nabla":  # all that diffusers runs otherwise
            raise ModelError(
                "this Kandinsky 5.0 attends by attention_type 'nabla', whose sparse map can be neither scored nor "
                "restricted; prune a model whose attention is dense, such as Lite of five seconds"
            )
        return super().sites(denoiser, component)

    def inputs(self, example: Example) -> dict[str, Any]:
        config = example.config
        channels = config.in_visual_dim * 2 + 1 if config.visual_cond else config.in_visual_dim
        return {
            "hidden_states": example.noise(example.frames, example.height, example.width, channels),
            "encoder_hidden_states": example.noise(example.text, config.in_text_dim),
            "timestep": example.timestep(),
            "pooled_projections": example.noise(config.in_text_dim2),
            "visual_rope_pos": [example.places(number) for number in self.grid(example)],
            "text_rope_pos": example.places(example.text),
            "scale_factor": (1.0, 2.0, 2.0),
            "return_dict": False,
        }
