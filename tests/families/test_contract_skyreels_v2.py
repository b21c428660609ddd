"""The SkyReels-V2 adapter under the contract: a timestep a clip, and a timestep a frame under a causal mask."""

from __future__ import annotations

import tiny_skyreels_v2
from f3core_diffusers.skyreels_v2 import DiffusionForcingAdapter, SkyReelsV2Adapter
from torch import nn

from f3core.testing import AdapterContract


class TestSkyReelsV2(AdapterContract):
    adapter = SkyReelsV2Adapter()

    def build(self) -> nn.Module:
        return tiny_skyreels_v2.transformer()


class TestDiffusionForcing(AdapterContract):
    adapter = DiffusionForcingAdapter()
    frames = 9
    height = 2
    width = 4

    def build(self) -> nn.Module:
        return tiny_skyreels_v2.transformer(num_frame_per_block=3)
