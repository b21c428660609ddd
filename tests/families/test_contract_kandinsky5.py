"""The Kandinsky 5.0 adapter under the contract."""

from __future__ import annotations

import pytest
import tiny_kandinsky5
import torch
from f3core_diffusers.kandinsky5 import Kandinsky5Adapter
from torch import nn

from f3core.errors import ModelError
from f3core.testing import AdapterContract


class TestKandinsky5(AdapterContract):
    adapter = Kandinsky5Adapter()
    height = 8  # no positions of an axis are as many as the rows of a batch

    def build(self) -> nn.Module:
        return tiny_kandinsky5.transformer(visual_cond=True)

    def cast(self, denoiser: nn.Module, dtype: torch.dtype) -> nn.Module:
        denoiser.to(dtype)
        for name, module in denoiser.named_modules():
            if name.endswith(("time_embeddings", "modulation")):
                module.float()
        return denoiser


def test_sparse_variants_are_refused() -> None:
    sparse = tiny_kandinsky5.transformer(attention_type="nabla")
    with pytest.raises(ModelError, match="'nabla', whose sparse map"):
        Kandinsky5Adapter().sites(sparse, "transformer")
