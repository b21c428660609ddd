"""`Discriminator`: heads that tell a teacher's clips from a student's by features of the frozen teacher.

The features do the seeing (as in LADD, arXiv 2403.12015), and separate heads judge frames and motion (as in SF-V,
arXiv 2406.04324), so that neither can be traded for the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

POSITIONS, FRAMES = 9, 3
"""How far heads reach: positions of a frame in raster order, and neighbouring frames"""


class Head(nn.Module):
    """Scores every element of sequences: [N, L, C] → [N, L], from itself, its neighbours and the whole sequence.

    Features are put to zero mean and unit variance first, token by token: their magnitude grows with depth and hangs on
    the noise level. No spectral norm bounds the weights: its power iteration moves at every forward, so the state would
    depend on into how many parts and processes a batch is split. The group norm inside bounds scores instead; it sees
    one sequence at a time, as a batch norm would not, so that rows do not see each other.
    """

    def __init__(self, channels: int, width: int, reach: int) -> None:
        super().__init__()
        self.channels = channels
        self.enter = nn.Linear(channels, width)
        self.mix = nn.Conv1d(width, width, reach, padding=reach // 2)
        self.norm = nn.GroupNorm(math.gcd(width, 8), width)
        self.leave = nn.Conv1d(width, 1, 1)

    def forward(self, sequences: Tensor) -> Tensor:
        even = functional.layer_norm(sequences.float(), (self.channels,))
        hidden = functional.leaky_relu(self.enter(even), 0.2).transpose(1, 2)
        mixed = functional.leaky_relu(self.norm(hidden + self.mix(hidden)), 0.2)
        scores: Tensor = self.leave(mixed).squeeze(1)
        return scores.float()


class Discriminator(nn.Module):
    """A spatial and a temporal head for each of some blocks. Scores above zero say "teacher"."""

    def __init__(self, channels: Mapping[str, int], width: int) -> None:
        """``channels`` of the features by block; ``width`` of the heads."""
        super().__init__()
        self.blocks = tuple(channels)
        self.spatial = nn.ModuleList(Head(each, width, POSITIONS) for each in channels.values())
        self.temporal = nn.ModuleList(Head(each, width, FRAMES) for each in channels.values())

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Scores of features [B, F, S, C] by block: two tensors [B, F, S] a block, of what each position looks like in
        its frame, and of how it goes on from frame to frame."""
        scores = []
        for block, spatial, temporal in zip(self.blocks, self.spatial, self.temporal, strict=True):
            clips = features[block]
            rows = len(clips)
            scores.append(spatial(clips.flatten(0, 1)).unflatten(0, (rows, -1)))
            moved = temporal(clips.transpose(1, 2).flatten(0, 1)).unflatten(0, (rows, -1))
            scores.append(moved.transpose(1, 2))
        return scores


def mean_score(scores: list[Tensor]) -> Tensor:
    """The mean over everything a head scored, then over heads: a head counts the same at any resolution."""
    return torch.stack([each.mean() for each in scores]).mean()


def hinge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """The discriminator's loss, E[max(0, 1 − D(real))] + E[max(0, 1 + D(fake))], a mean over heads."""
    return mean_score([(1 - each).relu() for each in real]) + mean_score([(1 + each).relu() for each in fake])
