"""The ChronoEdit adapter under the contract."""

from __future__ import annotations

import tiny_chronoedit
from f3core_diffusers.chronoedit import ChronoEditAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestChronoEdit(AdapterContract):
    adapter = ChronoEditAdapter()
    text = 512  # the processor counts 512 text tokens from the end; what comes before is the image

    def build(self) -> nn.Module:
        return tiny_chronoedit.transformer()
