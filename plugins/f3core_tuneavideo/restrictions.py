"""What stays of the two inflated attentions once a kind is taken from them (see `attention`, `f3core.folding`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from f3core.attention import become_
from f3core.clock import Gate
from f3core_tuneavideo.attention import SparseCausalAttention, TemporalAttention


class _OwnFrame(SparseCausalAttention):
    f3_gate: Gate

    def visible(self, tokens: Tensor, frames: int) -> Tensor:
        return tokens if self.f3_gate.active() else super().visible(tokens, frames)


class _NotOwnFrame(SparseCausalAttention):
    """Only the first frame has its own tokens among its keys, and has no other: nothing is left for it to see."""

    f3_gate: Gate

    def visible(self, tokens: Tensor, frames: int) -> Tensor:
        seen = super().visible(tokens, frames)
        if not self.f3_gate.active() or frames == 1:
            return seen
        later = (torch.arange(frames, device=seen.device) > 0).to(seen.dtype)
        return (seen.unflatten(0, (-1, frames)) * later[:, None, None]).flatten(0, 1)


class _OtherFrames(TemporalAttention):
    f3_gate: Gate

    def mask(self, frames: int, device: torch.device) -> Tensor | None:
        if not self.f3_gate.active() or frames == 1:
            return super().mask(frames, device)
        return ~torch.eye(frames, dtype=torch.bool, device=device)


def own_frame(module: nn.Module, gate: Gate) -> nn.Module:
    """SC-Attn without temporal attention: the keys and values of a frame are its own, S × S pairs and not S × 2S."""
    return become_(module, _OwnFrame, f3_gate=gate)


def not_own_frame(module: nn.Module, gate: Gate) -> nn.Module:
    """An attention without its own-frame pairs, an ablation that saves nothing; a clip of one frame is left as it is.

    In SC-Attn that leaves the first frame nothing, and its attention is zero.
    """
    return become_(module, _NotOwnFrame if isinstance(module, SparseCausalAttention) else _OtherFrames, f3_gate=gate)
