"""`framed`: the output of a block, however a model lays frames and positions out, as [B, F, S, C]."""

from __future__ import annotations

from torch import Tensor

from f3core.errors import ModelError


def framed(block: str, feature: Tensor, rows: int, frames: int, text: tuple[int, int] = (0, 0)) -> Tensor:
    """``feature``, what ``block`` put out for B = ``rows`` clips of F = ``frames``, frame by frame: [B, F, S, C], S
    positions in raster order. A view where memory allows.

    Known layouts, the first that fits: tokens of all frames [B, T₀ + F·S + T₁, C] with ``text`` (T₀, T₁) tokens before
    and after them, which are left out; tokens of each frame [B·F, S, C]; frames at each position [B·S, F, C]; pictures
    [B·F, C, h, w]; clips [B, C, F, h, w]. Raises `ModelError`, with the block and the shape, for any other.
    """
    shape = feature.shape
    if feature.ndim == 3 and shape[0] == rows:
        visual = shape[1] - sum(text)
        if visual > 0 and visual % frames == 0:
            return feature[:, text[0] : text[0] + visual].reshape(rows, frames, -1, shape[2])
    elif feature.ndim == 3 and shape[0] == rows * frames:
        return feature.reshape(rows, frames, -1, shape[2])
    elif feature.ndim == 3 and shape[0] % rows == 0 and shape[1] == frames:
        return feature.reshape(rows, -1, frames, shape[2]).transpose(1, 2)
    elif feature.ndim == 4 and shape[0] == rows * frames:
        return feature.reshape(rows, frames, shape[1], -1).transpose(2, 3)
    elif feature.ndim == 5 and shape[0] == rows and shape[2] == frames:
        return feature.flatten(3).permute(0, 2, 3, 1)
    raise ModelError(_unknown(block, feature, rows, frames, text))


def _unknown(block: str, feature: Tensor, rows: int, frames: int, text: tuple[int, int]) -> str:
    words = f", {text[0]} and {text[1]} tokens of text" if any(text) else ""
    return (
        f"block {block} puts out {list(feature.shape)}, in which frames cannot be told apart ({rows} clips of {frames} "
        f"latent frames{words}): give `text_before` and `text_after` of the loss where sequences hold text tokens, or "
        "list under its `blocks` those that it may look at"
    )
