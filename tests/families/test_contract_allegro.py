"""The Allegro adapter under the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_allegro
import torch
from f3core_diffusers.allegro import AllegroAdapter
from torch import nn

from f3core.testing import AdapterContract


class TestAllegro(AdapterContract):
    adapter = AllegroAdapter()
    height = 8  # rotary tables of four rows, not of as many as the batch has

    def build(self) -> nn.Module:
        return tiny_allegro.transformer()


@pytest.mark.parametrize("frames", [None, 16, 17, 20])
def test_latent_frames_are_the_pipelines(frames: int | None, tmp_path: Path) -> None:
    pipe, call = tiny_allegro.pipeline(), {**tiny_allegro.CALL, "num_frames": frames}
    pipe.save_pretrained(tmp_path)
    pixels = frames or pipe.transformer.config.sample_frames * pipe.vae_scale_factor_temporal
    rest = {"dtype": torch.float32, "device": "cpu", "generator": None}
    latents = pipe.prepare_latents(1, 4, pixels, call["height"], call["width"], **rest)
    assert AllegroAdapter.latent_size(str(tmp_path), pipe.transformer, call) == tuple(latents.shape[2:])
