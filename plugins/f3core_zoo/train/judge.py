"""Trains the judge on real clips, spoiled a little, and tests it on digits it has never seen."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from .. import digits
from ..judge import Judge, augment
from .common import JUDGE_FILE, Workplace, warm_then_decay

BATCH = 40
_CHECKPOINT = "judge.pt"


def train(work: Workplace, steps: int = 700, seed: int = 0, learning_rate: float = 2e-3) -> None:
    """Train, or go on training, for `steps` steps in all; print the held-out accuracy and save the weights."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=learning_rate, weight_decay=1e-2)
    first = 0
    if (state := work.load(_CHECKPOINT)) is not None:
        judge.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began = time.perf_counter()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * warm_then_decay(step, steps, 50)
        clips, scenes = digits.sample(BATCH, 50_000_017 + seed * 1_000_003 + step)
        clips = augment(clips, torch.Generator().manual_seed(step))
        loss = sum(
            F.cross_entropy(logits, target, label_smoothing=0.05)
            for logits, target in zip(judge(clips), labels(scenes), strict=True)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"judge {step + 1}/{steps} loss {loss.item():.3f}, {time.perf_counter() - began:.0f} s", flush=True)
            work.save(_CHECKPOINT, {"model": judge.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
    judge.eval()
    save_file(judge.state_dict(), JUDGE_FILE)
    print("judge held-out accuracy: digit {:.4f} colour {:.4f} direction {:.4f}".format(*held_out_accuracy(judge)))


@torch.no_grad()
def held_out_accuracy(judge: Judge, count: int = 2000) -> tuple[float, float, float]:
    """Accuracy of digit, colour and direction on clips of held-out digits."""
    clips, scenes = digits.sample(count, 3, split="held_out")
    seen = [torch.cat(parts) for parts in zip(*[judge(part) for part in clips.split(100)], strict=True)]
    digit, colour, direction = (
        (logits.argmax(1) == target).double().mean().item() for logits, target in zip(seen, labels(scenes), strict=True)
    )
    return digit, colour, direction


def labels(scenes: list[digits.Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices [B] of digit, colour and direction."""
    rows = torch.tensor([[scene.digit, scene.colour, scene.direction] for scene in scenes])
    return rows[:, 0], rows[:, 1], rows[:, 2]
