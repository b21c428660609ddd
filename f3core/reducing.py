"""Token reduction carried out: attention calls of a site, taken at run time, see fewer keys of other frames.

A site's segments say which keys those are, so this holds for every adapter alike. Calls are taken by a torch function
mode, which `torch.compile` cannot read: reduced models run eagerly, and through the native attention backend.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from f3core.attention import become_
from f3core.bundles import Bundles, bundles, grid
from f3core.calls import SdpaCall, sdpa
from f3core.clock import Clock, Gate
from f3core.errors import ModelError
from f3core.plan import round_half_up
from f3core.reduction import Merger, Reduced, Reducer
from f3core.sites import AttentionCall, AttentionSite, Layout, Removal, Segments

if TYPE_CHECKING:
    from f3core.adapter import Adapter
    from f3core.method import Method

_Made = Callable[[], Segments]
INDICES = 2**18
"""indices of calls taken apart that a site remembers"""
ELEMENTS = 2**24
"""numbers of keys that are gathered at once"""


@dataclass(frozen=True)
class Reduction:
    """What a method does by removals of its own: of keys, or of a frame's tokens, the share ``keep`` stays."""

    method: Method
    keep: float
    seed: int = 0

    def at(self, module: nn.Module, site: AttentionSite, removal: Removal, adapter: Adapter, gate: Gate) -> nn.Module:
        """The module that stays at ``site``. Raises `PlanError` where the method has no such removal."""
        gate.clock.keeps_layout = True
        if removal is Removal.MERGE:
            return become_(module, _Merged, f3_merger=self.method.merger(self.seed), f3_keep=self.keep, f3_gate=gate)
        calls = ReducedCalls(self.method.reducer(self.seed), self.keep, site, adapter, gate.clock)
        return become_(module, _Reduced, f3_calls=calls)


class _Reduced(nn.Module):
    """Takes the attention calls of the module's own forward."""

    f3_calls: ReducedCalls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            raise RuntimeError("a model with reduced keys cannot be compiled; run it as it is")
        with self.f3_calls.begun() as calls:
            out = super().forward(*args, **kwargs)
        calls.check()
        return out


def reduced_calls(module: nn.Module) -> ReducedCalls | None:
    """The calls of a module whose keys are reduced; None of any other module."""
    return module.f3_calls if isinstance(module, _Reduced) else None


class _Merged(nn.Module):
    """Runs the module's own forward on fewer tokens of each frame, where it works at the resolution of the latents."""

    f3_merger: Merger
    f3_keep: float
    f3_gate: Gate

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        layout, tokens = self.f3_gate.clock.layout, hidden_states.shape[1]
        if torch.compiler.is_compiling():
            raise RuntimeError("a model with merged tokens cannot be compiled; run it as it is")
        keep = max(1, round_half_up(self.f3_keep, tokens))
        if layout is None or tokens != layout.tokens or keep == tokens:
            return super().forward(hidden_states, *args, **kwargs)
        merged, back = self.f3_merger.merge(hidden_states, grid(layout, tokens), keep)
        return back(super().forward(merged, *args, **kwargs))


class _TakingCalls(TorchFunctionMode):
    def __init__(self, calls: ReducedCalls) -> None:
        super().__init__()
        self._calls = calls

    def __enter__(self) -> ReducedCalls:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self._calls

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is sdpa:
            return self._calls.attend(SdpaCall(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@dataclass
class ReducedCalls:
    """The attention calls of one site, of whose keys of other frames the share ``keep`` stays."""

    reducer: Reducer
    keep: float
    site: AttentionSite
    adapter: Adapter
    clock: Clock
    _taken: int = 0
    _made: list[_Made] = field(default_factory=list)
    _known: OrderedDict[Any, tuple[tuple[Bundles, int], ...]] = field(default_factory=OrderedDict)
    _indices: int = 0
    _held: dict[tuple[int, ...], Reduced] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> ReducedCalls:
        """For a copy of the model, which has a clock of its own; nothing of what ran is copied."""
        return ReducedCalls(self.reducer, self.keep, self.site, self.adapter, copy.deepcopy(self.clock, memo))

    def begun(self) -> _TakingCalls:
        """For the forward that starts."""
        self._taken, self._made = 0, []
        if self.clock.layout is None or not self.clock.layout.goes_on:
            self._held = {}
        return _TakingCalls(self)

    def check(self) -> None:
        """Raises `ModelError` after a forward whose attention went another way."""
        layout = self.clock.layout
        if not self._taken and (layout is None or self.adapter.attends(self.site, layout)):
            raise ModelError(
                f"{self.site.fqn} made no call of scaled_dot_product_attention, so its keys were not reduced; set the "
                "native attention backend"
            )

    def segments(self, ordinal: int) -> Segments:
        """Those of an attention call that the last forward made: what stands for keys of other frames is one."""
        return self._made[ordinal]()

    def attend(self, call: SdpaCall) -> Tensor:
        """The call with fewer keys of other frames: [B, H, Lq, D of the values].

        Raises `ModelError` for a call whose keys cannot be told apart, or are hidden from some queries.
        """
        layout = self.clock.layout
        if layout is None or call.is_causal:
            why = "an attention with is_causal" if call.is_causal else "a forward whose layout is unknown"
            raise ModelError(f"{self.site.fqn}: keys of {why} cannot be reduced")
        call, ordinal = _ungrouped(call), self._taken
        batch, heads, length, _ = call.query.shape
        shape = AttentionCall(ordinal, batch, heads, length, call.key.shape[2])
        self._taken += 1
        parts = self._parts(layout, shape, call.query.device)
        if all(left == part.others.shape[1] for part, left in parts):
            self._made.append(lambda: self.adapter.segments(self.site, layout, shape))
            return call()
        out = call.query.new_empty(batch, length, heads, call.value.shape[3])
        for number, (part, left) in enumerate(parts):
            size = part.others.shape[1] * heads * call.key.shape[3] * (batch if part.rows is None else 1)
            for start, some in part.split(max(1, ELEMENTS // max(1, size))):
                made = self._attended(call, some, left, (ordinal, number, start)).transpose(1, 2)
                self._made.append(functools.partial(some.reduced_segments, layout, batch, left))
                some.put_(out, made)
        return out.transpose(1, 2)

    def _parts(self, layout: Layout, shape: AttentionCall, device: torch.device) -> tuple[tuple[Bundles, int], ...]:
        """The call taken apart, each part with how many stand for its keys of other frames; made once for all calls of
        a kind."""
        name = (layout, shape, device)
        if name not in self._known:
            found = bundles(layout, shape, self.adapter.segments(self.site, layout, shape))
            self._indices += sum(part.size for part in found)
            while self._known and self._indices > INDICES:
                self._indices -= sum(part.size for part, _ in self._known.popitem(last=False)[1])
            moved = found if device.type == "meta" else [part.to(device) for part in found]
            self._known[name] = tuple((part, self._left(part)) for part in moved)
        return self._known[name]

    def _left(self, part: Bundles) -> int:
        """How many stand for the keys of other frames: never none where there is no other key."""
        every, others = part.others.shape[1], part.stay.shape[1]
        return min(every, max(round_half_up(self.keep, every), 0 if others else 1))

    def _attended(self, call: SdpaCall, part: Bundles, left: int, name: tuple[int, int, int]) -> Tensor:
        """[N, H, q, D], for N = B·G, clip by clip, or for the G where each has a row of its own."""
        query = part.take(call.query, part.queries)
        key, value = (part.take(x, part.stay) for x in (call.key, call.value))
        mask = None if call.attn_mask is None else part.take_mask(call.attn_mask, part.stay, len(call.query))
        if left:
            if call.attn_mask is not None:
                self._all_seen(part.take_mask(call.attn_mask, part.others, len(call.query)))
            known = (*name, call.key.data_ptr())  # two sequences that take turns lie in two places
            some = self._held.get(known)
            if some is None:
                some = self._reduced(call, query, part, left)
                if self.clock.layout is not None and self.clock.layout.unfinished:
                    self._held[known] = some
            mask = _joined(mask, some.bias, query, key.shape[2], left)
            key, value = torch.cat([key, some.key], dim=2), torch.cat([value, some.value], dim=2)
        return sdpa(query, key, value, attn_mask=mask, dropout_p=call.dropout_p, scale=call.scale)

    def _reduced(self, call: SdpaCall, query: Tensor, part: Bundles, left: int) -> Reduced:
        key, value = (part.take(x, part.others) for x in (call.key, call.value))
        if left == key.shape[2]:
            return Reduced(key, value)
        scale = call.query.shape[3] ** -0.5 if call.scale is None else call.scale
        return self.reducer.reduce(query, key, value, part.places, scale, left)

    def _all_seen(self, mask: Tensor) -> None:
        if not mask.is_meta and not bool((mask if mask.dtype is torch.bool else mask == 0).all()):
            raise ModelError(f"{self.site.fqn}: a mask hides keys of other frames, so they cannot be reduced")


def _ungrouped(call: SdpaCall) -> SdpaCall:
    """Without groups of query heads that share keys."""
    if not call.enable_gqa:
        return call
    times = call.query.shape[1] // call.key.shape[1]
    key, value = (x.repeat_interleave(times, 1) for x in (call.key, call.value))
    return replace(call, key=key, value=value, enable_gqa=False)


def _joined(mask: Tensor | None, bias: Tensor | None, query: Tensor, stay: int, left: int) -> Tensor | None:
    """A mask over [keys that stay; ``left`` others], of theirs and the bias of those."""
    if mask is None and bias is None:
        return None
    if bias is None:
        assert mask is not None
        return nn.functional.pad(mask, (0, left), value=mask.dtype is torch.bool)
    if mask is None:
        return nn.functional.pad(bias, (stay, 0))
    if mask.dtype is torch.bool:
        mask = query.new_zeros(()).masked_fill(~mask, float("-inf"))
    size = torch.broadcast_shapes(mask.shape[:3], bias.shape[:3])  # type: ignore[no-untyped-call]
    return torch.cat([mask.expand(*size, -1), bias.expand(*size, -1)], dim=3)
