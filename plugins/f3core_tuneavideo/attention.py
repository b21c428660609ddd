"""The attentions of an inflated Stable Diffusion transformer block: to text, and the two that inflation adds.

All call ``F.scaled_dot_product_attention`` on [rows, heads, tokens, channels of a head] and carry the parameter names
of the published checkpoints. Source: Tune-A-Video, arXiv 2212.11565, section 3.2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Projections(nn.Module):
    """Queries, keys and values without bias, and an output map with one. ``width`` channels in ``heads`` heads.

    ``source``: channels of what keys and values are made of, if others. ``upcast``: mix in float32 whatever the dtype,
    for weights whose scores leave the range of float16.
    """

    def __init__(self, width: int, heads: int, source: int | None = None, *, upcast: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels do not divide into {heads} heads")
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source or width, width, bias=False)
        self.to_v = nn.Linear(source or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """[N, Lq, C] over [N, Lk, C], where ``mask`` (bool [Lq, Lk]) allows it, through the output map."""
        dtype = query.dtype
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (query, key, value))
        if self.upcast:
            query, key, value = query.float(), key.float(), value.float()
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2).to(dtype))
        return out


class TextAttention(_Projections):
    """Every token of a frame sees the prompt."""

    def forward(self, hidden_states: Tensor, text: Tensor) -> Tensor:
        """[B·F, S, C] and text [B·F, L, C'] to [B·F, S, C]."""
        return self._attend(self.to_q(hidden_states), self.to_k(text), self.to_v(text))


class SparseCausalAttention(_Projections):
    """SC-Attn: the queries of frame i see the keys of the first frame and of frame i - 1 (of the first, when i is 0).

    A frame's own tokens are no keys for i > 0. O(F · S · 2S) pairs for F frames of S tokens.
    """

    def forward(self, hidden_states: Tensor, frames: int) -> Tensor:
        """[B·F, S, C] to the same, the ``frames`` of a clip lying together."""
        key, value = self.to_k(hidden_states), self.to_v(hidden_states)
        return self._attend(self.to_q(hidden_states), self.visible(key, frames), self.visible(value, frames))

    def visible(self, tokens: Tensor, frames: int) -> Tensor:
        """What the queries of each frame see: [B·F, S, C] to [B·F, 2S, C], the first frame, then the former one."""
        clips = tokens.unflatten(0, (-1, frames))
        first = clips[:, :1]
        former = torch.cat([first, clips[:, :-1]], dim=1)
        return torch.cat([first.expand_as(clips), former], dim=2).flatten(0, 1)


class TemporalAttention(_Projections):
    """Attention over the frames of a clip, at each position by itself: B·S rows of F tokens."""

    def forward(self, hidden_states: Tensor, frames: int) -> Tensor:
        """[B·F, S, C] to the same, the ``frames`` of a clip lying together."""
        lines = hidden_states.unflatten(0, (-1, frames)).transpose(1, 2).flatten(0, 1)
        mask = self.mask(frames, hidden_states.device)
        out = self._attend(self.to_q(lines), self.to_k(lines), self.to_v(lines), mask)
        return out.unflatten(0, (-1, hidden_states.shape[1])).transpose(1, 2).flatten(0, 1)

    def mask(self, frames: int, device: torch.device) -> Tensor | None:
        """Which frames see which: bool [F, F], or None when all see all."""
        return None
