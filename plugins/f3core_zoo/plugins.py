"""The digit world behind f3core's interfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from f3core.errors import ModelError
from f3core.method import Metric, PromptSet

from . import captions


class Digits(PromptSet):
    """The 120 captions of the digit world, in balanced choices."""

    name = "zoo:digits"

    def prompts(self, count: int, seed: int) -> list[str]:
        return captions.prompts(count, seed)


class TextAccuracy(Metric):
    """Shares, in [0, 1], of clips in which the judge sees the caption's digit, colour, direction, and all three."""

    name = "text_accuracy"
    higher_is_better = True

    def measure(self, clips: torch.Tensor, prompts: Sequence[str]) -> dict[str, float]:
        from . import judge

        _in_world(clips)
        return asdict(judge.text_accuracy(clips, prompts))


class FrechetVideo(Metric):
    """Fréchet distance to real clips of the same captions, on the judge's features."""

    name = "frechet_video"
    higher_is_better = False

    def measure(self, clips: torch.Tensor, prompts: Sequence[str]) -> dict[str, float]:
        from . import judge

        _in_world(clips)
        return {"frechet_video": judge.frechet_video(clips, prompts)}


def _in_world(clips: torch.Tensor) -> None:
    if clips.ndim != 5 or tuple(clips.shape[2:]) != (3, 16, 16):
        raise ModelError(f"the judge of the digit world looks at clips [B, F, 3, 16, 16], not {list(clips.shape)}")
