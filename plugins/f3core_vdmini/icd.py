"""`IndividualContentLoss`: the student's features should be the teacher's, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from f3core.distillation.loss import Bench, Loss, Step
from f3core.errors import ModelError
from f3core_vdmini.framed import Grid, framed
from f3core_vdmini.watched import chosen, paths

_TINY = 1e-12


class IndividualContentLoss(Loss):
    """L_ICD = Σ over matched blocks of ‖f_student − f_teacher‖² of each frame's features (VDMini, individual content
    distillation).

    Of each block it is the mean over rows, frames, positions and channels, not the sum, so that a weight means the same
    at any size of clip. With ``normalised`` each frame's error is taken relative to the mean square of the teacher's
    features of that frame: blocks differ in magnitude by orders, and the loudest would be all that counts. Without it
    the errors are those of the paper's formula. Blocks are summed either way.
    """

    name: ClassVar[str] = "icd"

    def __init__(
        self,
        weight: float = 0.1,
        blocks: Sequence[str] | None = None,
        normalised: bool = True,
        tokens_before: int = 0,
        tokens_after: int = 0,
    ) -> None:
        """``blocks``: paths in the teacher, all matched ones where left out. So many tokens as
        ``tokens_before`` and ``tokens_after`` say stand beside the clip's in sequences that blocks put out, such as
        those of text; they do not count. Raises `PluginError` for blocks that are no list."""
        self.weight = weight
        self.blocks = None if blocks is None else paths(self.name, blocks)
        self.normalised = normalised
        self.beside = (tokens_before, tokens_after)
        self._paths: tuple[str, ...] = ()

    def prepare(self, bench: Bench) -> None:
        """Raises `ModelError` where there are no blocks to compare, or not those asked for."""
        wanted = [path for path, _ in bench.matched] if self.blocks is None else self.blocks
        self._paths = chosen(self.name, bench, wanted)

    def __call__(self, step: Step) -> Tensor:
        """Raises `ModelError` for features of unlike shapes, and for those in which frames cannot be told apart."""
        taught = step.taught[1]
        return torch.stack([self._of(path, step, step.features[path], taught[path]) for path in self._paths]).sum()

    def _of(self, path: str, step: Step, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape != teacher.shape:
            raise ModelError(
                f"block {path} puts out {list(teacher.shape)} in the teacher and {list(student.shape)} in the student, "
                "which cannot be compared: list other blocks under `blocks` of loss 'icd'"
            )
        grid = Grid.of(step.bench.recipe, step.latents, self.beside)
        ours, theirs = (framed(path, each, grid).float() for each in (student, teacher.detach()))
        errors = (ours - theirs).square().mean((2, 3))
        # by row and frame, not over the batch: a row's loss must not depend on which others share its part of a batch
        return (errors / theirs.square().mean((2, 3)).clamp(min=_TINY) if self.normalised else errors).mean()

    def options(self) -> dict[str, Any]:
        blocks = None if self.blocks is None else list(self.blocks)
        beside = {"tokens_before": self.beside[0], "tokens_after": self.beside[1]}
        return {"weight": self.weight, "blocks": blocks, "normalised": self.normalised, **beside}
