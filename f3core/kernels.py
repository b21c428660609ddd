"""Running a forward on meta tensors. What its operators give depends on shapes alone, so it is worked out once.

PyTorch works out shapes in Python, those of a norm by way of dozens of operators, while the layers of a model, and the
counts of one model pruned in several ways, ask for the same again and again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload

_aten = torch.ops.aten
_INDEXED = frozenset(
    (_aten.index.Tensor, _aten._unsafe_index.Tensor, _aten.index_put.default, _aten.index_put_.default)
)
_NEGATIONS = frozenset((_aten.bitwise_not.default, _aten.logical_not.default))
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def run(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``func(*args, **kwargs)``.

    On meta, where nobody knows which elements of a tensor are nonzero, all are taken to be: ``nonzero``, boolean masks
    as indices, and ``masked_select`` give as much as they can give, and what follows is counted at its upper bound.
    Where a mask has picked its elements, ``~mask`` picks the rest, which is none.
    """
    leading = args[0] if args else None
    leading = leading[0] if isinstance(leading, list) and leading else leading
    if not isinstance(leading, Tensor) or not leading.is_meta:
        return func(*args, **kwargs)
    if func in _NEGATIONS:
        out = func(*args, **kwargs)
        out.f3_negated = leading
        return out
    if func in _INDEXED:
        args = (args[0], _without_masks(args[1]), *args[2:])
    try:
        if not _makes_new(func):
            return func(*args, **kwargs)
        outcome = _outcome(func, _told(args), tuple((name, _told(value)) for name, value in kwargs.items()))
    except _UntoldError:
        return func(*args, **kwargs)
    return _like(outcome)


@functools.cache
def is_composite(func: OpOverload) -> bool:
    """Whether an operator is made of others on every device, so that `OpOverload.decompose` takes it apart."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return key in func.py_kernels or bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def autocast_on_meta() -> Iterator[None]:
    """While active, a forward may ask for autocast on the meta device, which PyTorch refuses; it does nothing there."""
    usual = torch.autocast.__init__

    def init(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        if device_type == "meta":
            usual(self, "cpu", enabled=False)
        else:
            usual(self, device_type, *args, **kwargs)

    torch.autocast.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__init__ = usual  # type: ignore[method-assign]


def whole_slices(index: Any) -> Any:
    """An index without the slices' ends that are tensors on meta: nobody knows where they lie, so all is taken."""
    if isinstance(index, tuple):
        return tuple(map(whole_slices, index))
    if isinstance(index, slice) and isinstance(index.stop, Tensor) and index.stop.is_meta:
        return slice(index.start, None, index.step)
    return index


class _UntoldError(Exception):
    """A value of which more than a shape may matter."""


class _Shape(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


@functools.cache
def _makes_new(func: OpOverload) -> bool:
    """Whether all that an operator does is to make new tensors: it alters no argument and returns no view of one."""
    return not any(argument.alias_info for argument in func._schema.arguments)


@functools.lru_cache(maxsize=8192)
def _outcome(func: OpOverload, args: Any, kwargs: Any) -> Any:
    given, named = _like(args), {name: _like(value) for name, value in kwargs}
    if func is _aten.nonzero.default:
        return _Shape(torch.Size((given[0].numel(), given[0].ndim)), (1, given[0].numel()), torch.int64)
    if func is _aten.masked_select.default:
        return _told(given[0].new_empty((given[0] * given[1]).numel()))
    return _told(func(*given, **named))


def _without_masks(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Masks on meta replaced by the numbers of their elements, one index for each of their dimensions."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or not index.is_meta or index.dtype not in (torch.bool, torch.uint8):
            found.append(index)
        else:
            found += [index.new_empty(_picked(index), dtype=torch.int64)] * index.ndim
    return found


def _picked(mask: Tensor) -> int:
    """How many elements a mask on meta picks: all, or none where its negation has picked them."""
    if getattr(getattr(mask, "f3_negated", None), "f3_picked", False):
        return 0
    mask.f3_picked = True  # type: ignore[attr-defined]
    return mask.numel()


def _told(value: Any) -> Any:
    """All that matters of a value, as something that can be compared: shapes in place of tensors."""
    if type(value) in (Tensor, nn.Parameter) and value.is_meta and value.layout is torch.strided:
        return _Shape(value.shape, value.stride(), value.dtype)
    if isinstance(value, tuple | list):
        return tuple, type(value), tuple(map(_told, value))
    if isinstance(value, _PLAIN):
        return type(value), value  # 1, 1.0 and True are equal, and promote other dtypes
    raise _UntoldError


def _like(told: Any) -> Any:
    """The value that was told, or one that does for it."""
    if isinstance(told, _Shape):
        return torch.empty_strided(told.size, told.stride, dtype=told.dtype, device="meta")
    if len(told) == 2:
        return told[1]
    return told[1](map(_like, told[2]))
