"""The Mochi adapter under the contract, rows with text of several lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiny_mochi
from f3core_diffusers.mochi import MochiAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestMochi(AdapterContract):
    adapter = MochiAdapter()

    def build(self) -> nn.Module:
        return tiny_mochi.transformer()

    def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:
        return super().at_level(denoiser, inputs, 1000 - level)
