"""What every training command shares: where things lie, resumable checkpoints, and the learning-rate curve."""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error on values in [-1, 1]."""
    return 10 * math.log10(4.0 / mse)


def restore(live: Iterable[Tensor], saved: Iterable[Tensor]) -> None:
    """Copy values into tensors that stay the same objects."""
    with torch.no_grad():
        for target, source in zip(live, saved, strict=True):
            target.copy_(source)


def forget_path(config: Path) -> None:
    """Take out of a config where on this machine its model was loaded from."""
    kept = {k: v for k, v in json.loads(config.read_text()).items() if k != "_name_or_path"}
    config.write_text(json.dumps(kept, indent=2) + "\n")


def name_tokenizer_for_all(*files: Path) -> None:
    """Name the tokenizer's class so that transformers 4 finds it too: version 5 saves a name of its own."""
    for path in files:
        path.write_text(path.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))


def command_line(
    package: str, about: str | None, commands: Sequence[str], *, work: str = "runs/zoo", threads: int = 1
) -> argparse.ArgumentParser:
    """What the commands of ``python -m package`` share; a mini adds what its evaluation can try."""
    parser = argparse.ArgumentParser(prog=f"python -m {package}", description=about)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--work", type=Path, default=Path(work), help=f"folder for checkpoints (default: {work})")
    parser.add_argument("--steps", type=int, help="training steps in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--clips", type=int, default=240, help="evaluate: clips to generate")
    parser.add_argument("--guidance", type=float, nargs="+", help="evaluate: guidance scales to try")
    parser.add_argument("--as-is", action="store_true", help="evaluate: the shipped weights, not the last checkpoint")
    return parser
