"""The Wan Animate adapter under the contract."""

from __future__ import annotations

import tiny_wan_animate
from f3core_diffusers.wan_animate import WanAnimateAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestWanAnimate(AdapterContract):
    adapter = WanAnimateAdapter()
    text = 512  # the processor counts 512 text tokens from the end; what comes before is the image

    def build(self) -> nn.Module:
        return tiny_wan_animate.transformer()
