"""The ways in which attention lies in the blocks of diffusers' video denoisers: what each relates, what it can lose.

An adapter says of every attention module of a block which of these it is; sites, segments and restrictions follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor, nn

from f3core.clock import Gate
from f3core.errors import PlanError, ProbeError
from f3core.folding import value_only
from f3core.joint import Turned, Woven, not_own_frame, own_frame, without_text
from f3core.segments import text_tokens
from f3core.sites import AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core_diffusers.processors import restricted_call

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL


class Rows(Enum):
    """What one batch row of an attention call holds, clip after clip."""

    CLIP = "all frames, one after the other"
    FRAME = "one frame"
    POSITION = "one position of all frames, so that tokens are frames"


def visual_tokens(rows: Rows, layout: Layout, batch: int, count: int) -> Tensor:
    """Segments [1 or B, count] of ``count`` visual tokens in ``batch`` rows. U-Nets have fewer tokens in deeper blocks.

    Raises `ProbeError` when the numbers do not fit.
    """
    frames = torch.arange(layout.frames)
    if rows is Rows.CLIP and count % layout.frames == 0 and batch <= layout.batch:
        return frames.repeat_interleave(count // layout.frames)[None]
    if rows is Rows.FRAME and batch == layout.batch * layout.frames:
        return frames.repeat(layout.batch)[:, None].expand(-1, count)
    if rows is Rows.POSITION and count == layout.frames:
        return frames[None]
    raise ProbeError(
        f"{count} tokens in {batch} rows, each {rows.value}, do not fit {layout.batch} clips of {layout.frames} frames"
    )


@dataclass(frozen=True)
class Pattern(ABC):
    """One way. ``companions``: modules beside the attention, in its block, that are dead once it is dropped; ``output``
    is `AttentionSite.output`."""

    companions: tuple[str, ...] = ()
    output: str | None = "to_out.0"

    framed: ClassVar[bool] = False
    """`AttentionSite.framed`"""
    removals: ClassVar[Mapping[AttentionKind, tuple[Removal, ...]]]
    kinds: ClassVar[tuple[AttentionKind, ...]]

    def site(self, component: str, block: str, name: str, index: int) -> PatternSite:
        """The site of module ``name`` in a block, or (empty) in the denoiser itself."""
        path, companions = (f"{block}.{name}", self.inside(block).companions) if block else (name, self.companions)
        return PatternSite(
            component,
            path,
            index,
            self.kinds,
            self.removals,
            companions,
            self.output,
            framed=self.framed,
            pattern=self,
        )

    def inside(self, path: str) -> Pattern:
        """The same, its companions told from further outside, where ``path`` leads to where they lie."""
        return replace(self, companions=tuple(f"{path}.{companion}" for companion in self.companions))

    @abstractmethod
    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        """As `Adapter.segments`."""

    def restrict(self, module: nn.Module, target: AttentionKind, gate: Gate) -> nn.Module:
        """What stays once ``target`` is gone, for removals other than drop."""
        kept = {TA: own_frame, SA: not_own_frame, CA: without_text}[target]
        return restricted_call(module, gate, kept)


@dataclass(frozen=True)
class PatternSite(AttentionSite):
    """A site that knows its pattern."""

    pattern: Pattern | None = None


@dataclass(frozen=True)
class Full3D(Pattern):
    """Self-attention of all frames at once. Dropping it takes own-frame attention along."""

    kinds = (SA, TA)
    removals = {TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.MASK,)}  # noqa: RUF012 - declared a ClassVar above

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        rows = Rows.CLIP if call.batch <= layout.batch else Rows.FRAME  # frame by frame once pruned
        query = visual_tokens(rows, layout, call.batch, call.queries)
        return Segments(query, query)


@dataclass(frozen=True)
class Joint(Pattern):
    """Text and all frames in one sequence, queries and keys alike; ``text_first`` or last. Padding counts as text.

    ``row_by_row``: every row is a call of its own, with as much text as a mask leaves it.
    """

    text_first: bool = False
    row_by_row: bool = False

    kinds = (CA, SA, TA)
    removals = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,), CA: (Removal.OMIT,)}  # noqa: RUF012

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        layout = replace(layout, batch=1) if self.row_by_row else layout
        rows = Rows.CLIP if call.batch <= layout.batch else Rows.FRAME  # frame by frame once pruned
        query, key = (self._sequence(rows, layout, call.batch, length) for length in (call.queries, call.keys))
        if rows is Rows.CLIP and call.keys - call.queries == layout.frames * layout.tokens:
            query = text_tokens(call.queries)  # the text's own call once pruned, which may be longer than the frames
        return Segments(query, key)

    def _sequence(self, rows: Rows, layout: Layout, batch: int, length: int) -> Tensor:
        """[1 or B, length]; text alone where it is too short for frames, as text queries are once pruned."""
        count = layout.tokens * (layout.frames if rows is Rows.CLIP else 1)
        if length < count:
            return text_tokens(length)
        visual = visual_tokens(rows, layout, batch, count)
        text = text_tokens(length - count).expand(len(visual), -1)
        return torch.cat([text, visual] if self.text_first else [visual, text], dim=1)

    def restrict(self, module: nn.Module, target: AttentionKind, gate: Gate) -> nn.Module:
        kept = {TA: own_frame, SA: not_own_frame, CA: without_text}[target]
        return restricted_call(module, gate, kept, joint=True, text_first=self.text_first, varying=self.row_by_row)


@dataclass(frozen=True)
class Between(Joint):
    """All frames in one sequence with what they go on from, ``Layout.before`` tokens, before them, and text behind.

    Keys of the past are as little to be left out as own frames."""

    removals = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,)}  # noqa: RUF012

    def _sequence(self, rows: Rows, layout: Layout, batch: int, length: int) -> Tensor:
        """As what stays of pruned calls has it, with the frames first, but for calls that hold it all."""
        found = super()._sequence(rows, layout, batch, length)
        whole = rows is Rows.CLIP and length >= layout.before + layout.frames * layout.tokens
        return found.roll(layout.before, dims=1) if whole else found

    def restrict(self, module: nn.Module, target: AttentionKind, gate: Gate) -> nn.Module:
        kept = Turned({TA: own_frame, SA: not_own_frame}[target])
        return restricted_call(module, gate, kept, joint=True)


@dataclass(frozen=True)
class Paired(Pattern):
    """All frames twice in one sequence, queries and keys alike: what a decoder makes of them, then what it reads."""

    kinds = (SA, TA)
    removals = {TA: (Removal.SELF_ONLY,), SA: (Removal.MASK,)}  # noqa: RUF012

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        rows = Rows.CLIP if call.batch <= layout.batch else Rows.FRAME  # frame by frame once pruned
        one = visual_tokens(rows, layout, call.batch, call.queries // 2)
        both = torch.cat([one, one], dim=1)
        return Segments(both, both)

    def restrict(self, module: nn.Module, target: AttentionKind, gate: Gate) -> nn.Module:
        kept = Woven({TA: own_frame, SA: not_own_frame}[target], runs=2)
        return restricted_call(module, gate, kept, joint=True)


@dataclass(frozen=True)
class Cross(Pattern):
    """Attention from frames to text, or to whatever else the model is conditioned on."""

    rows: Rows = Rows.CLIP

    kinds = (CA,)
    removals = {CA: (Removal.DROP,)}  # noqa: RUF012

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        return Segments(visual_tokens(self.rows, layout, call.batch, call.queries), text_tokens(call.keys))


@dataclass(frozen=True)
class Spatial(Pattern):
    """Self-attention inside every frame, frames in the batch."""

    framed = True
    kinds = (SA,)
    removals = {SA: (Removal.DROP,)}  # noqa: RUF012

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        query = visual_tokens(Rows.FRAME, layout, call.batch, call.queries)
        return Segments(query, query)


@dataclass(frozen=True)
class Temporal(Pattern):
    """Self-attention over frames at every position, positions in the batch. With self_only it is one linear map."""

    kinds = (SA, TA)
    removals = {TA: (Removal.SELF_ONLY, Removal.DROP), SA: (Removal.MASK,)}  # noqa: RUF012

    def segments(self, layout: Layout, call: AttentionCall) -> Segments:
        query = visual_tokens(Rows.POSITION, layout, call.batch, call.queries)
        return Segments(query, query)

    def restrict(self, module: nn.Module, target: AttentionKind, gate: Gate) -> nn.Module:
        if target is TA:
            _check_linear(module)
            return value_only(module, gate)
        return restricted_call(module, gate, not_own_frame, one_token=True)


def _check_linear(module: nn.Module) -> None:
    """Raises `PlanError` where an attention module does more to its values than W_o W_v."""
    for name, harmless in (
        ("group_norm", None),
        ("spatial_norm", None),
        ("residual_connection", False),
        ("rescale_output_factor", 1.0),
    ):
        found = getattr(module, name, harmless)
        if found != harmless:
            raise PlanError(
                f"an attention over frames has {name} = {found}, so self_only would not leave one linear map of it; "
                "prune TA by drop"
            )
