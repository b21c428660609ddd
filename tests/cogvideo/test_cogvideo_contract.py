"""The CogVideo adapter under the contract: stage 1 as published, stage 2 with windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiny_cogvideo
from f3core_cogvideo.adapter import CogVideoAdapter
from torch import nn

from f3core.testing import AdapterContract


class OneNoiseLevel(AdapterContract):
    adapter = CogVideoAdapter()
    levels = (0.0,)

    def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:
        return dict(inputs)

    test_timestep_plans_prune_exactly_where_they_say = None  # type: ignore[assignment]
    test_macs_of_any_cells_are_predicted_exactly = None  # type: ignore[assignment]


class TestStage1(OneNoiseLevel):
    def build(self) -> nn.Module:
        return tiny_cogvideo.transformer(text=7, tokens=24, frames=3, layers=2)


class TestStage2(OneNoiseLevel):
    height, width = 2, 8  # only their product counts: the frames are 4 x 4

    def build(self) -> nn.Module:
        return tiny_cogvideo.transformer(text=7, tokens=16, frames=3, layers=2, stage=2, window=2)

    test_compiles_wherever_the_unpruned_model_does = None  # type: ignore[assignment] # as stage 1 does; it takes long
