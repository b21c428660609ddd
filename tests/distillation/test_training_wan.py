"""A real denoiser of diffusers, trained with gradient checkpointing and in bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from torch import Tensor, nn
from toy_training import CPU, Features, FlowRecipe, Task, ToyClips, quiet, spec

from f3core.distillation.loss import Bench, Loss, Step
from f3core.distillation.recipe import Conditions
from f3core.distillation.trainer import train

SHAPE = (4, 2, 4, 4)


class WanRecipe(FlowRecipe):
    def conditions(self, prompts: Sequence[str], clips: Tensor | None = None) -> Conditions:
        words = torch.tensor([float(len(prompt)) for prompt in prompts])
        return {"encoder_hidden_states": words[:, None, None].expand(-1, 3, 8) / 10}

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        share = levels[:, None, None, None, None] / 1000
        return (1 - share) * latents + share * noise

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        return denoiser(noisy, levels, **conditions, return_dict=False)[0]


class WanClips(ToyClips):
    def __init__(self) -> None:
        self.all = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(0))


class Through(Loss):
    """Backpropagates through the frozen teacher."""

    name = "through"

    def __call__(self, step: Step) -> Tensor:
        seen = step.watch_teacher(step.predicted, step.levels, step.conditions, True)[1]
        return torch.stack([each.float().square().mean() for each in seen.values()]).mean()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_wan_student_trains_the_same_with_gradient_checkpointing(tmp_path: Path, precision: str) -> None:
    curves, students = {}, {}
    for saving in (False, True):
        teacher: Any = tiny_wan.transformer(layers=3)
        student = deepcopy(teacher)
        del student.blocks[1]
        pairs = [("blocks.0", "blocks.0"), ("blocks.2", "blocks.1")]
        table = Bench(WanRecipe(), teacher, student, pairs, CPU, (torch.zeros(1, *SHAPE), torch.zeros(1), {}))
        settings = spec(steps=6, save_every=6, batch_size=2, mixed_precision=precision, gradient_checkpointing=saving)
        before = student.blocks[1].attn1.to_q.weight.detach().clone()
        trained = train(table, [Task(), Features(), Through()], WanClips(), settings, tmp_path / str(saving), quiet)
        curves[saving] = [record.losses for record in trained.history]
        students[saving] = trained.student
        assert not student.gradient_checkpointing
        assert student.blocks[1].attn1.to_q.weight.dtype is torch.float32
        assert not torch.equal(before, student.blocks[1].attn1.to_q.weight)
    by = 1e-5 if precision == "no" else 1e-2
    assert curves[True] == [pytest.approx(each, rel=by, abs=by) for each in curves[False]]
