"""The AnyFlow adapter under the contract."""

from __future__ import annotations

import tiny_anyflow
from f3core_diffusers.anyflow import AnyFlowAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestAnyFlow(AdapterContract):
    adapter = AnyFlowAdapter()

    def build(self) -> nn.Module:
        return tiny_anyflow.transformer()
