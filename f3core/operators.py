"""Finding the operators of a forward, by watching it run or by fvcore's tracing, and booking what they cost.

Modules are booked under their dotted path in the denoiser, "" for the denoiser itself.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from f3core.errors import CountingError
from f3core.handles import ATTENTION, HANDLES, Value, attention_shape, handle_of, refuse_costly
from f3core.kernels import autocast_on_meta, is_composite, run, whole_slices
from f3core.meta import again
from f3core.sites import AttentionCall

_sdpa = nn.functional.scaled_dot_product_attention
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


def watch(denoiser: nn.Module, inputs: Mapping[str, Any], sites: Collection[str]) -> Ledger:
    """Run ``denoiser(**inputs)``, on any device, and book its operators, and attention calls inside ``sites`` (paths).

    On meta, tokens that a mask picks are all of them, since its values are unknown: an upper bound (see `kernels.run`);
    so are those up to a number that only a tensor tells.
    Where a forward asks there whether something is true, both answers are tried. Raises `CountingError` when they
    differ in cost, and for an operator that is not free but has no handle.
    """
    ledger = _watched(denoiser, inputs, Ledger(sites))
    if ledger.asked:
        other = _watched(denoiser, inputs, Ledger(sites, answer=True))
        if other.own != ledger.own:
            raise CountingError(
                f"{type(denoiser).__name__} computes by the value of a tensor what takes {sum(ledger.own.values())} or "
                f"{sum(other.own.values())} MACs; on meta it cannot be counted: count it with weights and real inputs"
            )
    return ledger


def _watched(denoiser: nn.Module, inputs: Mapping[str, Any], ledger: Ledger) -> Ledger:
    with torch.no_grad(), autocast_on_meta(), tracked(denoiser, ledger), booking(ledger):
        denoiser(**again(inputs))
    return ledger


def trace(denoiser: nn.Module, inputs: Mapping[str, Any]) -> Ledger:
    """The same by fvcore's `FlopCountAnalysis`, which needs a model with weights; attention calls are not booked.

    A trace leaves out what no output depends on, which a forward nevertheless computes.
    """
    wrapped = _Positional(denoiser, inputs)
    analysis = FlopCountAnalysis(wrapped, wrapped.tensors)
    # A handle of None would not switch fvcore's own off, so all go and ours come.
    analysis.clear_op_handles().set_op_handle(**HANDLES)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would hide projections and attention in one operator
    try:
        with torch.no_grad():
            found = analysis.by_module_and_operator()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    for path in sorted(found, key=len, reverse=True):  # the innermost module first
        for name in analysis.unsupported_ops(path):
            refuse_costly(name, _unwrapped(path))
    ledger = Ledger(())
    ledger.operators.update(found[""])
    for path, operators in found.items():  # subtree totals: what children cost is taken off again
        macs = sum(operators.values())
        ledger.own[_unwrapped(path)] += macs
        if path:
            ledger.own[_unwrapped(path.rpartition(".")[0])] -= macs
    return ledger


class Ledger:
    """Books operators under the module that runs, and attention calls under the site around it.

    ``own`` MACs by module path, ``operators`` by kind of operator, ``calls`` how often a site (path) made an attention
    call of one shape and width Dqk + Dv. ``answer`` is given wherever a forward on meta asks whether something is
    true; ``asked``: it did.
    """

    def __init__(self, sites: Collection[str], *, answer: bool = False) -> None:
        self.own: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.calls: Counter[tuple[str, AttentionCall, int]] = Counter()
        self.answer = answer
        self.asked = False
        self.paused = False
        self._stack = [""]
        self._ordinals = dict.fromkeys(sites, 0)

    def enter(self, path: str, *_: Any) -> None:
        """Forward pre-hook."""
        self._stack.append(path)
        if path in self._ordinals:
            self._ordinals[path] = 0

    def leave(self, *_: Any) -> None:
        """Forward hook."""
        self._stack.pop()

    def book(self, name: str, operands: Sequence[Any], out: Any) -> None:
        """Book an operator; one without a handle is free."""
        handle = handle_of(name)
        if handle is None:
            return
        try:
            cost = handle([Value(operand) for operand in operands], [Value(out)])
        except CountingError as error:
            raise CountingError(f"operator {name!r} in module {self.where or '(root)'!r}: {error}") from error
        self.operators += cost
        self.own[self.where] += sum(cost.values())
        if ATTENTION in cost:
            self._attention(operands)

    @property
    def where(self) -> str:
        """Path of the running module."""
        return self._stack[-1]

    def _attention(self, operands: Sequence[Tensor]) -> None:
        path = next((p for p in reversed(self._stack) if p in self._ordinals), None)
        if path is not None:
            *shape, width = attention_shape(*(operand.shape for operand in operands[:3]))
            self.calls[path, AttentionCall(self._ordinals[path], *shape), width] += 1
            self._ordinals[path] += 1


@contextlib.contextmanager
def tracked(denoiser: nn.Module, ledger: Ledger) -> Iterator[None]:
    """Until the block ends, tell ``ledger`` which module of ``denoiser`` runs."""
    with contextlib.ExitStack() as stack:
        for path, module in denoiser.named_modules():
            enter = functools.partial(ledger.enter, path)
            # first in and last out, so that what the model's own hooks compute is booked under their module
            stack.callback(module.register_forward_pre_hook(enter, prepend=True).remove)
            stack.callback(module.register_forward_hook(ledger.leave, always_call=True).remove)
        yield


@contextlib.contextmanager
def booking(ledger: Ledger) -> Iterator[None]:
    """Book every operator that runs in the block, on any device and with or without weights. May be entered again."""
    with _Operators(ledger), _AttentionCalls(ledger):
        yield


class _AttentionCalls(TorchFunctionMode):
    """Books attention before it is decomposed, which every device and dtype does in its own way.

    ``nn.MultiheadAttention`` is intercepted whole, so its attention is seen only as what it is decomposed to: a kernel,
    or (on meta) matmuls, which cost the same. On meta, attention and layer norms are not run at all: they are taken
    apart there into dozens of operators, and all that anyone reads of their results is the shape.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.layer_norm and (hidden := args[0] if args else kwargs["input"]).is_meta:
            return torch.empty_like(hidden)
        if func in _INDEXING:
            args = (args[0], whole_slices(args[1]), *args[2:])
        if func is not _sdpa:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = (named[name] for name in ("query", "key", "value"))
        if query.is_meta:
            batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])  # type: ignore[no-untyped-call]
            out = query.new_empty((*batch, *query.shape[len(batch) : -1], value.shape[-1]))
        else:
            self._ledger.paused = True
            try:
                out = func(*args, **kwargs)
            finally:
                self._ledger.paused = False
        self._ledger.book("aten::scaled_dot_product_attention", [query, key, value], out)
        return out


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Books every operator that reaches a kernel."""

    supports_higher_order_operators = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._ledger.paused:
            return func(*args, **kwargs)
        if not isinstance(func, torch._ops.OpOverload):
            refuse_costly(str(func), self._ledger.where)
            return func(*args, **kwargs)
        name = func._schema.name
        if handle_of(name) is None:
            if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta and args[0].dtype is torch.bool:
                self._ledger.asked = True
                return self._ledger.answer
            if is_composite(func):
                with self:  # composite operators come whole under inference_mode
                    return func.decompose(*args, **kwargs)
            refuse_costly(name, self._ledger.where)
            return run(func, args, kwargs)
        out = run(func, args, kwargs)
        self._ledger.book(name, args, out)
        return out


class _Positional(nn.Module):
    """Takes the tensors of a denoiser's keyword arguments by position and gives tensors: all that tracing can do."""

    def __init__(self, denoiser: nn.Module, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self._leaves, self._structure = tree_flatten(dict(inputs))
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, Tensor)]
        self.training = denoiser.training

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(self._leaves[i] for i in self._places)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        out = self.denoiser(**tree_unflatten(leaves, self._structure))
        found = tuple(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        if not found:
            raise CountingError(f"{type(self.denoiser).__name__} returned no tensors; ask it for a tuple or a dict")
        return found


def _unwrapped(path: str) -> str:
    return path.removeprefix("denoiser").removeprefix(".")
