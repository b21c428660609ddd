"""ConsisID: ``ConsisIDTransformer3DModel``, CogVideoX with cross-attention to a face.

The latents of the given image, and of its key points, are channels of the frames, not tokens. Frames see the face's
tokens between blocks, by an attention that calls no kernel: it is neither watched nor pruned, and no CA is its.
A spec gives the face as paths of safetensors files, ``id_cond`` and ``id_vit_hidden``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from f3core_diffusers.blocks import like
from f3core_diffusers.cogvideox import CogVideoXAdapter

VIT_TOKENS = 577
"""tokens of a face in each of the picture encoder's layers"""


class ConsisIDAdapter(CogVideoXAdapter):
    name = "consisid"

    def example_inputs(
        self, denoiser: nn.Module, *, frames: int, height: int, width: int, batch: int = 1, text: int | None = None
    ) -> dict[str, Any]:
        config, size = denoiser.config, {"frames": frames, "height": height, "width": width}
        inputs = super().example_inputs(denoiser, **size, batch=batch, text=text)
        if config.is_train_face:  # one face for all rows
            seen = (1, VIT_TOKENS, config.LFE_vit_dim)
            inputs["id_cond"] = torch.randn(1, config.LFE_id_dim, **like(denoiser))
            inputs["id_vit_hidden"] = [torch.randn(seen, **like(denoiser)) for _ in range(config.LFE_num_scale)]
        return inputs
