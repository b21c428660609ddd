"""The digit world behind f3core's interfaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import torch

from f3core.errors import ModelError
from f3core.method import PromptSet
from f3core.metric import Batch, Features, Metric

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
    needs_prompts = True

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        from . import judge

        return asdict(judge.text_accuracy(*_whole(clips)))


class FrechetVideo(Metric):
    """Fréchet distance to real clips of the same captions, on the judge's features."""

    name = "frechet_video"
    higher_is_better = False
    needs_prompts = True

    def measure(self, clips: Iterable[Batch], reference: Iterable[Batch] | None = None) -> dict[str, float]:
        from . import judge

        return {"frechet_video": judge.frechet_video(*_whole(clips))}


class JudgeFeatures(Features):
    """The judge's penultimate features, 64 a clip."""

    name = "zoo:judge"

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        from . import judge

        _in_world(clips)
        return judge.features(clips)


def _whole(clips: Iterable[Batch]) -> tuple[torch.Tensor, Sequence[str]]:
    """All clips and captions in one; clips of this world are small."""
    batches = list(clips)
    for batch in batches:
        _in_world(batch.clips)
    prompts = [prompt for batch in batches for prompt in batch.prompts or ()]
    return torch.cat([batch.clips for batch in batches]), prompts


def _in_world(clips: torch.Tensor) -> None:
    if clips.ndim != 5 or tuple(clips.shape[2:]) != (3, 16, 16):
        raise ModelError(f"the judge of the digit world looks at clips [B, F, 3, 16, 16], not {list(clips.shape)}")
