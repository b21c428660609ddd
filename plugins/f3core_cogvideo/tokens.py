"""The tokens of one forward: a whole sequence, or a piece of a frame that a cache goes on with."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.visibility import given, noise_level

if TYPE_CHECKING:
    from f3core_cogvideo.cache import KVCache

Group = tuple[tuple[int, ...], ...]
"""windows of equal token count, each the in-frame places it holds"""


@dataclass
class _Kept:
    """``text_mask`` bool [B, 1, 1, T], False where a text token is padding. Keeps the masks and indices of a forward,
    each built once for all layers."""

    config: CogVideoConfig
    text_mask: Tensor
    kept: dict[Hashable, Tensor] = field(default_factory=dict, kw_only=True)

    def once(self, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """What ``build`` gives, kept under ``key``."""
        if key not in self.kept:
            self.kept[key] = build()
        return self.kept[key]

    def text_keys(self) -> Tensor:
        """Bool [B, 1, 1, T], for queries that see nothing but text: a row that is all padding sees its padding."""
        return self.once("text", lambda: self.text_mask | ~self.text_mask.any(-1, keepdim=True))


@dataclass
class Tokens(_Kept):
    """The whole text, then the frames ``numbers``, whole, in this order. ``cache`` takes the keys and values."""

    numbers: tuple[int, ...]
    cache: KVCache | None = None

    def level(self, number: int) -> float:
        """Noise level of a frame; without a cache, that of the sequence as long as the model makes it."""
        frames = self.config.frames if self.cache is None else self.cache.total
        return noise_level(self.config.stage, number, frames)

    def own(self, numbers: tuple[int, ...], size: int) -> Tensor:
        """Bool [n, S, S]: what ``size`` tokens of frames ``numbers``, in order, see of their own frame.

        One row where all frames agree, else one for each: causal, or in both directions for given frames.
        """
        prefix = torch.ones(size, size, dtype=torch.bool, device=self.text_mask.device).tril()
        free = torch.tensor([given(self.config.stage, number) for number in numbers], device=prefix.device)
        return free[:, None, None] | prefix if any(given(self.config.stage, n) for n in numbers) else prefix[None]

    def keys_mask(self, text: bool, others: int, own: tuple[int, ...], size: int, repeat: int) -> Tensor | None:
        """Bool, broadcastable to [B·repeat, H, size, Lk], for the keys [text; ``others`` tokens; own frame].

        ``own`` are the frame numbers of the queries, the inner rows of the batch, and empty where their own frame is
        not among the keys. None where nothing is masked.
        """
        if not text and not own:
            return None

        def build() -> Tensor:
            batch = self.text_mask.shape[0]
            if not own:
                seen = F.pad(self.text_mask, (0, others), value=True) if others else self.text_keys()
                return seen.repeat_interleave(repeat, 0)
            mask = F.pad(self.own(own, size), (others, 0), value=True)[:, None]
            if text or mask.shape[0] > 1:
                mask = mask.repeat(batch * repeat // mask.shape[0], 1, 1, 1)
            if text:
                seen = self.text_mask.expand(-1, -1, size, -1).repeat_interleave(repeat, 0)
                mask = torch.cat([seen, mask], dim=-1)
            return mask

        return self.once((text, others, own, size, repeat), build)

    def places(self, group: Group) -> Tensor:
        """The in-frame places of a group of windows, int64 [R, a]."""
        return self.once(group, lambda: torch.tensor(group, device=self.text_mask.device))


@dataclass
class Step(_Kept):
    """``count`` tokens of frame ``number``, in causal order, from its token ``place`` on; all before is in ``cache``.

    ``slot``: how many frames the cache holds already.
    """

    cache: KVCache
    number: int
    slot: int
    place: int
    count: int

    @property
    def level(self) -> float:
        """Noise level of the frame."""
        return noise_level(self.config.stage, self.number, self.cache.total)

    def mask(self, text: bool, others: int, own: int) -> Tensor | None:
        """Bool, broadcastable to [B, H, count, Lk], for the keys [text; ``others`` tokens; ``own`` of the own frame].

        The last ``count`` of the own frame are the queries themselves. None where nothing is masked.
        """

        def build() -> Tensor:
            if not others and not own:
                return self.text_keys()
            seen = F.pad(self.text_mask, (0, others), value=True) if text else self.text_mask.new_ones(1, 1, 1, others)
            if own == 0 or self.count == 1:
                return F.pad(seen, (0, own), value=True)
            causal = torch.ones(self.count, own, dtype=torch.bool, device=seen.device).tril(own - self.count)
            seen = seen.expand(-1, -1, self.count, -1)
            return torch.cat([seen, causal.expand(seen.shape[0], 1, -1, -1)], dim=-1)

        if not text and (self.count == 1 or not own):
            return None
        return self.once((text, others, own), build)
