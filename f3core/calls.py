"""One attention call taken apart: its arguments, the segments of its tokens, samples of its queries."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from f3core.errors import ProbeError
from f3core.sites import TEXT, AttentionCall, AttentionKind, AttentionSite, Layout

if TYPE_CHECKING:
    from f3core.adapter import Adapter

sdpa = nn.functional.scaled_dot_product_attention
SAMPLES_KEPT = 16
"""samples of queries remembered per call; making one again is cheap"""


@dataclass(frozen=True)
class Sample:
    """Some of a call's queries: ``positions`` [n], and ``weights`` [1 or B, 1, F, n] that sum them frame by frame.

    ``every`` says the same as ``positions`` where they are evenly spaced from end to end, so that taking them is free.
    """

    positions: Tensor
    weights: Tensor
    every: slice | None

    def of(self, tokens: Tensor) -> Tensor:
        """The sampled ones of tokens [B, H, L, D]."""
        return tokens[:, :, self.positions if self.every is None else self.every]


@dataclass(frozen=True)
class SdpaCall:
    """The arguments of one ``scaled_dot_product_attention``; q, k, v are [B, H, L, D]."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def __call__(self) -> Tensor:
        """Make the call."""
        return sdpa(**vars(self))

    @property
    def plain(self) -> bool:
        """Every query sees every key, head by head."""
        return self.attn_mask is None and not self.is_causal and not self.enable_gqa

    def at(self, sampled: Sample | None) -> tuple[Tensor, dict[str, Any]]:
        """The sampled queries (all when None) and the options under which they attend as before."""
        options: dict[str, Any] = {"scale": self.scale, "enable_gqa": self.enable_gqa}
        if sampled is None:
            return self.query, {**options, "attn_mask": self.attn_mask, "is_causal": self.is_causal}
        mask, picked = self.attn_mask, sampled.positions
        if self.is_causal:
            mask = picked[:, None] >= torch.arange(self.key.shape[2], device=picked.device)
        elif mask is not None and mask.shape[-2] != 1:
            mask = mask[..., picked, :]
        return sampled.of(self.query), {**options, "attn_mask": mask}


@dataclass
class Partition:
    """A call's segments, ready for use: fixed by site, layout and shapes, so made once."""

    frames: int
    one_hot: list[Tensor]
    """[1 or B, 1, Lk, D] pieces of E, one column a segment (frames, then text), padded to the head size"""
    columns: int
    query_segment: Tensor
    """[1 or B, Lq] with text as ``frames``"""
    key_segment: Tensor
    """[1 or B, Lk] likewise"""
    only_text: bool
    by_frame: Tensor
    """[F] visual queries of one clip row in each frame, float64"""
    uniform: bool
    """queries are the frames in order, keys [text; frames in order]: own-frame attention needs no mask"""
    text: int
    per_frame: int
    """queries of a frame in one row"""
    samples: dict[tuple[int, int], Sample] = field(default_factory=dict)

    @functools.cached_property
    def visual(self) -> int:
        """Visual queries of one clip row; read at every call, so it is taken off the device once."""
        return int(self.by_frame.sum())

    def equals(self, other: Partition) -> bool:
        """Whether both have the same segments, and so are the same for calls of one shape."""
        return torch.equal(self.query_segment, other.query_segment) and torch.equal(self.key_segment, other.key_segment)


TextCall = tuple[int, Partition, torch.device, range]
"""heads, partition and device of a call that has only text keys, and the clip rows that it holds"""


def partition(adapter: Adapter, site: AttentionSite, layout: Layout, shape: AttentionCall, query: Tensor) -> Partition:
    segments = adapter.segments(site, layout, shape)
    for name, tensor, length in (("query", segments.query, shape.queries), ("key", segments.key, shape.keys)):
        if tensor.ndim != 2 or tensor.shape[1] != length or tensor.shape[0] not in (1, shape.batch):
            raise ProbeError(
                f"{site.fqn}: the adapter's {name} segments have shape {tuple(tensor.shape)}, the attention call has "
                f"{length} {name} tokens in {shape.batch} rows"
            )
        if tensor.min() < TEXT or tensor.max() >= layout.frames:
            raise ProbeError(f"{site.fqn}: {name} segments must be TEXT or frames 0 to {layout.frames - 1}")
    frames, width = layout.frames, query.shape[3]
    q = torch.where(segments.query == TEXT, frames, segments.query).to(query.device)
    k = torch.where(segments.key == TEXT, frames, segments.key).to(query.device)
    columns = frames + 1 if bool((k == frames).any()) else frames
    one_hot = nn.functional.one_hot(k, columns).to(query.dtype)[:, None]
    pieces = [one_hot[..., i : i + width] for i in range(0, columns, width)]
    pieces[-1] = nn.functional.pad(pieces[-1], (0, width - pieces[-1].shape[-1]))
    text = int((k[0] == frames).sum())
    in_order = torch.arange(frames, device=query.device).repeat_interleave(layout.tokens)
    return Partition(
        frames=frames,
        one_hot=[piece.contiguous() for piece in pieces],
        columns=columns,
        query_segment=q,
        key_segment=k,
        only_text=bool((k == frames).all()),
        by_frame=_by_frame(q, frames) * (shape.batch if q.shape[0] == 1 else 1) / min(shape.batch, layout.batch),
        uniform=q.shape[0] == 1
        and k.shape[0] == 1
        and q.shape[1] == in_order.numel()
        and bool((q[0] == in_order).all())
        and k.shape[1] == text + in_order.numel()
        and bool((k[0, :text] == frames).all())
        and bool((k[0, text:] == in_order).all()),
        text=text,
        per_frame=max(1, int(torch.bincount(q[0], minlength=frames + 1)[:frames].max())),
    )


def rows_held(site: AttentionSite, layout: Layout, shape: AttentionCall) -> range:
    """The clip rows of an attention call: all, or, of a model that calls row by row, those whose turn it is.

    Raises `ProbeError` where a site's calls hold more rows than its forward.
    """
    if shape.batch >= layout.batch:
        return range(layout.batch)
    first = shape.ordinal * shape.batch
    if first + shape.batch > layout.batch:
        raise ProbeError(
            f"{site.fqn}: attention call {shape.ordinal} holds {shape.batch} of the forward's {layout.batch} rows, "
            "which earlier calls had already; such calls are understood one a row, in the order of the rows"
        )
    return range(first, first + shape.batch)


def by_prompt(rows: Tensor, held: range, batch: int, prompts: int) -> Tensor:
    """Sums over the rows [B, ...] of an attention call, prompt by prompt: [P, ...] float64.

    The call holds the clip rows ``held`` of ``batch``. A clip's rows lie together (frames or pixels folded into the
    batch), prompts in turn, guidance outermost.
    """
    folded = rows.shape[0] // len(held)
    if len(held) == batch:
        apart = rows.double().reshape(-1, prompts, folded, *rows.shape[1:])
        return apart.sum((0, 2)) if apart.shape[0] * folded > 1 else apart[0, :, 0]
    clips = rows.double().reshape(len(held), folded, *rows.shape[1:]).sum(1)
    whose = torch.tensor(held, device=rows.device) % prompts
    return clips.new_zeros(prompts, *clips.shape[1:]).index_add_(0, whose, clips)


def _by_frame(segment: Tensor, frames: int) -> Tensor:
    return torch.bincount(segment.flatten(), minlength=frames + 1)[:frames].double()


def sample(part: Partition, stride: int, step: int) -> Sample:
    """Every ``stride``-th query of each frame.

    The first one moves with the step and positions wrap around, so that every query has its turn equally often: over
    ``stride`` steps where that divides a frame's queries, else over as many steps as it has, the mean is exact. A
    weight is how many queries of its frame a sampled one stands for.
    """
    offset = step % (part.per_frame if part.per_frame % stride else stride)
    found = part.samples.get((stride, offset))
    if found is None:
        if len(part.samples) >= SAMPLES_KEPT:
            part.samples.clear()
        found = part.samples[(stride, offset)] = _draw(part, stride, offset)
    return found


def _draw(part: Partition, stride: int, offset: int) -> Sample:
    segment = part.query_segment
    if stride == 1:  # all, in place: text queries weigh nothing
        groups = [torch.arange(segment.shape[1], device=segment.device)]
    elif segment.shape[0] == 1:
        groups = [(segment[0] == frame).nonzero()[:, 0] for frame in range(part.frames)]
    else:  # frames in the batch: the same columns of every row
        groups = [(segment < part.frames).any(0).nonzero()[:, 0]]
    picked = []
    for positions in groups:
        number = positions.numel()
        every = torch.arange(offset, offset + number, stride, device=segment.device)
        picked.append(positions[every % max(1, number)])
    index = torch.cat(picked)
    chosen = segment[:, index]
    all_of = nn.functional.one_hot(segment, part.frames + 1)[..., : part.frames]
    here = nn.functional.one_hot(chosen, part.frames + 1)[..., : part.frames]
    stands_for = all_of.sum(1) / here.sum(1).clamp(min=1)  # [1 or B, F]
    weights = (here * stands_for[:, None]).transpose(1, 2)[:, None].float()
    even = torch.arange(offset, segment.shape[1], stride, device=index.device)
    return Sample(index, weights, slice(offset, None, stride) if torch.equal(index, even) else None)


def attend_without(
    target: AttentionKind, part: Partition, sampled: Sample, query: Tensor, call: SdpaCall, options: dict[str, Any]
) -> Tensor:
    """Attention of the picked queries once keys of the target kind are gone: zero where none is left."""
    q = part.query_segment[:, sampled.positions]
    k = torch.where(part.key_segment >= part.frames, TEXT, part.key_segment)
    if target is AttentionKind.CROSS:
        keep = (k != TEXT)[:, None, :].expand(-1, q.shape[1], -1)
    elif target is AttentionKind.SELF:
        keep = k[:, None, :] != q[:, :, None]
    else:
        keep = (k[:, None, :] == q[:, :, None]) | (k == TEXT)[:, None, :]
    keep = keep[:, None]
    mask = options.get("attn_mask")
    if mask is not None and mask.dtype is not torch.bool:
        bias = torch.where(keep, mask, -math.inf)
    else:
        bias = keep if mask is None else keep & mask
    kept = sdpa(query, call.key, call.value, **{**options, "attn_mask": bias, "is_causal": False})
    return torch.nan_to_num(kept) * keep.any(-1, keepdim=True)
