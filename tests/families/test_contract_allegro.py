"""The Allegro adapter under the contract."""

from __future__ import annotations

import tiny_allegro
from f3core_diffusers.allegro import AllegroAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestAllegro(AdapterContract):
    adapter = AllegroAdapter()
    height = 8  # rotary tables of four rows, not of as many as the batch has

    def build(self) -> nn.Module:
        return tiny_allegro.transformer()
