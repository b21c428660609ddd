"""Attention processors of diffusers, their attention call restricted; projections, norms and positions stay theirs.

A processor's own code runs with another `dispatch_attention_fn` (or `scaled_dot_product_attention`) in sight. So every
release's processor is pruned as it is, and attention backends, fused projections and LoRA stay what they were. Nothing
is intercepted at run time: compiled graphs hold the restricted call alone.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from f3core.attention import become_
from f3core.clock import Gate
from f3core.errors import ModelError, PlanError
from f3core.joint import Restricted, Span, own_frame

Function = Callable[..., Any]


@dataclass
class Restriction:
    """How one site's call is restricted wherever its gate is on."""

    gate: Gate
    restricted: Restricted
    text_first: bool
    one_token: bool
    """frames of one token each, as where positions are folded into the batch"""

    joint: bool
    """text in the same sequence"""

    varying: bool = False
    """`Span.varying`"""

    def at(self, length: int, options: dict[str, Any]) -> tuple[Span, dict[str, Any]]:
        """Where the frames lie in rows of ``length`` tokens, and the options of the call.

        Where devices share a sequence, each may hold whole frames; then frames need nothing of the other devices.
        Raises `ModelError` where they do not.
        """
        clock = self.gate.clock
        span = Span(clock.frames, 1 if self.one_token else clock.tokens, self.text_first, self.varying, clock.before)
        if options.get("parallel_config") is None:
            return span, options
        if self.joint or self.restricted is not own_frame or length % span.tokens:
            raise ModelError(
                "enable_parallelism splits the sequence over devices, which this pruned model bears only where it lost "
                "TA by self_only, text is in no sequence with frames, and the number of devices divides the "
                f"{span.frames} latent frames; run it on one device, or prune by drop where the sites list it"
            )
        return replace(span, frames=length // span.tokens), {**options, "parallel_config": None}


class _Running(threading.local):
    """What restricts the processor that runs now; None for one that is not restricted."""

    restriction: Restriction | None = None


_running = _Running()


def _dispatched(plain: Function) -> Function:
    """Stands for diffusers' ``dispatch_attention_fn``, tokens [B, L, H, D]."""

    def dispatch_attention_fn(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        now = _running.restriction
        if now is None:
            return plain(query, key, value, attn_mask=attn_mask, **options)

        span, options = now.at(query.shape[1], options)

        def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
            return plain(query, key, value, attn_mask=mask, **options)

        return now.restricted(span, attend, query, key, value, attn_mask)

    return dispatch_attention_fn


def _functional(plain: types.ModuleType) -> types.ModuleType:
    """Stands for ``torch.nn.functional``, whose attention has tokens [B, H, L, D]."""
    kernel = plain.scaled_dot_product_attention

    def by_tokens(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        moved = (tokens.transpose(1, 2) for tokens in (query, key, value))
        return kernel(*moved, **options).transpose(1, 2)

    dispatched = _dispatched(by_tokens)

    def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Tensor:
        if rest:
            options["attn_mask"] = rest[0]
        moved = (tokens.transpose(1, 2) for tokens in (query, key, value))
        return dispatched(*moved, **options).transpose(1, 2)

    made = types.ModuleType("functional_restricted")
    vars(made).update(vars(plain), scaled_dot_product_attention=scaled_dot_product_attention)
    return made


_STANDS_FOR: dict[str, Callable[[Any], Any]] = {"dispatch_attention_fn": _dispatched, "F": _functional}


@functools.cache
def _restricted_class(base: type) -> type:
    """A processor class like ``base``, made once, so that compiled code is shared by its instances."""
    plain = base.__call__
    used = [name for name in _STANDS_FOR if name in plain.__code__.co_names]
    if not used:
        raise PlanError(
            f"{base.__name__} calls neither dispatch_attention_fn nor F.scaled_dot_product_attention itself, so "
            "what it attends to cannot be restricted; set another attention processor"
        )
    # Without a name, torch.compile takes this scope for itself instead of the module that the name would lead to.
    scope = {name: value for name, value in plain.__globals__.items() if name != "__name__"}
    scope.update((name, _STANDS_FOR[name](scope[name])) for name in used)
    inner = types.FunctionType(plain.__code__, scope, plain.__name__, plain.__defaults__, plain.__closure__)
    inner.__kwdefaults__ = plain.__kwdefaults__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = _running.restriction
        _running.restriction = self.f3_restriction if self.f3_restriction.gate.active() else None
        try:
            return inner(self, *args, **kwargs)
        finally:
            _running.restriction = outer

    call.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]  # attention modules read it
    return type(f"Restricted{base.__name__}", (Restricting, base), {"__call__": call, "__module__": __name__})


def _restrict_processor(processor: Any, restriction: Restriction) -> Any:
    """A copy, because processors may be shared; one that is restricted already becomes this site's."""
    if isinstance(processor, nn.Module):
        raise PlanError(
            f"{type(processor).__name__} has weights of its own, as those of image prompts do, and is not restricted; "
            "prune without it, or prune by another removal that the site lists"
        )
    made = copy.copy(processor)
    if not issubclass(type(processor), Restricting):
        made.__class__ = _restricted_class(type(processor))
    made.f3_restriction = restriction
    return made


class Restricting:
    """What every restricted processor's class adds."""

    f3_restriction: Restriction


class _RestrictedCall(nn.Module):
    """An attention module all of whose processors are restricted, those that are set later too."""

    f3_restriction: Restriction
    f3_processor: Any

    @property
    def processor(self) -> Any:
        return self.f3_processor

    def __setattr__(self, name: str, value: Any) -> None:
        """A property's setter would not be asked for processors that are modules."""
        if name == "processor":
            vars(self)["f3_processor"] = _restrict_processor(value, self.f3_restriction)
        else:
            super().__setattr__(name, value)


def restricted_call(
    module: nn.Module,
    gate: Gate,
    restricted: Restricted,
    *,
    joint: bool = False,
    text_first: bool = False,
    one_token: bool = False,
    varying: bool = False,
) -> nn.Module:
    """Restrict the attention call of an attention module's processor to what ``restricted`` keeps.

    Text in the same sequence (``joint``) lies behind the frames, or (``text_first``) before them; ``one_token``: a row
    holds one position of each frame; ``varying`` is `Span.varying`, of calls without a mask.
    Raises `PlanError` where its processor makes no call that could be restricted.
    """
    chosen = module.processor
    vars(module).pop("processor", None)
    restriction = Restriction(gate, restricted, text_first, one_token, joint, varying)
    become_(module, _RestrictedCall, f3_restriction=restriction)
    module.processor = chosen
    return module
