"""Renders the moving-digits world: real 8x8 digits, coloured, sliding across a small black canvas.

A clip is a float tensor [F, 3, H, W] in [0, 1]; a batch of clips is [B, F, 3, H, W]. The digits are the 1,797 scans
that scikit-learn carries, split by image, so that a held-out clip never shows a digit image seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from .captions import PROMPTS, SCENES, Scene, parse, prompts

__all__ = ["FRAMES", "PROMPTS", "SCENES", "SIZE", "Scene", "Split", "parse", "prompts", "render", "sample"]

FRAMES = 21
SIZE = 16
GLYPH = 8
Split = Literal["train", "held_out"]

# Pixels travelled over the whole clip; the canvas leaves SIZE - GLYPH = 8.
TRAVEL = (6.0, 8.0)
HELD_OUT_SHARE = 0.2
# Unit steps (down, right) for left, right, up, down.
_STEPS = torch.tensor([[0.0, -1.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])


@cache
def _glyphs(split: Split) -> tuple[Tensor, ...]:
    """The digit images of one split, grouped by digit: ten tensors [N, 8, 8] in [0, 1]."""
    data = load_digits()
    rng = np.random.default_rng(0)
    groups = []
    for digit in range(10):
        index = rng.permutation(np.flatnonzero(data.target == digit))
        held_out = round(len(index) * HELD_OUT_SHARE)
        chosen = index[:held_out] if split == "held_out" else index[held_out:]
        groups.append(torch.tensor(data.images[chosen] / 16.0, dtype=torch.float32))
    return tuple(groups)


def render(captions: Sequence[str], seed: int, split: Split = "train", frames: int = FRAMES) -> Tensor:
    """Render one clip per caption: float32 [B, frames, 3, 16, 16] in [0, 1].

    The digit image, its path and its shade are drawn from `seed`; equal arguments give equal clips. Raises `ValueError`
    for a caption outside the world.
    """
    return _render([parse(caption) for caption in captions], torch.Generator().manual_seed(seed), split, frames)


def sample(n: int, seed: int, split: Split = "train", frames: int = FRAMES) -> tuple[Tensor, list[Scene]]:
    """Draw `n` random scenes and render them: clips [n, frames, 3, 16, 16] in [0, 1], and what each shows."""
    generator = torch.Generator().manual_seed(seed)
    scenes = [SCENES[i] for i in torch.randint(len(SCENES), (n,), generator=generator).tolist()]
    return _render(scenes, generator, split, frames), scenes


def _render(scenes: Sequence[Scene], generator: torch.Generator, split: Split, frames: int) -> Tensor:
    count = len(scenes)
    if count == 0:
        return torch.zeros(0, frames, 3, SIZE, SIZE)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator)

    groups = _glyphs(split)
    picks = uniform(count).tolist()
    glyph = torch.stack([groups[s.digit][int(p * len(groups[s.digit]))] for s, p in zip(scenes, picks, strict=True)])

    room = float(SIZE - GLYPH)
    travel = uniform(count, low=TRAVEL[0], high=TRAVEL[1])
    step = _STEPS[torch.tensor([s.direction for s in scenes])]
    across = uniform(count, low=0.0, high=room)
    # Offset of the glyph's corner: mid-way it is `middle` along the path, so that it never leaves the canvas.
    middle = room / 2 + (uniform(count) - 0.5) * (room - travel)
    along = step.abs()
    centre = along * middle[:, None] + (1 - along) * across[:, None]
    time = torch.linspace(-0.5, 0.5, frames)
    offset = centre[:, None, :] + time[None, :, None] * (travel[:, None] * step)[:, None, :]  # [B, F, (y, x)]

    # A triangle kernel is bilinear interpolation: each canvas row takes from its two nearest glyph rows.
    canvas = torch.arange(SIZE).view(1, 1, SIZE, 1) - torch.arange(GLYPH).view(1, 1, 1, GLYPH)
    rows = (1 - (canvas - offset[..., 0, None, None]).abs()).clamp_min(0)
    columns = (1 - (canvas - offset[..., 1, None, None]).abs()).clamp_min(0)
    grey = rows @ glyph[:, None] @ columns.transpose(-1, -2)  # [B, F, H, W]

    shade = uniform(count, 3, low=0.0, high=0.12)
    main = torch.tensor([s.colour for s in scenes])
    shade[torch.arange(count), main] = uniform(count, low=0.88, high=1.0)
    return (grey[:, :, None] * shade[:, None, :, None, None]).clamp(0, 1)
