"""The judge: a small classifier that says which digit, colour and direction a clip shows, and how lifelike a set is.

Clips are [B, F, 3, H, W] tensors in [0, 1]; `as_clips` also takes channels-last arrays, as diffusers returns them. A
clip of fewer frames than the world's is shown at the world's pace: each frame is held longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from f3core_metrics.frechet import Moments, distance
from safetensors.torch import load_file
from torch import Tensor, nn

from . import digits
from .captions import COLOURS, DIGITS, DIRECTIONS, parse

WEIGHTS = Path(__file__).resolve().parent / "judge.safetensors"
FEATURES = 64
# Real clips that a generated set is compared with: as many, whatever the size of the set.
REFERENCE_CLIPS = 512
_REFERENCE_SEED = 20_000


class Judge(nn.Module):
    """Frames are looked at one by one, then along time; three linear heads read one feature vector per clip."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 96),
            nn.BatchNorm1d(96),
            nn.ReLU(),
        )
        self.time = nn.Sequential(
            nn.Conv1d(96, 96, 5, padding=2),
            nn.BatchNorm1d(96),
            nn.ReLU(),
            nn.Conv1d(96, FEATURES, 5, padding=2),
            nn.BatchNorm1d(FEATURES),
            nn.ReLU(),
        )
        self.heads = nn.ModuleList([nn.Linear(FEATURES, len(names)) for names in (DIGITS, COLOURS, DIRECTIONS)])

    def features(self, clips: Tensor) -> Tensor:
        """Penultimate features [B, 64] of clips [B, F, 3, 16, 16] in [0, 1]."""
        count, frames = clips.shape[:2]
        seen = self.frame(clips.flatten(0, 1)).view(count, frames, -1)
        return self.time(seen.transpose(1, 2)).mean(2)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of digit [B, 10], colour [B, 3] and direction [B, 4]."""
        features = self.features(clips)
        digit, colour, direction = (head(features) for head in self.heads)
        return digit, colour, direction


@dataclass(frozen=True)
class TextAccuracy:
    """Shares of clips, in [0, 1], in which the judge sees what the caption says."""

    digit: float
    colour: float
    direction: float
    all: float


@cache
def load() -> Judge:
    """The trained judge, on the CPU in float32. Raises `FileNotFoundError` when its weights are missing."""
    judge = Judge()
    judge.load_state_dict(load_file(WEIGHTS))
    return judge.eval().requires_grad_(False)


def as_clips(clips: Tensor | np.ndarray) -> Tensor:
    """Bring clips to float32 [B, 21, 3, 16, 16] on the CPU, from [B, F, 3, H, W] or [B, F, H, W, 3].

    Each of the 21 frames is the one of the F that is nearest in time. Raises `ValueError` for any other shape.
    """
    tensor = torch.as_tensor(clips).detach().to("cpu", torch.float32)
    if tensor.ndim == 5 and tensor.shape[-1] == 3:
        tensor = tensor.permute(0, 1, 4, 2, 3)
    if tensor.ndim != 5 or not tensor.shape[1] or tensor.shape[2:] != (3, digits.SIZE, digits.SIZE):
        size = f"{digits.SIZE}, {digits.SIZE}"
        raise ValueError(f"expected clips [B, F, 3, {size}] or [B, F, {size}, 3], got {list(np.shape(clips))}")
    nearest = torch.linspace(0, tensor.shape[1] - 1, digits.FRAMES).round().long()
    return tensor[:, nearest]


@torch.inference_mode()
def verdicts(clips: Tensor | np.ndarray) -> Tensor:
    """What the judge sees: integer indices [B, 3] of digit, colour and direction."""
    parts = as_clips(clips).split(64)
    if not parts or not len(parts[0]):
        return torch.zeros(0, 3, dtype=torch.long)
    return torch.cat([torch.stack([logits.argmax(1) for logits in load()(part)], dim=1) for part in parts])


def text_accuracy(clips: Tensor | np.ndarray, prompts: Sequence[str]) -> TextAccuracy:
    """How often clips show what their prompts say.

    Raises `ValueError` when there are no clips, not one prompt per clip, or a prompt outside the world.
    """
    _check(clips, prompts)
    scenes = [parse(prompt) for prompt in prompts]
    said = torch.tensor([[scene.digit, scene.colour, scene.direction] for scene in scenes])
    right = verdicts(clips) == said
    digit, colour, direction = right.double().mean(0).tolist()
    return TextAccuracy(digit, colour, direction, right.all(1).double().mean().item())


def frechet_video(clips: Tensor | np.ndarray, prompts: Sequence[str]) -> float:
    """Frechet distance between clips and real clips of the same prompts, on the judge's features; 0 is best.

    Like any Frechet distance it is biased upwards for small sets: compare only sets of equal size. Raises as
    `text_accuracy` does.
    """
    _check(clips, prompts)
    return frechet(features(clips), _reference(tuple(prompts)))


@torch.inference_mode()
def features(clips: Tensor | np.ndarray) -> Tensor:
    """The judge's penultimate features [B, 64] in float64."""
    return torch.cat([load().features(part) for part in as_clips(clips).split(64)]).double()


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance between Gaussians fitted to two feature sets [N, D].

    Raises `ValueError` for fewer than two rows on a side.
    """
    return distance(Moments.of(first), Moments.of(second))


@cache
def _reference(prompts: tuple[str, ...]) -> Tensor:
    """Features of real clips of these prompts, each repeated as often as fills `REFERENCE_CLIPS`."""
    wanted = max(REFERENCE_CLIPS, len(prompts))
    captions = [prompts[i % len(prompts)] for i in range(wanted)]
    return features(digits.render(captions, _REFERENCE_SEED))


def _check(clips: Tensor | np.ndarray, prompts: Sequence[str]) -> None:
    if not len(prompts) or len(clips) != len(prompts):
        raise ValueError(f"need one prompt per clip, and at least one: got {len(clips)} clips, {len(prompts)} prompts")


def augment(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Clips as a codec or a generator may spoil them: noise, blur and brightness, a different dose for each clip."""

    def dose(high: float) -> Tensor:
        return high * torch.rand((len(clips), 1, 1, 1, 1), generator=generator)

    blurred = F.avg_pool2d(clips.flatten(0, 1), 3, stride=1, padding=1).view_as(clips)
    soft = torch.lerp(clips, blurred, dose(0.6))
    noisy = soft * (0.7 + dose(0.45)) + dose(0.12) * torch.randn(clips.shape, generator=generator)
    return noisy.clamp(0, 1)
