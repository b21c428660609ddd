"""Which frame, or text, every token of an attention call belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from f3core.errors import ProbeError
from f3core.sites import TEXT, AttentionCall, AttentionSite, Layout, Segments
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.visibility import Sees, other_frames, windows


@dataclass(frozen=True)
class CogVideoSite(AttentionSite):
    """A site that knows which calls it makes. ``sees``: what its frame tokens may see, as it is now."""

    config: CogVideoConfig = field(default_factory=CogVideoConfig)
    sees: Sees = field(default_factory=Sees)
    temporal: bool = False


def segments(site: CogVideoSite, layout: Layout, call: AttentionCall) -> Segments:
    """Raises `ProbeError` for a call that the site does not make."""
    found = _temporal(site, layout, call) if site.temporal else _base(site, layout, call)
    if found is None or found.query.shape[1] != call.queries or found.key.shape[1] != call.keys:
        raise ProbeError(f"{site.fqn} makes no attention call like {call} in a forward of {layout}")
    return found


def _base(site: CogVideoSite, layout: Layout, call: AttentionCall) -> Segments | None:
    """Text first; then all frames, folded into the batch, or the first frame alone."""
    text = _text(layout.text)
    if call.ordinal == 0:
        return Segments(text, text)
    if call.ordinal > 1 or call.batch % layout.batch:
        return None
    own = _frames_in_batch(call.batch // layout.batch, layout.batch, layout.tokens)
    return Segments(own, _keys(site.sees, layout, own, []))


def _temporal(site: CogVideoSite, layout: Layout, call: AttentionCall) -> Segments | None:
    """Group after group of windows, and in each frame after frame, or all frames at once where each is alone."""
    numbers = tuple(range(layout.frames))
    ordinal = 0
    for group in windows(site.config, site.index):
        size = len(group[0])
        if not site.sees.earlier:
            if ordinal == call.ordinal:
                own = _frames_in_batch(layout.frames, layout.batch * len(group), size)
                return Segments(own, _keys(site.sees, layout, own, []))
            ordinal += 1
            continue
        for number in numbers:
            others = other_frames(site.config.stage, number, numbers)
            own = torch.full((1, size), number)
            key = _keys(site.sees, layout, own, [torch.full((1, size), other) for other in others])
            if not key.shape[1]:
                continue
            if ordinal == call.ordinal:
                return Segments(own, key)
            ordinal += 1
    return None


def _keys(sees: Sees, layout: Layout, own: Tensor, others: list[Tensor]) -> Tensor:
    """[text; other frames; own frame], as far as they are seen."""
    text = [_text(layout.text).expand(len(own), -1)] if sees.text else []
    parts = [*text, *others, *([own] if sees.own else [])]
    return torch.cat(parts, dim=1) if parts else own[:, :0]


def _text(count: int) -> Tensor:
    return torch.full((1, count), TEXT)


def _frames_in_batch(frames: int, clips: int, size: int) -> Tensor:
    """[clips·frames, size], one row where there is one frame."""
    if frames == 1:
        return torch.zeros(1, size, dtype=torch.long)
    return torch.arange(frames).repeat(clips)[:, None].expand(-1, size)
