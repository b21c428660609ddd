"""Who may see whom: frames, windows, and what is left out of a channel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from f3core_cogvideo.config import CogVideoConfig


@dataclass(frozen=True)
class Sees:
    """The kinds of keys that frame tokens of a channel may see; one left out is not among the keys at all.

    ``text``: text tokens (CA); ``own``: the own frame (SA); ``earlier``: other frames, which only the temporal channel
    sees (TA), earlier ones and, in stage 2, given ones.
    """

    text: bool = True
    earlier: bool = True
    own: bool = True


def other_frames(stage: int, frame: int, frames: tuple[int, ...]) -> tuple[int, ...]:
    """Those of ``frames`` that the temporal channel of frame number ``frame`` sees besides its own, ascending.

    Stage 1: earlier ones. Stage 2: given (even) ones, and for a generated (odd) frame the earlier generated ones too.
    """
    if stage == 1:
        return tuple(f for f in sorted(frames) if f < frame)
    return tuple(f for f in sorted(frames) if f != frame and (f % 2 == 0 or (frame % 2 and f < frame)))


def given(stage: int, frame: int) -> bool:
    """Whether a frame is an input of stage 2: its tokens see each other in both directions."""
    return stage == 2 and frame % 2 == 0


def _bands(side: int, window: int, shift: int) -> list[range]:
    """How window borders cut ``side`` rows when the first border lies at ``shift``."""
    borders = sorted({0, side, *range(shift % window, side, window)})
    return [range(a, b) for a, b in itertools.pairwise(borders)]


@lru_cache(maxsize=256)
def windows(config: CogVideoConfig, layer: int) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """The temporal windows of a layer: groups of windows of equal token count, each the in-frame places it holds.

    A shifted window that wraps around the frame counts as the pieces that lie together in the picture: these do not
    see each other. Without windows there is one group of one window, the frame.
    """
    if config.window == -1 or config.window >= config.side:
        return ((tuple(range(config.tokens)),),)
    shift = config.window // 2 if layer % 2 else 0
    bands = _bands(config.side, config.window, shift)
    groups: dict[int, list[tuple[int, ...]]] = {}
    for rows in bands:
        for columns in bands:
            places = tuple(r * config.side + c for r in rows for c in columns)
            groups.setdefault(len(places), []).append(places)
    return tuple(tuple(groups[size]) for size in sorted(groups, reverse=True))


@dataclass
class Tokens:
    """The tokens of one forward: the whole text, then the frames ``numbers``, whole, in this order.

    ``text_mask`` bool [B, 1, 1, T], False where a text token is padding. Keeps the masks and indices of this forward,
    each built once for all layers.
    """

    config: CogVideoConfig
    numbers: tuple[int, ...]
    text_mask: Tensor
    kept: dict[Hashable, Tensor] = field(default_factory=dict)

    def once(self, key: Hashable, build: Callable[[], Tensor]) -> Tensor:
        """What ``build`` gives, kept under ``key``."""
        if key not in self.kept:
            self.kept[key] = build()
        return self.kept[key]

    def text_keys(self) -> Tensor:
        """Bool [B, 1, 1, T], for queries that see nothing but text: a row that is all padding sees its padding."""
        return self.once("text", lambda: self.text_mask | ~self.text_mask.any(-1, keepdim=True))

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
                return F.pad(self.text_keys(), (0, others), value=True).repeat_interleave(repeat, 0)
            mask = F.pad(self.own(own, size), (others, 0), value=True)[:, None]
            if text or mask.shape[0] > 1:
                mask = mask.repeat(batch * repeat // mask.shape[0], 1, 1, 1)
            if text:
                seen = self.text_mask.expand(-1, -1, size, -1).repeat_interleave(repeat, 0)
                mask = torch.cat([seen, mask], dim=-1)
            return mask

        return self.once((text, others, own, size, repeat), build)

    def places(self, group: tuple[tuple[int, ...], ...]) -> Tensor:
        """The in-frame places of a group of windows, int64 [R, a]."""
        return self.once(group, lambda: torch.tensor(group, device=self.text_mask.device))
