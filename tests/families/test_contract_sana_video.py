"""The SANA-Video adapter under the contract, as far as it has softmax attention."""

from __future__ import annotations

import tiny_sana_video
from f3core_diffusers.sana_video import SanaVideoAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestSanaVideo(AdapterContract):
    adapter = SanaVideoAdapter()

    def build(self) -> nn.Module:
        return tiny_sana_video.transformer()
