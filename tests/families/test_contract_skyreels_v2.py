"""The SkyReels-V2 adapter under the contract, as diffusion forcing runs it: a timestep a frame, under a causal mask.
With a timestep a clip it is Wan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_skyreels_v2
import tiny_skyreels_v2_forcing
from f3core_diffusers.skyreels_v2 import SkyReelsV2Adapter
from torch import nn

from f3core.errors import ModelError
from f3core.testing import AdapterContract


class TestSkyReelsV2(AdapterContract):
    adapter = SkyReelsV2Adapter()
    frames = 9
    height = 2
    width = 4

    def build(self) -> nn.Module:
        return tiny_skyreels_v2.transformer(num_frame_per_block=3)


@pytest.mark.parametrize("more", [{"ar_step": 1}, {"overlap_history": 5, "base_num_frames": 9}])
def test_forwards_that_configs_do_not_tell_are_not_sketched(more: dict[str, Any], tmp_path: Path) -> None:
    tiny_skyreels_v2_forcing.pipeline().save_pretrained(tmp_path)
    call = {**tiny_skyreels_v2_forcing.CALL, **more}
    with pytest.raises(ModelError, match="are many more than its steps"):
        SkyReelsV2Adapter().sketch(str(tmp_path), steps=2, call=call)
