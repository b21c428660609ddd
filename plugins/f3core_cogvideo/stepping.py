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

    ``history``: the channel sees other frames (and windows of them), not its own alone.
    """
    held = step.cache.held.get((layer, name))
    if held is None:  # nothing is visible
        return torch.zeros_like(query)
    earlier = step.slot if history and sees.earlier else 0
    size = step.config.tokens
    start = held.text + earlier * size + step.place
    if held.frames:
        held.key[:, :, start : start + step.count] = key
        held.value[:, :, start : start + step.count] = value
    if history and sum(map(len, windows(step.config, layer))) > 1:
        return _by_window(layer, sees, query, held, step, earlier)
    own = step.place + step.count if sees.own else 0
    return _attend(query, held.key, held.value, held.text + earlier * size + own, held, step, (earlier * size, own))


def _attend(
    query: Tensor, key: Tensor, value: Tensor, seen: int, held: Held, step: Step, parts: tuple[int, int]
) -> Tensor:
    """Attention over the first ``seen`` of keys that are [text; other frames; own frame], ``parts`` of the last two."""
    if not seen:
        return torch.zeros_like(query)
    mask = step.mask(held.text > 0, *parts)
    return F.scaled_dot_product_attention(query, key[:, :, :seen], value[:, :, :seen], attn_mask=mask)


def _by_window(layer: int, sees: Sees, query: Tensor, held: Held, step: Step, earlier: int) -> Tensor:
    """The same, window by window."""
    out = torch.empty_like(query)
    for places, index in step.cache.windowed(layer, held.text, earlier, query.device):
        low = bisect.bisect_left(places, step.place)
        high = bisect.bisect_left(places, step.place + step.count)
        if low == high:
            continue
        own = high if sees.own else 0
        seen = held.text + earlier * len(places) + own
        key, value = held.key.index_select(2, index[:seen]), held.value.index_select(2, index[:seen])
        part = Step(step.config, step.text_mask, step.cache, step.number, step.slot, step.place, high - low)
        if high - low == step.count:
            part.kept = step.kept
        chosen: slice | list[int] = slice(None)
        if high - low != step.count:
            chosen = [p - step.place for p in places[low:high]]
        made = _attend(query[:, :, chosen], key, value, seen, held, part, (earlier * len(places), own))
        out[:, :, chosen] = made
    return out
