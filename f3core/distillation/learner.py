"""`Learner`: a module that is trained, with its optimiser; a student, or what a loss trains against it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from f3core.distillation.processes import Processes
from f3core.distillation.schedule import share
from f3core.errors import ModelError
from f3core.spec_distill import OptimiserSpec


class Learner:
    """``module`` under AdamW, over ``steps`` updates. Raises `ModelError` for one with nothing to train, or in half
    precision: updates of the size of a learning rate would be rounded away."""

    def __init__(self, name: str, module: nn.Module, spec: OptimiserSpec, steps: int, processes: Processes) -> None:
        self.module, self.spec, self.steps, self.processes = module, spec, steps, processes
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters:
            raise ModelError(f"{name} has no parameter that can be trained")
        half = next((p.dtype for p in self.parameters if p.dtype in (torch.float16, torch.bfloat16)), None)
        if half is not None:
            raise ModelError(
                f"{name} is in {str(half).removeprefix('torch.')}, too coarse for updates; load the model in float32 "
                "(model.dtype) and give distill.mixed_precision"
            )
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 1)."""
        return self.spec.learning_rate * share(step, self.steps, self.spec.warmup)

    def learn(self, step: int) -> Tensor:
        """Update by the gradients that were gathered, averaged over processes. Gives their norm before clipping, not
        finite where fp16 overflowed and the update was left out."""
        scaler = self.processes.scaler
        self.processes.average(self.parameters)
        if scaler is not None:
            scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.spec.clip_norm or math.inf)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        if scaler is None:
            self.optimiser.step()
        else:
            scaler.step(self.optimiser)
        self.optimiser.zero_grad(set_to_none=True)
        return norm

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """While entered, what runs through the module leaves no gradient in it."""
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
