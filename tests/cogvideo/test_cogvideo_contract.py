"""The CogVideo adapter under the contract: stage 1 as published, stage 2 with windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tiny_cogvideo
import torch
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_cogvideo.cache import KVCache
from f3core_cogvideo.visibility import noise_level
from torch import nn

from f3core.meta import again
from f3core.testing import AdapterContract


class FrameByFrame(AdapterContract):
    adapter = CogVideoAdapter()

    def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:
        """The forward of the last frame of that level, with the cache of those before it."""
        sizes = denoiser.config
        cache = KVCache(sizes, replay=True)
        given = [n for n in cache.order if sizes.stage == 2 and n % 2 == 0] or [0]
        pieces = [given, *([n] for n in cache.order[len(given) :])]
        text = torch.arange(sizes.text)
        places = [sizes.text + torch.cat([n * sizes.tokens + torch.arange(sizes.tokens) for n in p]) for p in pieces]
        places[0] = torch.cat([text, places[0]])
        found: dict[str, Any] = {}
        for piece, place in zip(pieces, places, strict=True):
            some = {**inputs, **{k: inputs[k][:, place] for k in ("input_ids", "position_ids")}, "cache": cache}
            if noise_level(sizes.stage, piece[0], sizes.frames) == level:
                found = again(some)
            with torch.no_grad():
                denoiser(**some)
        return found


class TestStage1(FrameByFrame):
    levels = (1.0, 0.0)

    def build(self) -> nn.Module:
        return tiny_cogvideo.transformer(text=7, tokens=24, frames=3, layers=2)


class TestStage2(FrameByFrame):
    frames = 5
    height, width = 2, 8  # only their product counts: the frames are 4 x 4
    levels = (2.0, 1.0, 0.0)

    def build(self) -> nn.Module:
        return tiny_cogvideo.transformer(text=7, tokens=16, frames=5, layers=2, stage=2, window=2)

    test_compiles_wherever_the_unpruned_model_does = None  # type: ignore[assignment] # as stage 1 does; it takes long
