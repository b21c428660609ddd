"""The ConsisID adapter under the contract, with a face."""

from __future__ import annotations

import tiny_consisid
from f3core_diffusers.consisid import ConsisIDAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestConsisID(AdapterContract):
    adapter = ConsisIDAdapter()

    def build(self) -> nn.Module:
        return tiny_consisid.transformer()
