"""The LTX-Video adapter under the contract."""

from __future__ import annotations

import pytest
import tiny_ltx
from f3core_diffusers.ltx import LTXAdapter
from torch import nn

from f3core.errors import ModelError
from f3core.testing import AdapterContract


class TestLTX(AdapterContract):
    adapter = LTXAdapter()

    def build(self) -> nn.Module:
        return tiny_ltx.transformer()


@pytest.mark.parametrize("said", [{"num_frames": None}, {"num_frames": 1, "height": 1, "width": 1}], ids=str)
def test_a_forward_that_does_not_tell_its_frames_is_refused(said: dict[str, int | None]) -> None:
    adapter, denoiser = LTXAdapter(), tiny_ltx.transformer()
    inputs = adapter.example_inputs(denoiser, frames=3, height=2, width=4, text=8)
    with pytest.raises(ModelError, match="24 packed tokens says num_frames"):
        adapter.layout(denoiser, (), {**inputs, **said})
