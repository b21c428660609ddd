"""The CogVideoX adapter under the contract: learned positions, rotary ones, and tokens of two frames."""

from __future__ import annotations

import tiny_cogvideox
from f3core_diffusers.cogvideox import CogVideoXAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestCogVideoX(AdapterContract):
    adapter = CogVideoXAdapter()

    def build(self) -> nn.Module:
        return tiny_cogvideox.transformer(use_rotary_positional_embeddings=True)


class TestCogVideoX15(AdapterContract):
    adapter = CogVideoXAdapter()
    frames = 5  # padded to six, three tokens

    def build(self) -> nn.Module:
        return tiny_cogvideox.transformer(
            use_rotary_positional_embeddings=True, patch_size_t=2, patch_bias=False, ofs_embed_dim=8
        )
