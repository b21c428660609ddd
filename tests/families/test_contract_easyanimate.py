"""The EasyAnimate adapter under the contract, with the latents of given frames; blocks of both kinds."""

from __future__ import annotations

import tiny_easyanimate
from f3core_diffusers.easyanimate import EasyAnimateAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestEasyAnimate(AdapterContract):
    adapter = EasyAnimateAdapter()

    def build(self) -> nn.Module:
        return tiny_easyanimate.transformer(in_channels=9)
