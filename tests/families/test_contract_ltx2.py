"""The LTX-2 adapter under the contract, with the gates and modulation of 2.3; 2.0 runs as a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_ltx2
import torch
from f3core_diffusers.ltx2 import LTX2Adapter
from torch import nn

from f3core.sites import FORWARD
from f3core.testing import AdapterContract


class TestLTX2(AdapterContract):
    adapter = LTX2Adapter()
    layers = 2

    def build(self) -> nn.Module:
        return tiny_ltx2.transformer(
            num_layers=self.layers,
            gated_attn=True,
            audio_gated_attn=True,
            cross_attn_mod=True,
            audio_cross_attn_mod=True,
            rope_type="split",
            use_prompt_embeddings=False,
            perturbed_attn=True,
        )

    def test_compiles_wherever_the_unpruned_model_does(self) -> None:
        self.layers = 1  # blocks are alike, and large
        super().test_compiles_wherever_the_unpruned_model_does()


@pytest.mark.parametrize(
    ("told", "perturbed_attn", "kind"),
    [
        ({"spatio_temporal_guidance_blocks": [1]}, True, "perturbed"),
        ({"spatio_temporal_guidance_blocks": [1]}, False, FORWARD),
        ({"spatio_temporal_guidance_blocks": []}, True, FORWARD),
        ({"isolate_modalities": True}, True, "isolated"),
        ({}, True, FORWARD),
    ],
    ids=str,
)
def test_forwards_that_cost_less_are_kinds_of_their_own(
    told: dict[str, object], perturbed_attn: bool, kind: str
) -> None:
    adapter, denoiser = LTX2Adapter(), tiny_ltx2.transformer(perturbed_attn=perturbed_attn)
    with torch.device("meta"):
        inputs = adapter.example_inputs(denoiser, frames=3, height=2, width=4, text=8)
    assert adapter.layout(denoiser, (), {**inputs, **told}).kind == kind


@pytest.mark.parametrize(
    ("call", "weights"),
    [
        ({"guidance_scale": 4.0, "stg_scale": 0.0, "modality_scale": 1.0}, (-3.0, 4.0)),
        ({"guidance_scale": 4.0, "stg_scale": 1.0, "modality_scale": 3.0}, (-3.0, 7.0)),
        ({"guidance_scale": 1.0, "audio_guidance_scale": 7.0, "stg_scale": 0.0, "modality_scale": 1.0}, (0.0, 1.0)),
        ({"guidance_scale": 1.0, "audio_guidance_scale": None}, (1.0,)),
    ],
)
def test_branches_weigh_what_all_guidance_makes_of_them(call: dict[str, float], weights: tuple[float, ...]) -> None:
    pipe = object.__new__(tiny_ltx2.LTX2Pipeline)  # its class alone is asked
    assert LTX2Adapter().branches(pipe, "transformer", call) == weights


def test_forwards_of_one_kind_add_up(tmp_path: Path) -> None:
    """Where no self-attention can be perturbed, that forward costs what the guided one does."""
    pipe = tiny_ltx2.pipeline()
    pipe.register_modules(transformer=tiny_ltx2.transformer(perturbed_attn=False))
    pipe.save_pretrained(tmp_path)
    sketch = LTX2Adapter().sketch(str(tmp_path), steps=2, call=tiny_ltx2.CALL)
    assert sketch.rows == {"transformer": {FORWARD: (3, 3), "isolated": (1, 1)}}
