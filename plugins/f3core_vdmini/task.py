"""`TaskLoss`: what the teacher itself was trained by."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from f3core.distillation.loss import Loss, Step


class TaskLoss(Loss):
    """Mean squared error of the student's prediction to what the scheduler asks for: noise, velocity or flow."""

    name: ClassVar[str] = "task"

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, step: Step) -> Tensor:
        """In float32, whatever the student computes in."""
        target = step.bench.recipe.target(step.latents, step.noise, step.levels)
        return (step.predicted.float() - target.float()).square().mean()
