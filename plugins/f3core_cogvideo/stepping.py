"""Attention of a piece of a frame over what a cache holds and itself."""

from __future__ import annotations

import bisect

import torch
from torch import Tensor
from torch.nn import functional as F

from f3core_cogvideo.cache import Held
from f3core_cogvideo.tokens import Step
from f3core_cogvideo.visibility import Sees, windows


def attend_step(
    layer: int, name: str, sees: Sees, query: Tensor, key: Tensor, value: Tensor, step: Step, *, history: bool
) -> Tensor:
    """Context [B, H, n, D] of the n tokens of ``step``, whose keys and values join the cache.

    ``sees``: what these tokens see, which may be less than what the cache holds for others. ``history``: the channel
    may see other frames (and windows of them), not its own alone.
    """
    held = step.cache.held.get((layer, name))
    if held is None:  # nothing is visible
        return torch.zeros_like(query)
    before = step.slot if held.frames > 1 else 0  # frames that lie before the running one
    start = held.text + before * step.config.tokens + step.place
    if held.frames:
        held.key[:, :, start : start + step.count] = key
        held.value[:, :, start : start + step.count] = value
    if history and sum(map(len, windows(step.config, layer))) > 1:
        return _by_window(layer, sees, query, held, step, before)
    others = before * step.config.tokens
    return _attend(query, sees, held, others, step.place + step.count, step)


def _attend(
    query: Tensor, sees: Sees, held: Held, others: int, own: int, step: Step, index: Tensor | None = None
) -> Tensor:
    """Attention over what is seen of the keys [text; ``others`` tokens of other frames; ``own`` of the own frame].

    These lie at the beginning of the buffer, or there where ``index`` says.
    """
    text, others_seen, own_seen = held.text * sees.text, others * sees.earlier, own * sees.own * (held.frames > 0)
    spans = [(0, text), (held.text, held.text + others_seen), (held.text + others, held.text + others + own_seen)]
    key, value = (_gathered(x, spans, index) for x in (held.key, held.value))
    if not key.shape[2]:
        return torch.zeros_like(query)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=step.mask(text > 0, others_seen, own_seen))


def _gathered(x: Tensor, spans: list[tuple[int, int]], index: Tensor | None) -> Tensor:
    """Tokens of [B, H, L, D] in ``spans`` of its places, or of places in ``index``; a view where they adjoin."""
    joined: list[tuple[int, int]] = []
    for first, end in spans:
        if end > first:
            adjoins = bool(joined) and joined[-1][1] == first
            joined[-1:] = [(joined[-1][0], end)] if adjoins else [*joined[-1:], (first, end)]
    if index is not None:
        return x.index_select(2, torch.cat([index[first:end] for first, end in joined] or [index[:0]]))
    if len(joined) == 1:
        return x[:, :, joined[0][0] : joined[0][1]]
    return torch.cat([x[:, :, first:end] for first, end in joined] or [x[:, :, :0]], dim=2)


def _by_window(layer: int, sees: Sees, query: Tensor, held: Held, step: Step, before: int) -> Tensor:
    """The same, window by window."""
    out = torch.empty_like(query)
    for places, index in step.cache.windowed(layer, held.text, before, query.device):
        low = bisect.bisect_left(places, step.place)
        high = bisect.bisect_left(places, step.place + step.count)
        if low == high:
            continue
        part = Step(step.config, step.text_mask, step.cache, step.number, step.slot, step.place, high - low)
        if high - low == step.count:
            part.kept = step.kept
        chosen: slice | list[int] = slice(None)
        if high - low != step.count:
            chosen = [p - step.place for p in places[low:high]]
        made = _attend(query[:, :, chosen], sees, held, before * len(places), high, part, index)
        out[:, :, chosen] = made
    return out
