"""The Helios adapter under the contract: the past asks for text too, or not."""

from __future__ import annotations

import pytest
import tiny_helios
import torch
from f3core_diffusers.helios import HeliosAdapter
from torch import nn

from f3core.errors import ModelError
from f3core.sites import AttentionCall
from f3core.testing import AdapterContract


class TestHelios(AdapterContract):
    adapter = HeliosAdapter()

    def build(self) -> nn.Module:
        return tiny_helios.transformer()


def test_the_past_counts_as_text_wherever_it_asks() -> None:
    adapter, denoiser = HeliosAdapter(), tiny_helios.transformer(guidance_cross_attn=False)
    inputs = adapter.example_inputs(denoiser, frames=3, height=4, width=6, text=7)
    layout = adapter.layout_of(denoiser, inputs)
    within, to_text = adapter.sites(denoiser, "transformer")[:2]
    asked = adapter.segments(within, layout, AttentionCall(0, 1, 2, 50, 50)).query
    assert torch.equal(asked, adapter.segments(to_text, layout, AttentionCall(0, 1, 2, 50, 7)).query)
    assert asked[0].tolist() == [-1] * 32 + [0] * 6 + [1] * 6 + [2] * 6


def test_a_pyramid_is_refused_before_it_runs() -> None:
    class HeliosPyramidPipeline:
        pass

    with pytest.raises(ModelError, match="takes its steps by stages of several sizes"):
        HeliosAdapter().generate(HeliosPyramidPipeline(), ["a cat"], steps=2, seeds=[0], call={})
    with pytest.raises(ModelError, match="make a plan with HeliosPipeline"):
        HeliosAdapter().as_run_by({"_class_name": "HeliosPyramidPipeline"})
