"""Moving digits to train on, rendered when they are asked for."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from f3core.distillation.dataset import Dataset
from f3core.errors import ClipError, ModelError

from . import captions

TOGETHER = 64
"""clips that are rendered in one go"""
KEPT = 8
"""such parts that are kept"""


class DigitsData(Dataset):
    """Clips of the digit world's training split: none shows a scan that evaluation's real clips show.

    The captions are balanced and in an order fixed by ``seed``, as those of `Digits` prompts; clip ``i`` is the same
    whatever ``num_clips``. Raises `ModelError` for impossible numbers.
    """

    name = "zoo:digits"

    def __init__(self, num_clips: int = 4096, seed: int = 0) -> None:
        if num_clips < 1 or not 0 <= seed < 2**31:
            raise ModelError(f"num_clips must be at least 1 and seed in 0 to 2**31 - 1, not {num_clips} and {seed}")
        self._captions = captions.prompts(num_clips, seed)
        self._seed = seed
        self._part = lru_cache(maxsize=KEPT)(self._rendered)

    def __len__(self) -> int:
        return len(self._captions)

    def clip(self, number: int, size: tuple[int, int, int]) -> tuple[Tensor, str]:
        """Raises `ClipError` for sizes other than 16 × 16 pixels, and where there is no such clip."""
        if size[1:] != (16, 16):
            raise ClipError(f"digits move over 16 x 16 pixels, not {size[1]} x {size[2]}; see model.call")
        if not 0 <= number < len(self):
            raise ClipError(f"there is no clip {number}: they are 0 to {len(self) - 1}")
        part, place = divmod(number, TOGETHER)
        return self._part(part, size[0])[place], self._captions[number]

    def _rendered(self, part: int, frames: int) -> Tensor:
        """Clips of one part. All of it is drawn, so that its first clips do not depend on how many it has."""
        from . import digits

        # As for prompts: of a longer choice, the shorter one is the beginning.
        known = captions.prompts((part + 1) * TOGETHER, self._seed)[part * TOGETHER :]
        return digits.render(known, seed=(self._seed << 32) + part, split="train", frames=frames)
