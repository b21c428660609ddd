"""`Passes`: forwards and backwards of one part of a batch, the student's and then its opponents'."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from f3core.distillation.draws import Draws, visited
from f3core.distillation.learner import Learner
from f3core.distillation.loss import Bench, Loss, Step
from f3core.distillation.processes import Processes
from f3core.distillation.recipe import Conditions
from f3core.distillation.watching import watching
from f3core.errors import ModelError
from f3core.spec_distill import DistillSpec


class Batches(Protocol):
    """What is trained on: clips by number, each the same every time."""

    def __len__(self) -> int:
        """How many clips there are."""

    def latents(self, numbers: Sequence[int]) -> Tensor:
        """[B, ...] float32 on the CPU."""

    def captions(self, numbers: Sequence[int]) -> list[str]:
        """Of each clip, "" where it has none."""

    def clips(self, numbers: Sequence[int]) -> Tensor | None:
        """[B, F, 3, H, W] in [0, 1], for recipes that need more of them than latents; else None."""


@dataclass(frozen=True)
class Part:
    """What was seen of some rows: mean ``values`` of losses, on the device, and their ``figures``."""

    values: dict[str, Tensor]
    figures: dict[str, float]


@dataclass(frozen=True)
class Passes:
    """What a training goes through in every step; ``opponents`` by the names of their losses."""

    bench: Bench
    losses: Sequence[Loss]
    batches: Batches
    spec: DistillSpec
    processes: Processes
    opponents: Mapping[str, Learner]

    def part(self, number: int, rows: range, share: float) -> Part:
        """Forward and backward of some rows: gradients of ``share`` of their mean loss gather in the learners."""
        draws = Draws(self.spec.seed, number, rows)
        draws.seed_torch()
        with contextlib.ExitStack() as stack:
            for opponent in self.opponents.values():
                stack.enter_context(opponent.still())
            with self.processes.autocast():
                step = self._forward(number, draws)
                values = {loss.name: _scalar(loss, loss(step)) for loss in self.losses}
                total = torch.stack([loss.weight * values[loss.name] for loss in self.losses]).sum()
            if not total.requires_grad:
                raise ModelError("no loss hangs on what the student predicts or on its features")
            self.processes.backward(total * share)
        step.predicted = step.predicted.detach()
        step.features = {path: each.detach() for path, each in step.features.items()}
        seen = {name: value.detach() for name, value in values.items()}
        for loss in self.losses:
            if loss.name in self.opponents:
                with self.processes.autocast():
                    value = _scalar(loss, loss.opposing(step))
                self.processes.backward(value * share)
                seen[f"{loss.name}_opponent"] = value.detach()
        return Part(seen, step.figures)

    def _forward(self, number: int, draws: Draws) -> Step:
        """The student's forward on the clips of some rows."""
        bench, spec, recipe = self.bench, self.spec, self.bench.recipe
        clips = visited(spec.seed, len(self.batches), spec.batch_size, number, draws.rows)
        latents = self.batches.latents(clips).to(bench.device)
        dropped = draws.uniform("caption") < spec.caption_dropout
        captions = self.batches.captions(clips)
        prompts = ["" if drop else caption for drop, caption in zip(dropped.tolist(), captions, strict=True)]
        with torch.no_grad():
            conditions = recipe.conditions(prompts, self.batches.clips(clips))
            levels = recipe.levels(draws.uniform("level").to(bench.device))
            noise = draws.normal("noise", latents)
            noisy = recipe.noised(latents, noise, levels)
        with watching(bench.student, [path for _, path in bench.matched]) as watched:
            predicted = recipe.predict(bench.student, noisy, levels, conditions)
        features = watched.under({student: teacher for teacher, student in bench.matched})
        if spec.gradient_checkpointing:
            _check_graph(bench, features)
        return Step(
            number=number,
            bench=bench,
            latents=latents,
            noise=noise,
            levels=levels,
            conditions=conditions,
            noisy=noisy,
            predicted=predicted.float(),
            features=features,
            watch_teacher=self._watch_teacher,
            generator=draws.generator,
        )

    def _watch_teacher(
        self, noisy: Tensor, levels: Tensor, conditions: Conditions, gradient: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        teacher = self.bench.teacher
        paths = [path for path, _ in self.bench.matched]
        with torch.set_grad_enabled(gradient), self.processes.autocast(), watching(teacher, paths) as watched:
            predicted = self.bench.recipe.predict(teacher, noisy, levels, conditions)
        return predicted.float(), watched.under({path: path for path in paths})


def _scalar(loss: Loss, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ModelError(f"loss {loss.name!r} gave {type(value).__name__} where a scalar tensor is due")
    return value.float().reshape(())


def _check_graph(bench: Bench, features: Mapping[str, Tensor]) -> None:
    """Raises `ModelError` where blocks run apart from the graph: nothing would be learnt from what they give."""
    for teacher, student in bench.matched:
        trained = any(p.requires_grad for p in bench.student.get_submodule(student).parameters())
        if trained and not features[teacher].requires_grad:
            raise ModelError(
                f"gradient checkpointing of {type(bench.student).__name__} is reentrant, which hides the gradient of "
                f"what {student} gives out; set distill.gradient_checkpointing: false"
            )
