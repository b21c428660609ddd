"""The training loop that both stages share: Muon and AdamW, an average of the weights, resumable checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common import Workplace, restore, warm_then_decay

EMA_DECAY = 0.998
SAVE_EVERY = 150
WARMUP = 100


def run(
    work: Workplace,
    name: str,
    model: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    steps: int,
    seed: int,
    curve: int | None = None,
) -> None:
    """Train `model` on `loss` for `steps` steps in all; resumes from the checkpoint `name`.pt if there is one.

    `curve`: the steps in which the learning rate reaches 0, where that is not `steps`.
    """
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizers = _optimizers(model)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    first = 0
    if (state := work.load(f"{name}.pt")) is not None:
        restore(parameters, state["parameters"])
        restore(average, state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        first = state["step"]

    began, window = time.perf_counter(), 0.0
    for step in range(first, steps):
        factor = warm_then_decay(step, curve or steps, WARMUP)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        # Seeded by the step, so that a resumed run sees what an unbroken one would have seen.
        value = loss(torch.Generator().manual_seed(seed * 1_000_003 + step))
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        window += value.item()
        if (step + 1) % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"{name} {step + 1}/{steps} loss {window / 50:.4f}, {seconds:.0f} s", flush=True)
            window = 0.0
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            saved = {
                "step": step + 1,
                "parameters": [p.detach() for p in parameters],
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            work.save(f"{name}.pt", saved)


def load_average(work: Workplace, name: str, model: nn.Module) -> int:
    """Put the averaged weights of the checkpoint `name`.pt into `model`; returns the step they are from.

    Raises `FileNotFoundError` where there is no such checkpoint.
    """
    state = work.load(f"{name}.pt")
    if state is None:
        raise FileNotFoundError(
            f"no {name}.pt in {work.root}: run `python -m f3core_zoo.train.tuneavideo {name}` first"
        )
    restore(model.parameters(), state["average"])
    return int(state["step"])


def _optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the U-Net's transformers, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".transformer_blocks." in name]
    inside = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in inside]
    return [
        torch.optim.Muon(matrices, lr=2e-3, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
