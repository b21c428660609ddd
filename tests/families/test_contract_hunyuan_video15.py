"""The HunyuanVideo 1.5 adapter under the contract."""

from __future__ import annotations

import tiny_hunyuan_video15
from f3core_diffusers.hunyuan_video15 import HunyuanVideo15Adapter
from torch import nn

from f3core.testing import AdapterContract


class TestHunyuanVideo15(AdapterContract):
    adapter = HunyuanVideo15Adapter()

    def build(self) -> nn.Module:
        return tiny_hunyuan_video15.transformer()
