"""The Latte adapter under the contract, and the clips that it does not make."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_latte
from f3core_diffusers.latte import LatteAdapter
from torch import nn

from f3core.errors import ModelError
from f3core.testing import AdapterContract


class TestLatte(AdapterContract):
    adapter = LatteAdapter()

    def build(self) -> nn.Module:
        return tiny_latte.transformer()


def test_a_layer_is_a_pair_of_blocks() -> None:
    sites = LatteAdapter().sites(tiny_latte.transformer(), "transformer")
    assert [(site.index, site.path) for site in sites[:4]] == [
        (0, "transformer_blocks.0.attn1"),
        (0, "transformer_blocks.0.attn2"),
        (0, "temporal_transformer_blocks.0.attn1"),
        (1, "transformer_blocks.1.attn1"),
    ]


def test_clips_of_another_length_are_refused_when_planned(tmp_path: Path) -> None:
    tiny_latte.pipeline().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="video_length must be 3"):
        LatteAdapter().sketch(str(tmp_path), steps=2, call={**tiny_latte.CALL, "video_length": 5})
