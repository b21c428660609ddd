"""Which frame, or text, every token of an attention call belongs to."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from f3core.errors import ProbeError
from f3core.sites import TEXT, AttentionCall, AttentionSite, Layout, Segments
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.visibility import (
    Narrowed,
    Sees,
    alike,
    generation_order,
    noise_level,
    other_frames,
    seen_at,
    windows,
)


@dataclass(frozen=True)
class CogVideoLayout(Layout):
    """A forward over the frames ``numbers`` of a sequence of ``frames``, and the text unless all before is ``cached``.

    ``temporal`` False: without the temporal channel. ``piece``: of a cached frame, the place of the first of its tokens
    that run, and how many do; None where it runs as a whole.
    """

    numbers: tuple[int, ...] = ()
    cached: bool = False
    temporal: bool = True
    piece: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        """Such as "frame 3 of 5"."""
        these = f"frame{'s' * (len(self.numbers) > 1)} {', '.join(str(n + 1) for n in self.numbers)} of {self.frames}"
        text = "" if self.cached else "text and "
        return f"{text}{these}{'' if self.temporal else ', base channel alone'}"


@dataclass(frozen=True)
class CogVideoSite(AttentionSite):
    """A site that knows which calls it makes. ``sees``: what its frame tokens may see, as it is now; ``narrowed``: what
    they see at some steps."""

    config: CogVideoConfig = field(default_factory=CogVideoConfig)
    sees: Sees = field(default_factory=Sees)
    narrowed: Narrowed | None = None
    temporal: bool = False

    def seen(self, layout: Layout, number: int) -> Sees:
        """What tokens of a frame see in a forward of ``layout``."""
        return seen_at(self.sees, self.narrowed, noise_level(self.config.stage, number, layout.frames))


def segments(site: CogVideoSite, layout: CogVideoLayout, call: AttentionCall) -> Segments:
    """Raises `ProbeError` for a call that the site does not make."""
    calls = _cached(site, layout) if layout.cached else (_temporal if site.temporal else _base)(site, layout)
    made = calls[call.ordinal] if call.ordinal < len(calls) else None
    if made is None or made.query.shape[1] != call.queries or made.key.shape[1] != call.keys:
        raise ProbeError(f"{site.fqn} makes no attention call like {call} in a forward of {layout}")
    return made


def _base(site: CogVideoSite, layout: CogVideoLayout) -> list[Segments]:
    """Text first; then frames folded into the batch, those together that see the same."""
    calls = [Segments(_text(layout), _text(layout))]
    for sees, places in alike(layout.numbers, lambda number: site.seen(layout, number)):
        own = _frames([layout.numbers[place] for place in places], layout.batch, layout.tokens)
        calls.append(Segments(own, _keys(sees, layout, own, ())))
    return [call for call in calls if call.key.shape[1]]


def _temporal(site: CogVideoSite, layout: CogVideoLayout) -> list[Segments]:
    """Group after group of windows, and in each frame after frame, or all frames at once where each is alone."""
    numbers, calls = layout.numbers, []
    seen = [site.seen(layout, number) for number in numbers]
    for group in windows(site.config, site.index):
        size = len(group[0])
        if len(set(seen)) == 1 and not seen[0].earlier:
            own = _frames(numbers, layout.batch * len(group), size)
            calls.append(Segments(own, _keys(seen[0], layout, own, ())))
            continue
        for number, sees in zip(numbers, seen, strict=True):
            own = _frames([number], 1, size)
            calls.append(Segments(own, _keys(sees, layout, own, other_frames(site.config.stage, number, numbers))))
    return [call for call in calls if call.key.shape[1]]


def _cached(site: CogVideoSite, layout: CogVideoLayout) -> list[Segments]:
    """One call, or in the temporal channel one a window that holds some of the tokens that run."""
    (number,) = layout.numbers
    first, count = layout.piece or (0, layout.tokens)
    sees, order = site.seen(layout, number), generation_order(site.config.stage, layout.frames)
    others = order[: order.index(number)] if site.temporal else ()
    groups = windows(site.config, site.index) if site.temporal else ((tuple(range(layout.tokens)),),)
    calls = []
    for window in (window for group in groups for window in group):
        asking = sum(first <= place < first + count for place in window)
        known = _frames([number], 1, sum(place < first + count for place in window))
        whole = _frames([number], 1, len(window))
        if asking:
            calls.append(Segments(known[:, :asking], _keys(sees, layout, known, others, whole)))
    return [call for call in calls if call.key.shape[1]]


def _keys(sees: Sees, layout: Layout, own: Tensor, others: tuple[int, ...], whole: Tensor | None = None) -> Tensor:
    """[text; other frames; own frame], as far as they are seen. ``whole``: the size of other frames, if another."""
    whole = own if whole is None else whole
    text = [_text(layout).expand(len(own), -1)] if sees.text else []
    frames = [torch.full_like(whole, other) for other in others] if sees.earlier else []
    parts = [*text, *frames, *([own] if sees.own else [])]
    return torch.cat(parts, dim=1) if parts else own[:, :0]


def _text(layout: Layout) -> Tensor:
    return torch.full((1, layout.text), TEXT)


def _frames(numbers: list[int] | tuple[int, ...], clips: int, size: int) -> Tensor:
    """[clips·frames, size], one row where there is one frame."""
    clips = 1 if len(numbers) == 1 else clips
    return torch.tensor(numbers).repeat(clips)[:, None].expand(-1, size)
