"""Keys and values of what has been decoded, channel by channel, as long as some later token can see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from f3core.errors import ModelError
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.visibility import Sees, generation_order, given, windows


@dataclass
class Held:
    """One channel's keys and values, [B, H, room, D]: ``text`` text tokens, then ``frames`` frames.

    One frame of room is that of the running frame, overwritten frame by frame.
    """

    key: Tensor
    value: Tensor
    text: int
    frames: int


@dataclass
class KVCache:
    """What a sequence of cached forwards has seen, for one batch.

    ``frames`` is how many the sequence will have (those of the config when None). They come in the order of
    `generation_order`: the first forward takes the whole text and, in stage 2, all given (even) frames; after it any
    number of tokens at a time. A channel holds only what it can still see: a base channel text and the running frame,
    a temporal one text and all frames, a pruned one less, and a replaced one nothing. Where a channel is pruned in some
    frames only, their keys are kept as well: later frames see them.

    ``replay``: a clip that is there already goes through again, frame by frame, for those who watch. A pytree of its
    keys and values.
    """

    config: CogVideoConfig
    frames: int | None = None
    replay: bool = False
    length: int = 0
    temporal: bool = True
    held: dict[tuple[int, str], Held] = field(default_factory=dict)
    _indices: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    @property
    def order(self) -> tuple[int, ...]:
        """Frame numbers in the order in which they come."""
        return generation_order(self.config.stage, self.total)

    @property
    def total(self) -> int:
        """How many frames the sequence will have."""
        return self.frames or self.config.frames

    @property
    def running(self) -> int:
        """Number of the frame to which the next token belongs: the first of all while there is none."""
        slot = max(0, self.length - self.config.text) // self.config.tokens
        return self.order[min(slot, self.total - 1)]

    @property
    def bytes(self) -> int:
        """Memory of all keys and values."""
        return sum(t.numel() * t.element_size() for one in self.held.values() for t in (one.key, one.value))

    def first(self, length: int, temporal: bool) -> int:
        """How many frames a first forward of ``length`` tokens runs as wholes. Raises `ModelError` when too short."""
        text, size = self.config.text, self.config.tokens
        whole = (length - text) // size
        known = sum(given(self.config.stage, f) for f in self.order)
        if length < text or whole < known:
            also = f" and {known} given frames of {size}" if known else ""
            raise ModelError(f"the first cached forward needs the whole text of {text} tokens{also}, not {length}")
        self.temporal = temporal
        return min(whole, len(self.order))

    def next(self, count: int, temporal: bool) -> tuple[int, int, int]:
        """Slot, in-frame place and number of tokens of the piece with which up to ``count`` tokens go on.

        Raises `ModelError` when the sequence is full, or goes on otherwise than it began.
        """
        if temporal != self.temporal:
            raise ModelError("a cache begun without the temporal channel cannot go on with it, nor the other way round")
        size = self.config.tokens
        slot, place = divmod(self.length - self.config.text, size)
        if slot >= len(self.order):
            raise ModelError(f"the cache is full: its sequence has {len(self.order)} frames of {size} tokens")
        return slot, place, min(count, size - place)

    def hold(self, layer: int, name: str, sees: Sees, pair: tuple[Tensor, Tensor], text: int, *, history: bool) -> None:
        """Take keys and values of a first forward, a ``pair`` of [B, H, text + F·S, D], ``text`` of them text.

        ``history``: the channel may see other frames.
        """
        size = self.config.tokens
        history = history and sees.earlier
        frames = len(self.order) if history else int(sees.own)
        kept = text if sees.text else 0
        room = kept + frames * size
        if not room:
            return

        def held(x: Tensor) -> Tensor:
            buffer = x.new_empty(x.shape[0], x.shape[1], room, x.shape[3])
            buffer[:, :, :kept] = x[:, :, :kept]
            if history:
                buffer[:, :, kept : kept + x.shape[2] - text] = x[:, :, text:]
            return buffer

        self.held[layer, name] = Held(held(pair[0]), held(pair[1]), kept, frames)

    def windowed(self, layer: int, text: int, slot: int, device: torch.device) -> list[tuple[tuple[int, ...], Tensor]]:
        """The windows of a layer: their in-frame places, and where the text and their tokens of ``slot`` + 1 frames
        lie in a temporal channel's buffer, int64 [text + (slot + 1)·a]."""
        found = []
        for number, places in enumerate(w for group in windows(self.config, layer) for w in group):
            key = (layer % 2, text, slot, number)
            if key not in self._indices:
                own = torch.tensor(places, device=device)
                starts = text + self.config.tokens * torch.arange(slot + 1, device=device)
                rows = (starts[:, None] + own).flatten()
                self._indices[key] = torch.cat([torch.arange(text, device=device), rows])
            found.append((places, self._indices[key]))
        return found


def _flatten(cache: KVCache) -> tuple[list[Any], Any]:
    places = [(at, one.text, one.frames) for at, one in cache.held.items()]
    state = (cache.config, cache.frames, cache.replay, cache.length, cache.temporal)
    return [t for one in cache.held.values() for t in (one.key, one.value)], (state, places)


def _unflatten(tensors: Any, context: Any) -> KVCache:
    state, places = context
    pairs = iter(tensors)
    return KVCache(*state, held={at: Held(next(pairs), next(pairs), text, frames) for at, text, frames in places})


pytree.register_pytree_node(KVCache, _flatten, _unflatten)
