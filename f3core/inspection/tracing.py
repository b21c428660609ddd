"""One forward of a model, with or without weights: every attention call in it, and what ran around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from f3core.calls import SdpaCall, sdpa
from f3core.inspection.ghosts import Ghosts, is_meta
from f3core.kernels import autocast_on_meta

_PROJECTIONS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class TracedCall:
    """One attention call in the innermost running module that holds projections, at ``path``.

    ``query_parts`` and ``key_parts``: the lengths of which tokens were last put together to that number; empty where
    they never were. ``arguments``: shapes of the module's tensor arguments by name (of a tuple's first). ``began`` and
    ``at``: how many modules had begun before this one did, and when it called.
    """

    path: str
    batch: int
    heads: int
    queries: int
    keys: int
    masked: bool
    query_parts: tuple[int, ...]
    key_parts: tuple[int, ...]
    arguments: Mapping[str, tuple[int, ...]]
    began: int
    at: int


@dataclass
class Trace:
    """What ran: ``calls`` of attention, and ``modules`` with their paths in the order in which each began."""

    calls: list[TracedCall] = field(default_factory=list)
    modules: list[tuple[str, nn.Module]] = field(default_factory=list)

    def output(self, call: TracedCall) -> str | None:
        """Path, in the call's module, of the first linear map behind the call."""
        inside = f"{call.path}."
        for path, module in self.modules[call.at :]:
            if not path.startswith(inside):
                return None
            if isinstance(module, nn.Linear):
                return path.removeprefix(inside)
        return None

    def norm(self, call: TracedCall) -> str | None:
        """Path of the sibling that ran last before the call's module, where it is a norm."""
        parent = call.path.rpartition(".")[0]
        for path, module in reversed(self.modules[: call.began]):
            if path == parent:
                return None
            if path.rpartition(".")[0] == parent:
                return path if "norm" in type(module).__name__.lower() else None
        return None


@dataclass(frozen=True)
class _Running:
    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    began: int


def trace_forward(model: nn.Module, inputs: Mapping[str, Any], trace: Trace) -> None:
    """Run ``model(**inputs)`` and note in ``trace`` what ran, also as far as it came where the forward raises.

    Raises `ValuesNeeded`, and whatever the forward raises.
    """
    running: list[_Running] = []
    ghosts = Ghosts()

    def begin(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        running.append(_Running(path, module, args, kwargs, len(trace.modules)))
        trace.modules.append((path, module))

    def end(*_: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        for path, module in model.named_modules():
            hook = functools.partial(begin, path)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(end).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(autocast_on_meta())
        stack.enter_context(ghosts)
        stack.enter_context(_Watch(trace, running, ghosts))
        model(**inputs)


class _Watch(TorchFunctionMode):
    """Notes attention calls. Where queries are on meta nothing is computed."""

    def __init__(self, trace: Trace, running: list[_Running], ghosts: Ghosts) -> None:
        super().__init__()
        self._trace, self._running, self._ghosts = trace, running, ghosts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and is_meta(kwargs.get("device")):
            kwargs["device"] = "cpu"  # or the Python numbers it is made of would be lost
        if func is not sdpa:
            return func(*args, **kwargs)
        call = SdpaCall(*args, **kwargs)
        self._note(call)
        if call.query.is_meta:
            return call.query.new_empty((*call.query.shape[:-1], call.value.shape[-1]))
        return func(*args, **kwargs)

    def _note(self, call: SdpaCall) -> None:
        holder = next((each for each in reversed(self._running) if _projects(each.module)), self._running[0])
        leading, queries, keys = call.query.shape[:-2], call.query.shape[-2], call.key.shape[-2]
        self._trace.calls.append(
            TracedCall(
                path=holder.path,
                batch=leading[:1].numel(),
                heads=leading[1:].numel(),
                queries=queries,
                keys=keys,
                masked=call.attn_mask is not None or call.is_causal,
                query_parts=self._ghosts.joined.get(queries, ()),
                key_parts=self._ghosts.joined.get(keys, ()),
                arguments=_shapes(holder),
                began=holder.began,
                at=len(self._trace.modules),
            )
        )


def _projects(module: nn.Module) -> bool:
    return any(isinstance(child, _PROJECTIONS) for child in module.modules())


def _shapes(running: _Running) -> dict[str, tuple[int, ...]]:
    bound = inspect.signature(running.module.forward).bind(*running.args, **running.kwargs)
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        named.update(value if kind is inspect.Parameter.VAR_KEYWORD else {name: value})
    firsts = {name: value[0] if isinstance(value, tuple | list) and value else value for name, value in named.items()}
    return {name: tuple(value.shape) for name, value in firsts.items() if isinstance(value, Tensor)}
