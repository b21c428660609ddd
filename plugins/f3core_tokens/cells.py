"""Which tokens are destinations: one of each cell of a grid, drawn at random, pass after pass (ToMeSD).

What is worked out here depends on places and a seed, not on tokens, so it is worked out once, on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from f3core.reduction import Places


@dataclass(frozen=True)
class Split:
    """Of the n tokens before a pass, which are ``sources`` [s] and which ``destinations`` [d], in their order; and
    ``inverse`` [n], where each token lies among sources and then destinations."""

    sources: Tensor
    destinations: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, destination: Tensor, device: torch.device) -> Split:
        """From a mask [n]."""
        split = (~destination).nonzero()[:, 0], destination.nonzero()[:, 0]
        return cls(split[0].to(device), split[1].to(device), torch.cat(split).argsort().to(device))


def grid_splits(rows: int, columns: int, seed: int, device: torch.device) -> list[Split]:
    """Passes over a grid of tokens, row by row, until one token is left.

    A pass has a destination in every cell of 2 x 2 tokens (1 x 2 where a grid is one token wide), drawn by
    ``torch.randint(4, (rows of cells, columns of cells, 1))``, as `tomesd` draws it. What cells of an odd grid do not
    cover are sources. The next pass is over the grid of these destinations.
    """
    generator = torch.Generator().manual_seed(seed)
    place = torch.arange(rows * columns)  # in its grid, of each token that is left
    splits = []
    while rows * columns > 1:
        high, across = min(2, rows), min(2, columns)
        tall, broad = rows // high, columns // across
        drawn = torch.randint(high * across, (tall, broad, 1), generator=generator)[..., 0]
        row = torch.arange(tall)[:, None] * high + drawn // across
        column = torch.arange(broad) * across + drawn % across
        chosen = torch.zeros(rows * columns, dtype=torch.bool)
        chosen[(row * columns + column).flatten()] = True
        destination = chosen[place]
        splits.append(Split.of(destination, device))
        left = place[destination]
        place = left // columns // high * broad + left % columns // across
        rows, columns = tall, broad
    return splits


def clip_splits(places: Places, seed: int, device: torch.device) -> list[Split]:
    """Passes over tokens anywhere in a clip, until one token is left.

    A pass has a destination in every cell of 2 x 2 tokens of a frame that holds any token, or where a frame has one
    token, in every 4 frames in a row; each token of a cell is as likely to be it. The next pass is over these cells.
    """
    generator = torch.Generator().manual_seed(seed)
    frame, row, column = places.frame, places.row, places.column
    splits = []
    while (count := len(frame)) > 1:
        apart, order = frame.unique(return_inverse=True)
        if len(apart) == count:
            frame, row, column = order // 4, torch.zeros_like(row), torch.zeros_like(column)
        else:
            row, column = row // 2, column // 2
        cells, cell = torch.stack([frame, row, column]).unique(dim=1, return_inverse=True)
        if cells.shape[1] == count:
            continue  # tokens too far apart to meet
        lot = torch.randperm(count, generator=generator)
        lowest = torch.full((cells.shape[1],), count).scatter_reduce_(0, cell, lot, "amin")
        destination = lot == lowest[cell]
        splits.append(Split.of(destination, device))
        frame, row, column = frame[destination], row[destination], column[destination]
    return splits
