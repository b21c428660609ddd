"""The I2VGen-XL adapter under the contract, and whose noise decides its image latents."""

from __future__ import annotations

import tiny_i2vgen_xl
import torch
from f3core_diffusers.i2vgen_xl import I2VGenXLAdapter
from PIL import Image
from torch import nn

from f3core.testing import AdapterContract


class TestI2VGenXL(AdapterContract):
    """As few blocks as show every kind of site."""

    adapter = I2VGenXLAdapter()
    component = "unet"

    def build(self) -> nn.Module:
        blocks = {"down_block_types": ("CrossAttnDownBlock3D",), "up_block_types": ("UpBlock3D",)}
        return tiny_i2vgen_xl.unet(block_out_channels=(8,), **blocks)


def test_a_clip_depends_on_its_own_seed_alone() -> None:
    adapter, pipe = I2VGenXLAdapter(), tiny_i2vgen_xl.pipeline()
    pipe.set_progress_bar_config(disable=True)
    image = Image.effect_noise((16, 8), 90).convert("RGB")

    def clips(*seeds: int) -> torch.Tensor:
        call = {**tiny_i2vgen_xl.CALL, "image": [image] * len(seeds)}
        return adapter.generate(pipe, ["a cat"] * len(seeds), steps=1, seeds=seeds, call=call)

    torch.manual_seed(0)
    one = clips(4)
    torch.manual_seed(1)
    both = clips(3, 4)
    torch.testing.assert_close(both[1:], one, atol=1e-5, rtol=0)
    assert not torch.equal(both[0], both[1])
