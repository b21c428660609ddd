"""The learning rate over a training: it rises in a line, then falls by half a cosine."""

from __future__ import annotations

import math


def share(step: int, steps: int, warmup: int) -> float:
    """The share of the full learning rate at a ``step`` (1 to ``steps``).

    It is step / (warmup + 1) while it rises, one in the step after, and falls to what would be zero in step
    ``steps`` + 1 (SGDR's cosine without restarts, Loshchilov and Hutter, 2017, eq. 5).
    """
    if step <= warmup:
        return step / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup - 1) / (steps - warmup)))
