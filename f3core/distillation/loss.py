"""`Loss`: what a student is trained by, and `Step`, all that a loss may look at in one step. Plugins add losses."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from f3core.distillation.recipe import Conditions, Recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Bench:
    """What stands for a whole training: the frozen ``teacher``, the ``student``, and ``matched``, the paths of blocks
    that both have, in the teacher and in the student, in the order in which they run. ``example`` is one row as the
    denoisers take it, noisy latents, level and conditions: a loss that has to know what comes out of which block runs
    the teacher on it in `Loss.prepare`."""

    recipe: Recipe
    teacher: nn.Module
    student: nn.Module
    matched: Sequence[tuple[str, str]]
    device: torch.device
    example: tuple[Tensor, Tensor, Conditions]


@dataclass
class Step:
    """One step of training, of B rows. Everything random in it hangs on the step's number and the row's place in the
    whole batch, so that processes that share a batch draw what one alone would.

    ``latents``, ``noise`` [B, ...] and ``levels`` [B] make ``noisy``; ``predicted`` is the student's prediction there,
    with gradient, and ``features`` the outputs of its matched blocks by the *teacher's* path.
    """

    number: int
    bench: Bench
    latents: Tensor
    noise: Tensor
    levels: Tensor
    conditions: Conditions
    noisy: Tensor
    predicted: Tensor
    features: Mapping[str, Tensor]
    watch_teacher: Callable[[Tensor, Tensor, Conditions, bool], tuple[Tensor, dict[str, Tensor]]]
    """The teacher's prediction at (noisy latents, levels, conditions) and the outputs of its matched blocks by path;
    with a gradient to the latents where the last argument says so."""
    generator: Callable[[str, int], torch.Generator]
    """Source of what is drawn at random for a purpose and a row (0 to B − 1)."""
    figures: dict[str, float] = field(default_factory=dict)
    """numbers that a loss wants noted beside its value, such as a discriminator's accuracy"""

    @cached_property
    def taught(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The teacher's prediction where the student made its own, and its blocks' outputs; without gradient. Computed
        once, when a loss first asks."""
        return self.watch_teacher(self.noisy, self.levels, self.conditions, False)

    def normal(self, purpose: str, like: Tensor) -> Tensor:
        """Standard normal noise of the form of ``like`` [B, ...]."""
        return self._drawn("randn", purpose, like)

    def uniform(self, purpose: str, like: Tensor) -> Tensor:
        """Numbers in [0, 1) of the form of ``like`` [B, ...]."""
        return self._drawn("rand", purpose, like)

    def _drawn(self, kind: str, purpose: str, like: Tensor) -> Tensor:
        import torch

        draw = getattr(torch, kind)
        rows = [draw(like.shape[1:], generator=self.generator(purpose, row)) for row in range(len(like))]
        return torch.stack(rows).to(like.device, like.dtype)


class Loss(ABC):
    """One of the losses of a distillation, added up by ``weight``. Options of a spec are keyword arguments.

    A loss may train an ``opponent`` against the student, such as a discriminator: then each step ends with
    `opposing`, by which that learns. Its parameters belong to the training's checkpoints.
    """

    name: ClassVar[str]
    weight: float = 1.0
    opponent: nn.Module | None = None

    def prepare(self, bench: Bench) -> None:  # noqa: B027 - most losses need no preparation
        """Called once, before the first step (and before a checkpoint is read): make the opponent. Whatever is drawn
        comes from torch's own generator, which is seeded. Raises `ModelError` for models that it cannot train."""

    def __call__(self, step: Step) -> Tensor:
        """The student's loss, a scalar with gradient: a mean over rows."""
        raise NotImplementedError

    def opposing(self, step: Step) -> Tensor:
        """The opponent's loss, a scalar, a mean over rows; after the student's, in the same step."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """For the report: what it was made with."""
        return {"weight": self.weight}
