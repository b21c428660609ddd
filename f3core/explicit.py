"""Attention computed in full, in float64: the independent yardstick of the adapter contract. Small models only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from f3core.calls import SdpaCall
from f3core.sites import TEXT, AttentionCall, AttentionKind, AttentionSite, Segments

Attend = Callable[[AttentionSite, AttentionCall, SdpaCall, Callable[[], Tensor]], Tensor]


class Intercept(TorchFunctionMode):
    """Hands every attention call inside a site to ``attend(site, shape, call, run)``."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self._attend = attend
        self._site: AttentionSite | None = None
        self._ordinal = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        run = partial(func, *args, **(kwargs or {}))
        if self._site is None or func is not nn.functional.scaled_dot_product_attention:
            return run()
        call = SdpaCall(*args, **(kwargs or {}))
        (batch, heads, queries, _), keys = call.query.shape, call.key.shape[2]
        shape = AttentionCall(self._ordinal, batch, heads, queries, keys)
        self._ordinal += 1
        return self._attend(self._site, shape, call, run)

    @contextmanager
    def at(self, denoiser: nn.Module, sites: Sequence[AttentionSite]) -> Iterator[None]:
        def enter(site: AttentionSite, *_: Any) -> None:
            self._site, self._ordinal = site, 0

        def leave(*_: Any) -> None:
            self._site = None

        with ExitStack() as stack:
            for site in sites:
                module = denoiser.get_submodule(site.path)
                stack.callback(module.register_forward_pre_hook(partial(enter, site)).remove)
                stack.callback(module.register_forward_hook(leave, always_call=True).remove)
            stack.enter_context(self)
            yield


def pairs(segments: Segments, kind: AttentionKind) -> Tensor:
    """Which (query, key) pairs are of a kind: bool [1 or B, Lq, Lk]."""
    query, key = segments.query[:, :, None], segments.key[:, None, :]
    if kind is AttentionKind.CROSS:
        return (query != TEXT) & (key == TEXT)
    return (query != TEXT) & (key != TEXT) & ((query == key) if kind is AttentionKind.SELF else (query != key))


def attention_weights(call: SdpaCall, gone: Tensor | None = None) -> Tensor:
    """softmax(QKᵀ) in float64, [B, H, Lq, Lk], without the pairs ``gone``; zero rows where no key is left."""
    query, key = call.query.double(), call.key.double()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if call.scale is None else call.scale)
    if call.is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).tril() == 0, -math.inf)
    if call.attn_mask is not None and call.attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~call.attn_mask, -math.inf)
    elif call.attn_mask is not None:
        scores = scores + call.attn_mask.double()
    if gone is not None:
        scores = scores.masked_fill(gone[:, None], -math.inf)
    return scores.softmax(-1).nan_to_num(0.0)
