"""A flow-matching recipe and denoisers of a few hundred weights, and steps of training made of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from f3core.distillation.loss import Bench, Step
from f3core.distillation.recipe import Conditions, Recipe
from f3core.distillation.watching import watching

CHANNELS, FRAMES, HEIGHT, WIDTH = 4, 3, 4, 4


class ToyFlow(Recipe):
    """x_s = (1 − s) x_0 + s ε at level 1000 s; denoisers predict ε − x_0. Latents are [B, C, F, h, w]."""

    size = (FRAMES, HEIGHT, WIDTH)

    def latents(self, clips: Tensor) -> Tensor:
        return clips.transpose(1, 2)

    def conditions(self, prompts: Sequence[str], clips: Tensor | None = None) -> Conditions:
        return {}

    def levels(self, uniform: Tensor) -> Tensor:
        return self._on_grid(uniform)

    def at_sigma(self, sigmas: Tensor) -> Tensor:
        return self._on_grid(sigmas / (1 + sigmas))

    def noised(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        s = self._share(levels, latents)
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        return noise - latents

    def clean(self, noisy: Tensor, predicted: Tensor, levels: Tensor) -> Tensor:
        return noisy - self._share(levels, noisy) * predicted

    def predict(self, denoiser: nn.Module, noisy: Tensor, levels: Tensor, conditions: Conditions) -> Tensor:
        return denoiser(noisy, levels)

    def frames(self, latents: Tensor) -> int:
        return latents.shape[2]

    @staticmethod
    def _on_grid(share: Tensor) -> Tensor:
        return (share * 20).round().clamp(1, 19) * 50

    @staticmethod
    def _share(levels: Tensor, like: Tensor) -> Tensor:
        return (levels / 1000).to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class Block(nn.Module):
    """A residual layer over channels; ``mixes`` frames where it is told to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.frames = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, frames, positions, width = tokens.shape
        along = tokens.permute(0, 2, 3, 1).reshape(rows * positions, width, frames)
        moved = self.frames(along).reshape(rows, positions, width, frames).permute(0, 3, 1, 2)
        return tokens + torch.tanh(self.inner(tokens) + moved)


class Laid(nn.Module):
    """A block whose output lies as ``lay`` has it: as blocks of some class of models do."""

    def __init__(self, width: int, lay: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.block, self.lay = Block(width), lay

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.block(tokens)
        return self.lay(tokens), tokens


class Toy(nn.Module):
    """A denoiser of ``depth`` blocks between two linear layers; blocks put out what ``lay`` makes of [B, F, S, C]."""

    def __init__(self, depth: int = 3, width: int = 8, lay: Callable[[Tensor], Tensor] = lambda x: x.flatten(1, 2)):
        super().__init__()
        self.enter, self.leave = nn.Linear(CHANNELS + 1, width), nn.Linear(width, CHANNELS)
        self.blocks = nn.ModuleList(Laid(width, lay) for _ in range(depth))

    def forward(self, noisy: Tensor, levels: Tensor) -> Tensor:
        tokens = noisy.flatten(3).permute(0, 2, 3, 1)
        level = (levels / 1000).to(tokens.dtype).reshape(-1, 1, 1, 1).expand(*tokens.shape[:3], 1)
        tokens = self.enter(torch.cat([tokens, level], -1))
        for block in self.blocks:
            tokens = block(tokens)[1]
        return self.leave(tokens).permute(0, 3, 1, 2).reshape(noisy.shape)


def bench(
    teacher: nn.Module,
    student: nn.Module,
    matched: Sequence[tuple[str, str]] | None = None,
    recipe: Recipe | None = None,
    latents: Tensor | None = None,
    conditions: Conditions | None = None,
) -> Bench:
    """A training of ``student`` by ``teacher``, which it freezes; ``matched`` are all blocks of a toy by default."""
    teacher.requires_grad_(False)
    recipe = recipe or ToyFlow()
    if matched is None:
        matched = [(f"blocks.{i}", f"blocks.{i}") for i in range(len(teacher.blocks))]
    one = torch.randn(1, CHANNELS, FRAMES, HEIGHT, WIDTH) if latents is None else latents[:1]
    example = (one, recipe.levels(torch.full((1,), 0.5)), conditions or {})
    return Bench(recipe, teacher, student, matched, torch.device("cpu"), example)


def step(
    of: Bench,
    latents: Tensor,
    number: int = 0,
    first_row: int = 0,
    conditions: Conditions | None = None,
    calls: list[bool] | None = None,
) -> Step:
    """Step ``number`` with ``latents`` as rows ``first_row``… of its batch; ``calls`` notes the teacher's forwards."""
    conditions = conditions or {}

    def generator(purpose: str, row: int) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{purpose} {number} {first_row + row}".encode()))

    def watch_teacher(
        noisy: Tensor, levels: Tensor, conditions: Conditions, gradient: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if calls is not None:
            calls.append(gradient)
        with torch.set_grad_enabled(gradient), watching(of.teacher, [path for path, _ in of.matched]) as seen:
            return of.recipe.predict(of.teacher, noisy, levels, conditions), seen.outputs

    def rows(draw: Callable[..., Tensor], purpose: str, shape: Sequence[int]) -> Tensor:
        return torch.stack([draw(shape, generator=generator(purpose, row)) for row in range(len(latents))])

    noise = rows(torch.randn, "noise", latents.shape[1:])
    levels = of.recipe.levels(rows(torch.rand, "level", ()))
    noisy = of.recipe.noised(latents, noise, levels)
    with watching(of.student, [path for _, path in of.matched]) as seen:
        predicted = of.recipe.predict(of.student, noisy, levels, conditions)
    features = seen.under({student: teacher for teacher, student in of.matched})
    return Step(number, of, latents, noise, levels, conditions, noisy, predicted, features, watch_teacher, generator)
