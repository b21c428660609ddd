"""Attention calls taken apart by frame: what the queries of each frame see of text and their own frame, and of others.

Pure: made from segments alone, so that the same holds for every model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from f3core.reduction import Places
from f3core.sites import TEXT, AttentionCall, Layout, Segments


@dataclass(frozen=True)
class Bundles:
    """G frames whose queries and keys are equal in number, so that they can attend in one call.

    ``rows`` [G] of the call that each lies in, or None where every row holds all of them. Indices into its tokens:
    ``queries`` [G, q]; ``stay`` [G, m], keys of text and of the own frame, all keys for queries that are text;
    ``others`` [G, n], keys of other frames. ``frames`` [G] is their frame, or `TEXT`; ``segments`` [G, m] those of
    ``stay``. ``places`` of ``others``, in the first of the G, whose like the rest are.
    """

    frames: Tensor
    rows: Tensor | None
    queries: Tensor
    stay: Tensor
    others: Tensor
    segments: Tensor
    places: Places

    @property
    def size(self) -> int:
        """How many indices it holds."""
        return self.queries.numel() + self.stay.numel() + self.others.numel()

    def to(self, device: torch.device) -> Bundles:
        """The same, its indices on a device."""
        return replace(
            self,
            rows=None if self.rows is None else self.rows.to(device),
            queries=self.queries.to(device),
            stay=self.stay.to(device),
            others=self.others.to(device),
        )

    def split(self, size: int) -> Iterator[tuple[int, Bundles]]:
        """Parts of at most ``size`` of the G, each with where it begins; places are shared, with what they keep."""
        if size >= len(self.frames):
            yield 0, self
            return
        for start in range(0, len(self.frames), size):
            some = slice(start, start + size)
            yield (
                start,
                replace(
                    self,
                    frames=self.frames[some],
                    rows=None if self.rows is None else self.rows[some],
                    queries=self.queries[some],
                    stay=self.stay[some],
                    others=self.others[some],
                    segments=self.segments[some],
                ),
            )

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        """Of [B, H, L, D] the tokens at ``index`` [G, k]: [N, H, k, D], for N = B·G, clip by clip, or N = G."""
        if self.rows is None and len(index) == 1 and index.shape[1] == x.shape[2]:
            return x
        tokens = x.transpose(1, 2)
        picked = tokens[:, index].flatten(0, 1) if self.rows is None else tokens[self.rows[:, None], index]
        return picked.transpose(1, 2)

    def put_(self, out: Tensor, made: Tensor) -> None:
        """Write [N, q, H, D] to the places of the queries in ``out`` [B, L, H, D]."""
        if self.rows is None:
            out[:, self.queries.flatten()] = made.reshape(len(out), -1, *made.shape[2:])
        else:
            out[self.rows[:, None], self.queries] = made

    def take_mask(self, mask: Tensor, index: Tensor, batch: int) -> Tensor:
        """Of a mask that broadcasts to [B, H, Lq, Lk], what it says of the keys at ``index`` [G, k]: [N, ..., k]."""
        mask = mask[(None,) * (4 - mask.ndim)]
        asking = self.queries if mask.shape[2] > 1 else self.queries.new_zeros(len(index), 1)
        asking, asked = asking[:, :, None], index[:, None]
        if self.rows is None:
            picked = mask[:, :, asking, asked].movedim(2, 1)
            return picked.expand(batch, *picked.shape[1:]).flatten(0, 1)
        rows = self.rows if mask.shape[0] > 1 else self.rows.new_zeros(len(index))
        return mask[rows[:, None, None], :, asking, asked].movedim(3, 1)

    def reduced_segments(self, layout: Layout, batch: int, left: int) -> Segments:
        """The segments of the call [N, q] over [keys that stay; ``left`` others], which count as of another frame."""
        times = batch if self.rows is None else 1
        own = self.frames.repeat(times)[:, None]
        stay = self.segments.repeat(times, 1)
        other = torch.where(own == TEXT, TEXT, (own + 1) % layout.frames).expand(-1, left)
        return Segments(own.expand(-1, self.queries.shape[1]), torch.cat([stay, other], dim=1))


def bundles(layout: Layout, call: AttentionCall, segments: Segments) -> tuple[Bundles, ...]:
    """The frames of a call, those together that are alike. Order: text queries first, then by first appearance."""
    query, key = segments.query.cpu(), segments.key.cpu()
    shared = len(query) == len(key) == 1
    count = 1 if shared else call.batch
    found: dict[tuple[int, int, int], list[tuple[int, int, Tensor, Tensor, Tensor]]] = {}
    for row in range(count):
        asking, asked = query[row % len(query)], key[row % len(key)]
        for frame in sorted(set(asking.tolist())):  # ascending, so text first
            seen = (asked == TEXT) | (asked == frame) | (frame == TEXT)
            parts = [mask.nonzero()[:, 0] for mask in (asking == frame, seen, ~seen)]
            sizes = tuple(len(part) for part in parts)
            found.setdefault(sizes, []).append((row, frame, *parts))  # type: ignore[arg-type]
    return tuple(_stacked(layout, members, None if shared else key, key) for members in found.values())


def _stacked(
    layout: Layout, members: list[tuple[int, int, Tensor, Tensor, Tensor]], by_row: Tensor | None, key: Tensor
) -> Bundles:
    rows, frames, queries, stay, others = zip(*members, strict=True)
    keys = [key[row % len(key)] for row in rows]
    return Bundles(
        torch.tensor(frames),
        None if by_row is None else torch.tensor(rows),
        torch.stack(queries),
        torch.stack(stay),
        torch.stack(others),
        torch.stack([k[index] for k, index in zip(keys, stay, strict=True)]),
        _places(layout, keys[0][others[0]], len(queries[0])),
    )


def _places(layout: Layout, segment: Tensor, queries: int) -> Places:
    """Where visual keys lie, told from their frames, [n], in their order. Keys of one frame are whole pictures of as
    many tokens as a frame has, or, at a lower resolution, as it has ``queries``."""
    runs = list(_runs(segment.tolist()))
    size = layout.tokens if runs and all(run % layout.tokens == 0 for run in runs) else max(1, queries)
    frame, place, pictures = list[int](), list[int](), 0
    for run in runs:
        frame += [pictures + i // size for i in range(run)]
        place += [i % size for i in range(run)]
        pictures += -(-run // size)
    columns = grid(layout, size)[1]
    position = torch.tensor(place, dtype=torch.long)
    return Places(torch.tensor(frame, dtype=torch.long), position // columns, position % columns)


def _runs(values: list[int]) -> Iterator[int]:
    """Lengths of the runs of equal values."""
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield i - start
            start = i


def grid(layout: Layout, tokens: int) -> tuple[int, int]:
    """Rows and columns in which ``tokens`` of a frame lie: the layout's, shrunk alike where there are fewer, or the
    squarest that there is where that is not known."""
    if layout.rows and layout.tokens % layout.rows == 0:
        height, width = layout.rows, layout.tokens // layout.rows
        shrunk = math.sqrt(tokens * height / width)
        for rows in (math.floor(shrunk), math.ceil(shrunk)):
            if rows and tokens % rows == 0 and abs(tokens // rows - width * rows / height) <= 1:
                return rows, tokens // rows
    rows = max(n for n in range(1, math.isqrt(tokens) + 1) if tokens % n == 0)
    return rows, tokens // rows
