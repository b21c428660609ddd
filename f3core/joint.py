"""The attention that stays in one call over text and frames: frame queries are restricted, text queries are not.

Each function takes the call's own kernel as ``attend`` and runs it on fewer tokens, so that attention backends stay
what the user chose. Tokens are [B, L, H, D], frame after frame; all that is no frame lies on one side of the frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from f3core.errors import ModelError
from f3core.sites import TEXT

Attend = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
"""From query, key, value [B, L, H, D] and a mask to [B, Lq, H, D]. A mask is None, [B, Lk], or [B or 1, H or 1, Lq or
1, Lk]: boolean (True stays), or added."""
Restricted = Callable[["Span", Attend, Tensor, Tensor, Tensor, "Tensor | None"], Tensor]


@dataclass(frozen=True)
class Span:
    """Where the frames of a call lie: ``frames`` of ``tokens`` each, behind (``text_first``) or before all else.

    ``varying``: how much text there is follows from values, such as those of a mask. ``before``: as much of the text
    lies before the frames, and the rest behind them (see `Turned`).
    """

    frames: int
    tokens: int
    text_first: bool
    varying: bool = False
    before: int = 0

    def split(self, length: int) -> tuple[slice, slice]:
        """Slices of text and of frames in a sequence. Raises `ModelError` when it is too short to hold all frames."""
        visual = self.frames * self.tokens
        if length < visual:
            raise ModelError(
                f"attention over {length} tokens cannot be restricted by frames: the clip has {self.frames} frames of "
                f"{self.tokens}. Is its sequence split over devices? Run it on one device"
            )
        if self.text_first:
            return slice(0, length - visual), slice(length - visual, None)
        return slice(visual, None), slice(0, visual)

    @property
    def unknown(self) -> bool:
        """Whether a graph is being compiled that must hold for no text and for some."""
        return self.varying and torch.compiler.is_compiling()

    def segments(self, length: int, device: torch.device) -> Tensor:
        """The segment of each of ``length`` tokens, [length]: `TEXT` or a frame."""
        visual = self.split(length)[1]
        found = torch.full((length,), TEXT, device=device)
        found[visual] = torch.arange(self.frames, device=device).repeat_interleave(self.tokens)
        return found

    def by_frame(self, visual: Tensor, dimension: int) -> Tensor:
        """Frames and tokens as dimensions of their own, where ``dimension`` is F·S."""
        return visual.unflatten(dimension, (self.frames, self.tokens))  # type: ignore[no-untyped-call,no-any-return]

    def join(self, text: Tensor | None, visual: Tensor) -> Tensor:
        """Text and frames in one sequence again."""
        if text is None:
            return visual
        return torch.cat([text, visual] if self.text_first else [visual, text], dim=1)


def own_frame(
    span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """TA gone: frame queries see text and their own frame, softmax renormalised (F3-Pruning, eq. 4); text queries see
    all. O(F·S·(T + S)) work for frames, no mask made."""
    _, visual = span.split(query.shape[1])
    key_text, key_visual = span.split(key.shape[1])

    def by_frame(tokens: Tensor) -> Tensor:
        """[B, F·S, ...] to [B·F, S, ...]; a view."""
        return span.by_frame(tokens, 1).flatten(0, 1)

    def with_text(tokens: Tensor) -> Tensor:
        own = by_frame(tokens[:, key_visual])
        shared = tokens[:, key_text]
        if not span.unknown and not shared.shape[1]:
            return own
        shared = shared[:, None].expand(-1, span.frames, *shared.shape[1:]).flatten(0, 1)
        return span.join(shared, own)

    within = None if mask is None else _by_frame(mask, span, query.shape[0], query.shape[1], key.shape[1])
    seen = attend(by_frame(query[:, visual]), with_text(key), with_text(value), within)
    seen = seen.reshape(query.shape[0], -1, *seen.shape[2:])
    return span.join(_text_queries(span, attend, query, key, value, mask), seen)


def without_text(
    span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """CA gone: frame queries see frames alone, softmax renormalised; text queries see all."""
    _, visual = span.split(query.shape[1])
    _, kept = span.split(key.shape[1])
    within = _rows(mask, visual)
    within = None if within is None else within[..., kept]
    seen = attend(query[:, visual], key[:, kept], value[:, kept], within)
    return span.join(_text_queries(span, attend, query, key, value, mask), seen)


def not_own_frame(
    span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """SA masked, an ablation that saves nothing: frame queries see text and the other frames. A clip of one frame
    without text is left as it is: it has nothing else to look at."""
    if span.frames == 1 and key.shape[1] == span.tokens:
        return attend(query, key, value, mask)
    asking, asked = (span.segments(tokens.shape[1], tokens.device) for tokens in (query, key))
    keep = (asking[:, None] != asked[None, :]) | (asking == TEXT)[:, None]
    keep = keep[None, None]
    if mask is None:
        return attend(query, key, value, keep)
    mask = mask[:, None, None] if mask.ndim == 2 else mask
    joined = keep & mask if mask.dtype is torch.bool else mask.masked_fill(~keep, float("-inf"))
    return attend(query, key, value, joined)


@dataclass(frozen=True)
class Turned:
    """``restricted`` for sequences of some text, the frames and more text: attention does not mind where tokens lie, so
    what is before the frames moves behind the rest."""

    restricted: Restricted

    def __call__(
        self, span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        query, key, value = (tokens.roll(-span.before, dims=1) for tokens in (query, key, value))
        if mask is not None:
            mask = mask.roll(-span.before, dims=-1)
            mask = mask.roll(-span.before, dims=-2) if mask.ndim == 4 and mask.shape[-2] > 1 else mask
        return self.restricted(span, attend, query, key, value, mask).roll(span.before, dims=1)


@dataclass(frozen=True)
class Woven:
    """``restricted`` for sequences of ``runs`` of all frames, one run after the other, and nothing else: what they hold
    of one frame is that frame."""

    restricted: Restricted
    runs: int

    def __call__(
        self, span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        frames, runs = span.frames, self.runs

        def woven(tensor: Tensor, dimension: int = 1) -> Tensor:
            apart = tensor.unflatten(dimension, (runs, frames, span.tokens))  # type: ignore[no-untyped-call]
            return _swapped(apart, dimension)

        if mask is not None:
            mask = woven(mask, mask.ndim - 1)
            mask = woven(mask, mask.ndim - 2) if mask.ndim == 4 and mask.shape[-2] > 1 else mask
        whole = replace(span, tokens=runs * span.tokens)
        seen = self.restricted(whole, attend, woven(query), woven(key), woven(value), mask)
        return _swapped(seen.unflatten(1, (frames, runs, span.tokens)), 1)  # type: ignore[no-untyped-call]


def _swapped(tensor: Tensor, dimension: int) -> Tensor:
    """``dimension`` and the next one change places, and become one with the next but one."""
    return tensor.transpose(dimension, dimension + 1).flatten(dimension, dimension + 2)


def _text_queries(
    span: Span, attend: Attend, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor | None:
    text, visual = span.split(query.shape[1])
    asking = query[:, text]
    if span.unknown:  # a frame token asks along, so that the call is never empty
        return attend(torch.cat([query[:, visual][:, :1], asking], dim=1), key, value, None)[:, 1:]
    return attend(asking, key, value, _rows(mask, text)) if asking.shape[1] else None


def _rows(mask: Tensor | None, queries: slice) -> Tensor | None:
    """A mask for some of the queries."""
    if mask is None or mask.ndim == 2 or mask.shape[-2] == 1:
        return mask
    return mask[..., queries, :]


def _by_frame(mask: Tensor, span: Span, batch: int, queries: int, keys: int) -> Tensor:
    """A mask [B or 1, ..., Lq or 1, Lk] as frame queries meet it, [B·F, ..., S or 1, T + S]."""
    key_text, key_visual = span.split(keys)
    per_query = mask.ndim == 4 and mask.shape[-2] > 1
    rows = mask[..., span.split(queries)[1], :] if per_query else mask
    own, text = span.by_frame(rows[..., key_visual], -1), rows[..., key_text]
    if per_query:
        own = span.by_frame(own, -3).diagonal(dim1=-4, dim2=-2).movedim(-1, 1)
        text = span.by_frame(text, -2).movedim(-3, 1)
    else:
        own = own.movedim(-2, 1)
        text = text[:, None].expand(-1, span.frames, *text.shape[1:])
    both = torch.cat([text, own] if span.text_first else [own, text], dim=-1)
    return both.expand(batch, *both.shape[1:]).flatten(0, 1)
