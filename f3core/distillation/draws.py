"""What a training draws at random. All of it hangs on the seed, the step, the row of the whole batch and the purpose,
so that neither processes nor accumulated parts, nor an interruption, change what is drawn."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def key(*parts: object) -> int:
    """A seed of 63 bits for a tuple of numbers and words, the same in every process and on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def source(*parts: object) -> torch.Generator:
    """A source of random numbers on the CPU, seeded by `key`."""
    return torch.Generator().manual_seed(key(*parts))


@functools.lru_cache(maxsize=4)
def epoch(seed: int, number: int, clips: int) -> tuple[int, ...]:
    """The order in which epoch ``number`` visits the clips 0 to ``clips`` − 1: every one once."""
    return tuple(torch.randperm(clips, generator=source(seed, "epoch", number)).tolist())


def visited(seed: int, clips: int, batch: int, step: int, rows: Sequence[int]) -> list[int]:
    """The clips in ``rows`` of the batch of a ``step`` (from 1): epochs follow one another, across batches."""
    places = (divmod((step - 1) * batch + row, clips) for row in rows)
    return [epoch(seed, number, clips)[place] for number, place in places]


class Draws:
    """What the ``rows`` (places in the whole batch) of one step draw."""

    def __init__(self, seed: int, step: int, rows: Sequence[int]) -> None:
        self.seed, self.step, self.rows = seed, step, rows

    def generator(self, purpose: str, row: int) -> torch.Generator:
        """Source for a purpose and the ``row``-th of the rows."""
        return source(self.seed, self.step, self.rows[row], purpose)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal noise of the form of ``like`` [B, ...], on its device."""
        rows = [torch.randn(like.shape[1:], generator=self.generator(purpose, row)) for row in range(len(self.rows))]
        return torch.stack(rows).to(like.device, like.dtype)

    def uniform(self, purpose: str) -> Tensor:
        """[B] numbers in [0, 1), on the CPU."""
        return torch.cat([torch.rand(1, generator=self.generator(purpose, row)) for row in range(len(self.rows))])

    def seed_torch(self) -> None:
        """Seed torch's own generators, for what modules and losses draw without a source: it hangs on how a batch is
        split, unlike the rest."""
        torch.manual_seed(key(self.seed, self.step, self.rows[0], "torch"))
