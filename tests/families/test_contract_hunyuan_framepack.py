"""The FramePack adapter under the contract."""

from __future__ import annotations

import tiny_hunyuan_framepack
from f3core_diffusers.hunyuan_framepack import HunyuanFramepackAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestHunyuanFramepack(AdapterContract):
    adapter = HunyuanFramepackAdapter()
    adapter.image_tokens = 5

    def build(self) -> nn.Module:
        return tiny_hunyuan_framepack.transformer()
