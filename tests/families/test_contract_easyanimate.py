"""The EasyAnimate adapter under the contract, with the latents of given frames; blocks of both kinds."""

from __future__ import annotations

from pathlib import Path

import tiny_easyanimate
from f3core_diffusers.easyanimate import EasyAnimateAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestEasyAnimate(AdapterContract):
    adapter = EasyAnimateAdapter()

    def build(self) -> nn.Module:
        return tiny_easyanimate.transformer(in_channels=9)


def test_sizes_are_rounded_as_the_pipeline_does(tmp_path: Path) -> None:
    tiny_easyanimate.pipeline().save_pretrained(tmp_path)
    call = {**tiny_easyanimate.CALL, "height": 30, "width": 47}
    assert EasyAnimateAdapter.latent_size(str(tmp_path), tiny_easyanimate.transformer(), call) == (3, 4, 8)


def test_a_guided_call_needs_no_negative_prompt() -> None:
    adapter, pipe = EasyAnimateAdapter(), tiny_easyanimate.pipeline()
    pipe.set_progress_bar_config(disable=True)
    call = {name: given for name, given in tiny_easyanimate.CALL.items() if name != "negative_prompt"}
    clips = adapter.generate(pipe, ["a red cat", "a dog"], steps=1, seeds=[1, 2], call=call)
    assert clips.shape[:2] == (2, 5)
