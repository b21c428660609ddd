"""The Motif-Video adapter under the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_motif_video
from f3core_diffusers.motif_video import MotifVideoAdapter
from torch import nn

from f3core.errors import ModelError
from f3core.testing import AdapterContract


class TestMotifVideo(AdapterContract):
    adapter = MotifVideoAdapter()

    def build(self) -> nn.Module:
        return tiny_motif_video.transformer()


def test_models_without_a_decoder_and_cross_attention_have_joint_attention_alone() -> None:
    plain = tiny_motif_video.transformer(
        num_decoder_layers=0, enable_text_cross_attention_dual=False, enable_text_cross_attention_single=False
    )
    sites = MotifVideoAdapter().sites(plain, "transformer")
    assert [site.path for site in sites] == [
        "transformer_blocks.0.attn",
        "single_transformer_blocks.0.attn",
        "single_transformer_blocks.1.attn",
    ]
    assert len({site.kinds for site in sites}) == 1


def test_image_tokens_are_text() -> None:
    model, adapter = tiny_motif_video.transformer(image_embed_dim=8), MotifVideoAdapter()
    inputs = adapter.example_inputs(model, frames=3, height=4, width=6, text=7)
    assert adapter.layout_of(model, inputs).text == 7
    inputs["image_embeds"] = inputs["encoder_hidden_states"][:, :5]
    assert adapter.layout_of(model, inputs).text == 12


def test_a_source_without_the_config_of_its_picture_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the config of its text_encoder could not be read"):
        MotifVideoAdapter().sketch(str(tmp_path), steps=2, call={"image": "a.png"})
