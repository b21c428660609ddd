"""`framed`: the output of a block, however a model lays frames and positions out, as [B, F, S, C]."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from f3core.distillation.recipe import Recipe
from f3core.errors import ModelError, PluginError


@dataclass(frozen=True)
class Grid:
    """What blocks' outputs are made of: B ``rows`` of F ``frames`` with ``sides`` (height and width) of latents, None
    where latents do not tell; ``beside``: how many tokens of something else, such as text, sequences hold before and
    after those of the clip."""

    rows: int
    frames: int
    sides: tuple[int, int] | None = None
    beside: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if min(self.beside) < 0:
            raise PluginError(f"`tokens_before` and `tokens_after` of a loss start at 0, not {min(self.beside)}")

    @classmethod
    def of(cls, recipe: Recipe, latents: Tensor, beside: tuple[int, int] = (0, 0)) -> Grid:
        """Of ``latents`` [B, ...]: those of five axes end in rows and columns."""
        sides = (latents.shape[3], latents.shape[4]) if latents.ndim == 5 else None
        return cls(len(latents), recipe.frames(latents), sides, beside)

    def __str__(self) -> str:
        size = "" if self.sides is None else f" of {self.sides[0]} × {self.sides[1]}"
        beside = f", {self.beside[0]} and {self.beside[1]} tokens beside them" if any(self.beside) else ""
        return f"{self.rows} clips of {self.frames} latent frames{size}{beside}"


def framed(block: str, feature: Tensor, grid: Grid) -> Tensor:
    """``feature``, what ``block`` put out, frame by frame: [B, F, S, C], S positions in raster order. A view where
    memory allows.

    Known layouts, the first that fits: tokens of all frames [B, T₀ + F·S + T₁, C], with T₀ and T₁ tokens beside them,
    which are left out, and half as many frames where every two make one token; tokens of each frame [B·F, S, C]; frames
    at each position [B·S, F, C]; pictures [B·F, C, h, w]; clips [B, C, F, h, w]. In a sequence S must be a number of
    square patches of the latents. Raises `ModelError`, with the block and the shape, for any other.
    """
    shape, rows, frames = feature.shape, grid.rows, grid.frames
    if feature.ndim == 3 and shape[0] == rows:
        first, visual = grid.beside[0], shape[1] - sum(grid.beside)
        found = _frames_of(visual, grid)
        if found:
            return feature[:, first : first + visual].reshape(rows, found, -1, shape[2])
    elif feature.ndim == 3 and shape[0] == rows * frames:
        return feature.reshape(rows, frames, -1, shape[2])
    elif feature.ndim == 3 and shape[0] % rows == 0 and shape[1] == frames:
        return feature.reshape(rows, -1, frames, shape[2]).transpose(1, 2)
    elif feature.ndim == 4 and shape[0] == rows * frames:
        return feature.reshape(rows, frames, shape[1], -1).transpose(2, 3)
    elif feature.ndim == 5 and shape[0] == rows and shape[2] == frames:
        return feature.flatten(3).permute(0, 2, 3, 1)
    raise ModelError(
        f"block {block} puts out {list(shape)}, in which frames cannot be told apart ({grid}): give `tokens_before` "
        "and `tokens_after` of the loss where sequences hold text or other tokens beside the clip's, or list under its "
        "`blocks` those that it may look at"
    )


def _frames_of(tokens: int, grid: Grid) -> int:
    """How many frames the ``tokens`` of a clip are of; 0 where they are of no whole number."""
    if grid.sides is None:
        return grid.frames if tokens > 0 and tokens % grid.frames == 0 else 0
    for together in (1, 2):
        frames = -(-grid.frames // together)
        if tokens % frames == 0 and _could_be(tokens // frames, *grid.sides):
            return frames
    return 0


def _could_be(positions: int, height: int, width: int) -> bool:
    """Whether a frame can have so many patches; a remainder at the edge is a patch of its own, or none."""
    patches = range(1, min(height, width) + 1)
    return any(positions in ((height // p) * (width // p), -(-height // p) * -(-width // p)) for p in patches)
