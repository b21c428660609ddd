"""Clips before and after pruning, side by side, as GIF and MP4.

torch, Pillow and imageio are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from f3core.errors import ModelError, OutputError

if TYPE_CHECKING:
    import torch

INK = "#333333"
MAX_PROMPTS = 6
CELL = 128
"""Small clips are blown up to about this many pixels a side."""
LARGEST = 384
"""Wider clips are shrunk to this, so that a GIF stays small."""


def side_by_side(
    before: torch.Tensor, after: torch.Tensor, prompts: Sequence[str], folder: Path, fps: int = 8
) -> tuple[Path, Path]:
    """Write before_after.gif and before_after.mp4: clips [B, F, 3, H, W] in [0, 1] of the first prompts, in pairs.

    Returns both paths. Raises `ModelError` when clips and prompts do not fit, `OutputError` when a file cannot be
    written.
    """
    import imageio.v2 as imageio

    if before.shape != after.shape or before.ndim != 5 or len(before) != len(prompts) or not len(prompts):
        raise ModelError(
            f"clips before {list(before.shape)} and after {list(after.shape)} must both be "
            f"[{len(prompts)}, F, 3, H, W], one clip a prompt"
        )
    count = min(len(prompts), MAX_PROMPTS)
    frames: list[Any] = _canvas(_pixels(before[:count]), _pixels(after[:count]), prompts[:count])
    gif, mp4 = folder / "before_after.gif", folder / "before_after.mp4"
    try:
        imageio.mimwrite(gif, frames, duration=1000 / fps, loop=0)
        imageio.mimwrite(mp4, frames, fps=fps, codec="libx264", pixelformat="yuv420p", quality=8, macro_block_size=2)
    except (OSError, RuntimeError, ValueError) as error:
        raise OutputError(f"{folder}: the clips cannot be written: {error}") from error
    return gif, mp4


def _pixels(clips: torch.Tensor) -> NDArray[np.uint8]:
    """[B, F, H, W, 3] bytes, small clips blown up by a whole factor, large ones shrunk."""
    import torch

    batch, frames, _, height, width = clips.shape
    flat = clips.detach().to("cpu", torch.float32).clamp(0, 1).flatten(0, 1)
    if max(height, width) > LARGEST:
        ratio = LARGEST / max(height, width)
        size = (max(round(height * ratio), 1), max(round(width * ratio), 1))
        flat = torch.nn.functional.interpolate(flat, size=size, mode="area")
    else:
        factor = max(round(CELL / max(height, width)), 1)
        flat = flat.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    shown = (flat * 255).round().to(torch.uint8).reshape(batch, frames, 3, *flat.shape[-2:]).permute(0, 1, 3, 4, 2)
    return np.asarray(shown.numpy())


def _canvas(before: NDArray[np.uint8], after: NDArray[np.uint8], prompts: Sequence[str]) -> list[Any]:
    """Frames [H, W, 3] of bytes, even in both sizes: pairs in up to three columns, each under its prompt."""
    from PIL import Image, ImageDraw

    count, length, height, width = before.shape[:4]
    gap, line, font = 12, 18, _font(13)
    pair = 2 * width + 4
    columns = min(count, max(1, 900 // (pair + gap)), 3 if count != 4 else 2)
    rows = -(-count // columns)
    captions = [_wrap(prompt, pair, font) for prompt in prompts]
    head = (max(map(len, captions)) + 1) * line + 2  # the most caption lines, and before | after
    tall = head + height
    sheet = Image.new("RGB", (_even(gap + columns * (pair + gap)), _even(gap + rows * (tall + gap))), "white")
    draw = ImageDraw.Draw(sheet)
    places = [(gap + (i % columns) * (pair + gap), gap + (i // columns) * (tall + gap)) for i in range(count)]
    for (x, y), caption in zip(places, captions, strict=True):
        for number, text in enumerate(caption):
            draw.text((x, y + number * line), text, fill=INK, font=font)
        for left, text in ((x, "before"), (x + width + 4, "after")):
            draw.text((left, y + head - line), text, fill="#777777", font=font)
    frames: list[Any] = []
    for frame in range(length):
        picture = np.array(sheet)
        for i, (x, y) in enumerate(places):
            top = y + head
            picture[top : top + height, x : x + width] = before[i, frame]
            picture[top : top + height, x + width + 4 : x + pair] = after[i, frame]
        frames.append(picture)
    return frames


def _even(number: int) -> int:
    return number + number % 2  # H.264 with halved colour needs it


def _font(size: int) -> Any:
    """The font that matplotlib carries, so that captions look the same everywhere."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrap(text: str, width: int, font: Any) -> list[str]:
    """At most two lines of at most ``width`` pixels; what does not fit ends in an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > 2:
        lines = [lines[0], " ".join(lines[1:])]
    for number, line in enumerate(lines):
        while font.getlength(lines[number]) > width:
            line = line[:-1]
            lines[number] = f"{line.rstrip()}…"
    return lines
