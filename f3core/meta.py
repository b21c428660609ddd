"""Copies of a model that cost nothing: one without weights, one that shares them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

M = TypeVar("M", bound=nn.Module)

_EMPTY = (OrderedDict, dict, set)


def meta_copy(module: M) -> M:
    """A deep copy whose parameters, buffers and other tensor attributes are on the meta device.

    No weight is copied on the way, so a model of any size can be. Shapes, strides, dtypes, ``requires_grad``, tied
    parameters and hooks stay; gradients do not.
    """
    return _copy(module, _to_meta)


def share_copy(module: M) -> M:
    """A deep copy of the module tree around the very same tensors: surgery on one leaves the other whole."""
    return _copy(module, lambda tensor: tensor)


def on_meta(tree: Any) -> Any:
    """A nest of dicts, lists, tuples and other pytrees with every tensor in it moved to the meta device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), tree)


def again(tree: Any) -> Any:
    """The same tensors in new containers, so that a forward that alters one of its arguments, such as a cache of keys
    and values, can be run again with the same. Such an argument is a pytree (`torch.utils._pytree`)."""
    return tree_map_only(Tensor, lambda tensor: tensor, tree)


def _copy(module: M, replace: Callable[[Tensor], Tensor]) -> M:
    # deepcopy takes what its memo already holds for an object, so tensors never reach it; one entry an object is what
    # keeps tied parameters tied.
    memo: dict[int, Any] = {}
    for tensor in _tensors(module):
        if id(tensor) not in memo:
            memo[id(tensor)] = replace(tensor)
    # A module has about a dozen registries of hooks, mostly empty, and deepcopy is slow with anything but a plain dict.
    for child in module.modules():
        memo.update((id(held), type(held)()) for held in vars(child).values() if type(held) in _EMPTY and not held)
    return copy.deepcopy(module, memo)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for child in module.modules():
        for held in (child._parameters, child._buffers, vars(child)):
            yield from (value for value in held.values() if isinstance(value, Tensor))


def _to_meta(tensor: Tensor) -> Tensor:
    moved = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(moved, requires_grad=tensor.requires_grad)
    return moved.requires_grad_(tensor.requires_grad)
