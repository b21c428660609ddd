"""`MultiFrameAdversarialLoss`: the student's clips should pass for the teacher's, as frames and as motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

from f3core.distillation.loss import Bench, Loss, Step
from f3core.errors import PluginError
from f3core_vdmini.framed import Grid, framed
from f3core_vdmini.heads import Discriminator, hinge, mean_score
from f3core_vdmini.watched import chosen, outputs, paths, spread


@dataclass(frozen=True)
class _Shared:
    """What both losses of one step need: the level σ' and the noise of each row, and the student's features."""

    step: Step
    levels: Tensor
    noise: Tensor
    fake: dict[str, Tensor]


class MultiFrameAdversarialLoss(Loss):
    """L_MCA of VDMini: −E[D(fake)] for the student, the hinge loss for its opponent, the discriminator D.

    The clean latents that teacher and student predict at the step's noise are noised anew, both with the same noise at
    the same level σ' of each row, ln σ' ~ N(``sigma_mean``, ``sigma_std``²) brought to the nearest level of the
    scheduler. Features of the frozen teacher there are what D sees: real from the teacher's latents, fake from the
    student's. Beside the step's own two forwards it costs two of the teacher, one of them with gradient.
    """

    name: ClassVar[str] = "mca"

    def __init__(
        self,
        weight: float = 1.0,
        sigma_mean: float = -1.0,
        sigma_std: float = 1.0,
        blocks: int | Sequence[str] = 4,
        width: int = 64,
        tokens_before: int = 0,
        tokens_after: int = 0,
    ) -> None:
        """``blocks`` of the teacher that heads look at: paths, or how many, spread over depth. ``width`` of the heads.
        ``tokens_before`` and ``tokens_after`` as of the loss ``icd``. Raises `PluginError` for impossible values."""
        if sigma_std < 0 or width < 1 or (isinstance(blocks, int) and blocks < 1):
            raise PluginError("loss 'mca': `sigma_std` cannot be negative, `width` and a number of `blocks` start at 1")
        self.weight = weight
        self.sigma_mean, self.sigma_std = sigma_mean, sigma_std
        self.blocks = blocks if isinstance(blocks, int) else paths(self.name, blocks)
        self.width = width
        self.beside = (tokens_before, tokens_after)
        self._shared: _Shared | None = None

    def prepare(self, bench: Bench) -> None:
        """Runs the teacher once on the example row, to learn how wide its blocks are. Raises `ModelError` for blocks
        that are not matched, do not run, or in whose outputs frames cannot be told apart."""
        wanted = spread(bench, self.blocks) if isinstance(self.blocks, int) else self.blocks
        looked_at = chosen(self.name, bench, wanted)
        grid = Grid.of(bench.recipe, bench.example[0], self.beside)
        seen = outputs(bench, looked_at)
        channels = {path: framed(path, seen[path], grid).shape[-1] for path in looked_at}
        self._discriminator = Discriminator(channels, self.width).to(bench.device)
        self.opponent = self._discriminator

    def __call__(self, step: Step) -> Tensor:
        """−E[D(fake)]; nothing that D learns from gathers a gradient."""
        levels, noise = self._drawn(step)
        fake = self._features(step, self._clean(step, step.predicted), levels, noise, gradient=True)
        self._shared = _Shared(step, levels, noise, {path: each.detach() for path, each in fake.items()})
        still = {name: each.detach() for name, each in self._discriminator.named_parameters()}
        scores: list[Tensor] = functional_call(self._discriminator, still, (fake,))
        return -mean_score(scores)

    def opposing(self, step: Step) -> Tensor:
        """The hinge loss; notes the discriminator's mean scores, which drift apart where it wins."""
        shared = self._of_student(step)
        self._shared = None
        with torch.no_grad():
            taught = self._clean(step, step.taught[0])
        real = self._features(step, taught, shared.levels, shared.noise, gradient=False)
        assert self.opponent is not None
        of_real, of_fake = self.opponent(real), self.opponent(shared.fake)
        step.figures["mca_real"] = mean_score(of_real).item()
        step.figures["mca_fake"] = mean_score(of_fake).item()
        return hinge(of_real, of_fake)

    def _of_student(self, step: Step) -> _Shared:
        """What the student's pass of this step left, made anew where another step's came between."""
        if self._shared is not None and self._shared.step is step:
            return self._shared
        levels, noise = self._drawn(step)
        with torch.no_grad():
            fake = self._features(step, self._clean(step, step.predicted), levels, noise, gradient=False)
        return _Shared(step, levels, noise, fake)

    def _drawn(self, step: Step) -> tuple[Tensor, Tensor]:
        """Level and noise of each row."""
        latents = step.latents
        normal = step.normal("mca level", torch.zeros(len(latents), device=latents.device))
        sigmas = torch.exp(self.sigma_mean + self.sigma_std * normal)
        return step.bench.recipe.at_sigma(sigmas), step.normal("mca noise", latents)

    def _clean(self, step: Step, predicted: Tensor) -> Tensor:
        """In float32: to divide by a small signal's share would lose what half precision has of it."""
        return step.bench.recipe.clean(step.noisy.float(), predicted.float(), step.levels)

    def _features(self, step: Step, clean: Tensor, levels: Tensor, noise: Tensor, gradient: bool) -> dict[str, Tensor]:
        """Of the teacher's blocks, frame by frame, at clean latents noised anew."""
        noised = step.bench.recipe.noised(clean, noise.to(clean.dtype), levels).to(step.noisy.dtype)
        seen = step.watch_teacher(noised, levels, step.conditions, gradient)[1]
        grid = Grid.of(step.bench.recipe, step.latents, self.beside)
        return {path: framed(path, seen[path], grid) for path in self._discriminator.blocks}

    def options(self) -> dict[str, Any]:
        blocks = self.blocks if isinstance(self.blocks, int) else list(self.blocks)
        spectrum = {"sigma_mean": self.sigma_mean, "sigma_std": self.sigma_std}
        beside = {"tokens_before": self.beside[0], "tokens_after": self.beside[1]}
        return {"weight": self.weight, **spectrum, "blocks": blocks, "width": self.width, **beside}
