"""The Wan VACE adapter under the contract."""

from __future__ import annotations

import tiny_wan_vace
from f3core_diffusers.wan_vace import WanVACEAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestWanVACE(AdapterContract):
    adapter = WanVACEAdapter()

    def build(self) -> nn.Module:
        return tiny_wan_vace.transformer()
