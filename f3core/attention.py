"""The attention that stays: building blocks with which adapters restrict a site.

Each alters a module's *class*, not its place: names, parameters and state-dict keys stay what they were, so LoRA,
quantisation, offloading and attention backends keep finding what they look for.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from f3core.clock import Gate

_classes: dict[tuple[type, type], type] = {}


def become_(module: nn.Module, behaviour: type[nn.Module], **state: Any) -> nn.Module:
    """Put ``behaviour`` in front of a module's class, with plain (not registered) attributes ``state``."""
    base = type(module)
    if (behaviour, base) not in _classes:
        name = f"{behaviour.__name__.lstrip('_')}{base.__name__}"
        _classes[behaviour, base] = type(name, (behaviour, base), {"__module__": base.__module__})
    module.__class__ = _classes[behaviour, base]
    vars(module).update(state)
    return module


def _parameters(module: nn.Module) -> tuple[str, ...]:
    return tuple(inspect.signature(module.forward).parameters)


class _FramesInBatch(nn.Module):
    """Folds frames into the batch around the module's own forward, so that attention stays inside a frame."""

    f3_gate: Gate
    f3_names: tuple[str, ...]
    f3_fold: frozenset[str]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.f3_gate.active():
            return super().forward(*args, **kwargs)
        frames = self.f3_gate.clock.frames
        hidden = args[0] if args else kwargs[self.f3_names[0]]
        batch = hidden.shape[0]
        folded = [
            _fold(value, batch, frames) if name in self.f3_fold else value
            for name, value in zip(self.f3_names, args, strict=False)
        ]
        named = {k: _fold(v, batch, frames) if k in self.f3_fold else v for k, v in kwargs.items()}
        out = super().forward(*folded, **named)
        return out.reshape(batch, hidden.shape[1], *out.shape[2:])


def _fold(value: Any, batch: int, frames: int) -> Any:
    """[B or 1, F·S, ...] to [B·F, S, ...], through tuples; None passes."""
    if value is None:
        return None
    if isinstance(value, tuple | list):
        return tuple(_fold(v, batch, frames) for v in value)
    split = value.unflatten(1, (frames, -1))
    if split.shape[0] != batch:
        split = split.expand(batch, *split.shape[1:])
    return split.flatten(0, 1)


def frames_in_batch(module: nn.Module, gate: Gate, fold: tuple[str, ...]) -> nn.Module:
    """Restrict a visual self-attention to its own frame, structurally: O(F·S²) work, no mask.

    ``fold`` names the forward arguments with tokens on dimension 1, [B or 1, F·S, ...]: the hidden states first, and
    position tables (tuples of tensors too). Equals masking every key of another frame with −∞ (F3-Pruning, eq. 4).
    """
    names = _parameters(module)  # before the class changes: afterwards forward takes *args
    return become_(module, _FramesInBatch, f3_gate=gate, f3_names=names, f3_fold=frozenset(fold))


class ZeroBranch(nn.Module):
    """Stands where a dropped module was: zeros in the shape of its first input, no parameters, no work."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states.new_zeros(()).expand_as(hidden_states)


class Bypass(nn.Module):
    """Stands where a module was whose first input passes: no parameters, no work."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden_states


class _Switched(nn.Module):
    """Steps aside while its gate is active: hands on its first input, or gives zeros."""

    f3_gate: Gate
    f3_bypass: bool

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.f3_gate.active():
            return super().forward(hidden_states, *args, **kwargs)
        return hidden_states if self.f3_bypass else hidden_states.new_zeros(()).expand_as(hidden_states)


def dropped(module: nn.Module, gate: Gate, *, bypass: bool = False) -> nn.Module:
    """What stays of a module that goes: zeros, or (``bypass``) its first input; weights only if a step needs them."""
    if gate.always:
        return Bypass() if bypass else ZeroBranch()
    return become_(module, _Switched, f3_gate=gate, f3_bypass=bypass)


def own_frame_attention(query: Tensor, key: Tensor, value: Tensor, frames: int, text: int, **sdpa: Any) -> Tensor:
    """Attention of frame tokens over [text; own frame], without a mask.

    ``query`` [B, H, F·s, D] frame after frame (s queries a frame), ``key`` and ``value`` [B, H, text + F·S, D] with
    text first; values may be of another width, and keys of fewer heads with ``enable_gqa``. Returns [B, H, F·s, D of
    the values]. O(F·s·(text + S)) work.
    """
    batch = query.shape[0]

    def by_frame(x: Tensor) -> Tensor:
        """[B, H, F·s, D] to [B·F, H, s, D]; no copy where tokens lie outside heads in memory, as they mostly do."""
        tokens = x.transpose(1, 2)
        return tokens.reshape(batch * frames, -1, *tokens.shape[2:]).transpose(1, 2)

    def with_text(x: Tensor) -> Tensor:
        own = by_frame(x[:, :, text:])
        if not text:
            return own
        shared = x[:, None, :, :text].expand(-1, frames, -1, -1, -1).flatten(0, 1)
        return torch.cat([shared, own], dim=2)

    out = nn.functional.scaled_dot_product_attention(by_frame(query), with_text(key), with_text(value), **sdpa)
    return out.transpose(1, 2).reshape(batch, -1, out.shape[1], out.shape[3]).transpose(1, 2)
