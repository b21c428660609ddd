"""A toy to train in milliseconds: a denoiser of three blocks, its recipe, clips, and losses, one with an opponent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from f3core.distillation.loss import Bench, Loss, Step
from f3core.distillation.recipe import Conditions, Recipe
from f3core.distillation.trainer import Trained, train
from f3core.spec_distill import DistillSpec

WIDTH = 6
CPU = torch.device("cpu")


class Block(nn.Module):
    """Gives a tuple, as blocks of denoisers do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.runs = 0

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        self.runs += 1
        return hidden + torch.tanh(self.inner(hidden)), None


class Denoiser(nn.Module):
    """[B, WIDTH] and a level and a caption's length, through blocks one after the other."""

    def __init__(self, blocks: int, reentrant: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.unreached = nn.Linear(2, 2)
        self.saving = False
        self.reentrant = reentrant

    def forward(self, hidden: Tensor, level: Tensor, caption: Tensor) -> Tensor:
        hidden = hidden * (1 + level[:, None] / 1000) + caption[:, None] / 10
        for block in self.blocks:
            if self.saving and torch.is_grad_enabled():
                hidden, _ = checkpoint(block, hidden, use_reentrant=self.reentrant)
            else:
                hidden, _ = block(hidden)
        return hidden


class Saving(Denoiser):
    """One that knows gradient checkpointing."""

    def enable_gradient_checkpointing(self) -> None:
        self.saving = True

    def disable_gradient_checkpointing(self) -> None:
        self.saving = False


class FlowRecipe(Recipe):
    """Flow matching; notes the prompts and levels that it is asked for."""

    size = (1, 8, 8)

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def latents(self, clips: Tensor) -> Tensor:
        return clips

    def conditions(self, prompts: Sequence[str], clips: Tensor | None = None) -> Conditions:
        self.prompts += prompts
        return {"caption": torch.tensor([float(len(prompt)) for prompt in prompts])}

    def levels(self, uniform: Tensor) -> Tensor:
        return 1000 * uniform

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        return 1000 * sigmas / (1 + sigmas)

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        share = levels[:, None] / 1000
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        return noise - latents

    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        return noisy - levels[:, None] / 1000 * predicted

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        return denoiser(noisy, levels, **conditions)

    def frames(self, latents: Tensor) -> int:
        return 1


class ToyClips:
    """Latents by number; captions of as many letters."""

    def __init__(self, count: int = 10) -> None:
        self.all = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.all)

    def latents(self, numbers: Sequence[int]) -> Tensor:
        return self.all[list(numbers)]

    def captions(self, numbers: Sequence[int]) -> list[str]:
        return ["x" * (1 + number) for number in numbers]

    def clips(self, numbers: Sequence[int]) -> Tensor | None:
        return None


class Task(Loss):
    name = "task"

    def __call__(self, step: Step) -> Tensor:
        target = step.bench.recipe.target(step.latents, step.noise, step.levels)
        return (step.predicted - target).square().mean()


class Features(Loss):
    name = "features"
    weight = 0.1

    def __call__(self, step: Step) -> Tensor:
        return torch.stack([(step.features[path] - of).square().mean() for path, of in step.taught[1].items()]).sum()


class Adversarial(Loss):
    """Looks through the teacher at the student's clean latents, with noise of its own, as MCA does."""

    name = "adversarial"

    def prepare(self, bench: Bench) -> None:
        self.opponent = nn.Linear(WIDTH, 1)

    def __call__(self, step: Step) -> Tensor:
        return -self._scores(step, step.predicted, True).mean()

    def opposing(self, step: Step) -> Tensor:
        real, fake = (self._scores(step, predicted, False) for predicted in (step.taught[0], step.predicted))
        step.figures["right"] = float((real > fake).float().mean())
        return (torch.relu(1 - real) + torch.relu(1 + fake)).mean()

    def _scores(self, step: Step, predicted: Tensor, gradient: bool) -> Tensor:
        recipe = step.bench.recipe
        latents = recipe.clean(step.noisy, predicted, step.levels)
        levels = recipe.at_sigma(step.uniform("sigma", step.levels))
        noisy = recipe.noised(latents, step.normal("again", latents), levels)
        seen = step.watch_teacher(noisy, levels, step.conditions, gradient)[1]
        assert self.opponent is not None
        return self.opponent(seen["blocks.2"])


def bench(kind: type[Denoiser] = Denoiser, **options: Any) -> Bench:
    """A teacher of three blocks, and a student without the middle one."""
    torch.manual_seed(5)
    teacher = kind(3, **options).requires_grad_(False).eval()
    student = deepcopy(teacher).requires_grad_(True)
    del student.blocks[1]
    example = (torch.zeros(1, WIDTH), torch.zeros(1), {"caption": torch.zeros(1)})
    return Bench(FlowRecipe(), teacher, student, [("blocks.0", "blocks.0"), ("blocks.2", "blocks.1")], CPU, example)


def all_losses() -> list[Loss]:
    return [Task(), Features(), Adversarial()]


def spec(**changes: Any) -> DistillSpec:
    """Twelve steps of four clips, a checkpoint every three."""
    settings: Mapping[str, Any] = {
        "data": "toy",
        "steps": 12,
        "batch_size": 4,
        "ema": 0.9,
        "save_every": 3,
        "caption_dropout": 0.3,
        "optimiser": {"learning_rate": 0.02, "warmup": 3},
        "opponent": {"learning_rate": 0.01, "warmup": 0},
    }
    return DistillSpec.model_validate({**settings, **changes})


def quiet(task: str, done: int, total: int) -> None:
    """A listener that does not listen."""


def run(folder: Path, settings: DistillSpec | None = None, **options: Any) -> Trained:
    """Train the toy."""
    options = {"bench": bench(), "losses": all_losses(), "batches": ToyClips(), "listener": quiet} | options
    return train(spec=settings or spec(), folder=folder, **options)
