"""Noise levels from timesteps, and those of flow-matching pipelines that shift them by a clip's number of tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np


def distinct(timesteps: Iterable[Any]) -> tuple[float, ...]:
    """Timesteps as noise levels, each once, in their order."""
    return tuple(dict.fromkeys(float(timestep) for timestep in timesteps))


def token_shift(scheduler: Any, tokens: int) -> float:
    """The ``mu`` of a clip of ``tokens`` tokens: a line through the two shifts that the scheduler's config names."""
    short, long, low, high = (
        scheduler.config.get(name, usual)
        for name, usual in (
            ("base_image_seq_len", 256),
            ("max_image_seq_len", 4096),
            ("base_shift", 0.5),
            ("max_shift", 1.15),
        )
    )
    slope = (high - low) / (long - short)
    return float(tokens * slope + (low - short * slope))


def shifted_levels(scheduler: Any, steps: int, size: tuple[int, int, int]) -> tuple[float, ...]:
    """Noise levels, noisy to clean, of a clip of ``size`` tokens, evenly spread before they are shifted."""
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=token_shift(scheduler, math.prod(size)))
    return distinct(scheduler.timesteps)
