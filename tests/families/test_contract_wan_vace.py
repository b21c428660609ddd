"""The Wan VACE adapter under the contract."""

from __future__ import annotations

from pathlib import Path

import tiny_wan_vace
from f3core_diffusers.wan_vace import WanVACEAdapter
from PIL import Image
from torch import nn

from f3core.capture import capture_inputs
from f3core.testing import AdapterContract


class TestWanVACE(AdapterContract):
    adapter = WanVACEAdapter()

    def build(self) -> nn.Module:
        return tiny_wan_vace.transformer()


def test_a_reference_image_is_a_frame_before_the_clip(tmp_path: Path) -> None:
    Image.new("RGB", (32, 16), "red").save(tmp_path / "image.png")
    call = {**tiny_wan_vace.CALL, "reference_images": str(tmp_path / "image.png")}
    pipe, adapter = tiny_wan_vace.pipeline(), WanVACEAdapter()
    pipe.save_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    shapes = [
        inputs["transformer"]["forward"]["hidden_states"].shape
        for inputs in (
            capture_inputs(adapter, pipe, "a cat", call),
            adapter.sketch(str(tmp_path), steps=2, call=call).inputs,
        )
    ]
    assert shapes[0] == shapes[1]
    assert shapes[0][2] == 4
