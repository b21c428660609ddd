"""Lets a model without weights run on real inputs.

Weights, and all that is computed from them, are on the meta device; whatever is not (masks, positions, counts) is
computed for real. So code that reads the values of its inputs runs, and a model of any size takes no memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from f3core.kernels import run

_META = torch.device("meta")
_aten = torch.ops.aten
_READS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default}
_INDEXING = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class ValuesNeeded(Exception):
    """The forward read the value of something that was computed from weights, and there are none."""


class Ghosts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets meta and real tensors meet: what has a meta operand is done on meta, what has none is done for real.

    ``joined`` holds, by length, the parts of the last concatenation (not over rows or channels) to that length.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.joined: dict[int, tuple[int, ...]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in tree_leaves((args, kwargs))):
            if is_meta(kwargs.get("device")):
                kwargs = {**kwargs, "device": torch.device("cpu")}
            out = func(*args, **kwargs)
        else:
            if func in _READS:
                raise ValuesNeeded(f"{func} on a value that was computed from weights")
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": _META}
            if func in _INDEXING:
                args = (args[0], [each for index in args[1] for each in _places(index)], *args[2:])
            args, kwargs = tree_map(_to_meta, args), tree_map(_to_meta, kwargs)
            out = run(func, args, kwargs)
        if func is _aten.cat.default:
            self._note(args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0))
        return out

    def _note(self, parts: list[Tensor], dim: int) -> None:
        dims = parts[0].ndim
        if 0 < dim % dims < dims - 1:
            sizes = tuple(part.shape[dim] for part in parts)
            self.joined[sum(sizes)] = sizes


def is_meta(device: Any) -> bool:
    """Whether a ``device`` argument asks for the meta device."""
    return device is not None and torch.device(device) == _META


def _to_meta(value: Any) -> Any:
    return value.to(_META) if isinstance(value, Tensor) else value


def _places(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the indices it stands for: how many a mask holds cannot be told on meta."""
    if index is None or index.dtype is not torch.bool:
        return [index]
    if index.is_meta:
        raise ValuesNeeded("a mask that was computed from weights picks tokens")
    return list(index.nonzero(as_tuple=True))
