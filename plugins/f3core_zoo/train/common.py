"""What every training command shares: where things lie, resumable checkpoints, and the learning-rate curve."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parent.parent
MODEL_DIR = PACKAGE / "digits_wan"
JUDGE_FILE = PACKAGE / "judge.safetensors"


@dataclass(frozen=True)
class Workplace:
    """A folder for checkpoints and caches; the finished weights go to the package itself."""

    root: Path

    def path(self, name: str) -> Path:
        """Return `root/name`, creating `root`."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self.root / name

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint; a run killed while writing leaves the previous one whole."""
        partial = self.path(name + ".partial")
        torch.save(state, partial)
        os.replace(partial, self.path(name))

    def load(self, name: str) -> dict[str, Any] | None:
        """Return the checkpoint, or None where there is none yet."""
        path = self.path(name)
        return torch.load(path, weights_only=True) if path.exists() else None


def warm_then_decay(step: int, total: int, warmup: int) -> float:
    """Learning-rate factor: linear up over `warmup` steps, flat, then linear to 0 over the last 40 %."""
    if step < warmup:
        return (step + 1) / warmup
    tail = 0.4 * total
    return min(1.0, max(0.0, (total - step) / tail))
