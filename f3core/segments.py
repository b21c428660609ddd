"""Segments that adapters are made of: runs of frames, text, and frames folded into the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from f3core.errors import ProbeError
from f3core.sites import TEXT, Layout


def text_tokens(count: int) -> Tensor:
    """[1, count] of text."""
    return torch.full((1, count), TEXT)


def frame_tokens(layout: Layout, count: int, rows: int) -> Tensor:
    """Segments of ``count`` visual tokens in ``rows`` batch rows, frame after frame.

    [1, F·S] when a row holds the whole clip; [rows, S] when frames are folded into the batch (clip after clip).
    Raises `ProbeError` when the numbers fit neither.
    """
    if count == layout.frames * layout.tokens:
        return torch.arange(layout.frames).repeat_interleave(layout.tokens)[None]
    if count == layout.tokens and rows % layout.frames == 0:
        return torch.arange(layout.frames).repeat(rows // layout.frames)[:, None].expand(rows, count)
    raise ProbeError(
        f"{count} visual tokens in {rows} rows are neither {layout.frames} frames of {layout.tokens} nor single frames"
    )


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], name: str, position: int) -> Any:
    """A forward's argument, given by keyword or by position."""
    return kwargs[name] if name in kwargs else args[position]
