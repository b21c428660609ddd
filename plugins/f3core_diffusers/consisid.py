"""ConsisID: ``ConsisIDTransformer3DModel``, CogVideoX with cross-attention to a face.

The latents of the given image, and of its key points, are channels of the frames, not tokens. Frames see the face's
tokens between blocks, by an attention that calls no kernel: it is neither watched nor pruned, and no CA is its.
A spec gives the face as paths of safetensors files, ``id_cond`` and ``id_vit_hidden``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from f3core_diffusers.cogvideox import CogVideoXAdapter
from f3core_diffusers.compacting import Left, spaced
from f3core_diffusers.examples import Example

VIT_TOKENS = 577
"""tokens of a face in each of the picture encoder's layers"""


class ConsisIDAdapter(CogVideoXAdapter):
    name = "consisid"

    def smaller(self, denoiser: nn.Module, left: Left) -> dict[str, Any] | None:
        config, stays = denoiser.config, left["transformer_blocks"]
        if not config.is_train_face:
            return super().smaller(denoiser, left)
        every = spaced(stays, config.cross_attn_interval, config.num_layers)
        return every and {"num_layers": len(stays), "cross_attn_interval": every}

    def inputs(self, example: Example) -> dict[str, Any]:
        inputs, config = super().inputs(example), example.config
        if config.is_train_face:  # one face for all rows
            face = replace(example, batch=1)
            inputs["id_cond"] = face.noise(config.LFE_id_dim)
            seen = (face.noise(VIT_TOKENS, config.LFE_vit_dim) for _ in range(config.LFE_num_scale))
            inputs["id_vit_hidden"] = list(seen)
        return inputs
