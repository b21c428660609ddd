"""Operators on meta give the shapes that real ones give, whether they are asked the first time or again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from f3core import kernels


class Through(TorchDispatchMode):
    """Hands every operator to `kernels.run`, those that are made of others part by part."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if kernels.is_composite(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        return kernels.run(func, args, kwargs or {})


def shapes(found: Any) -> list[Any]:
    return [(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(found)]


X, MASK = torch.randn(4, 6, 5), torch.ones(4, 6, dtype=torch.bool)
FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "elementwise": (lambda x: x * x[0] + 1, (X,)),
    "an int keeps the dtype": (lambda x: x * 2, (X.long(),)),
    "a float does not": (lambda x: x * 2.0, (X.long(),)),
    "nor does a bool": (lambda x: x[0] + True, (MASK,)),
    "comparison": (lambda x: x > 0, (X,)),
    "cast": (lambda x: x.to(torch.bfloat16), (X,)),
    "norm": (lambda x: F.group_norm(x, 3), (X,)),
    "several results": (lambda x: x.max(1), (X,)),
    "a list of tensors": (lambda x, y: torch.cat([x, y], 1), (X, X[:, :2])),
    "views": (lambda x: x.transpose(0, 1).reshape(24, 5).split(7), (X,)),
    "views of complex numbers": (
        lambda x: torch.view_as_real(torch.view_as_complex(x) * 2),
        (X[..., :2].contiguous(),),
    ),
    "in place": (lambda x: x.clone().add_(1).mul_(x), (X,)),
    "a mask as index": (lambda x, mask: x[mask], (X, MASK)),
    "a mask behind other dimensions": (lambda x, mask: x.transpose(0, 2)[:, mask.T], (X, MASK)),
    "a mask beside numbers": (lambda x, mask: x[mask[:, 0], torch.zeros_like(x[:, 0, 0]).long()], (X, MASK)),
    "written through a mask": (lambda x, mask: x.clone().masked_fill_(mask[..., None], 0), (X, MASK)),
    "put where a mask is": (lambda x, mask: torch.index_put(x, (mask,), x[0, 0]), (X, MASK)),
    "put in place": (lambda x, mask: x.clone().index_put_((mask,), x[0, 0]), (X, MASK)),
    "nonzero": (torch.nonzero, (MASK,)),
    "nonzero, by dimension": (lambda mask: torch.nonzero(mask, as_tuple=True), (MASK,)),
    "argwhere": (torch.argwhere, (MASK,)),
    "masked_select": (lambda x, mask: x.masked_select(mask[..., None]), (X, MASK)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference"])
def test_shapes_on_meta_are_those_of_real_tensors(name: str, inference: bool) -> None:
    function, given = FUNCTIONS[name]
    on_meta = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)
    with torch.inference_mode(inference), torch.no_grad(), Through():
        expected = shapes(function(*given))
        first, again = function(*on_meta), function(*on_meta)
    assert shapes(first) == shapes(again) == expected
    assert all(leaf.is_meta for leaf in tree_leaves((first, again)) if isinstance(leaf, Tensor))


def test_what_was_worked_out_once_is_not_worked_out_again() -> None:
    x, other = torch.empty(2, 3, 11, 4, device="meta")
    with Through():
        F.group_norm(x, 11)
        before = kernels._outcome.cache_info()
        F.group_norm(other, 11)
        after = kernels._outcome.cache_info()
    assert after.misses == before.misses
    assert after.hits > before.hits


def test_results_are_tensors_of_their_own() -> None:
    x = torch.empty(3, 4, device="meta")
    with Through():
        one, other = x + 1, x + 1
        one.resize_(2)
    assert other.shape == (x + 1).shape == (3, 4)


def test_real_tensors_are_computed() -> None:
    with Through():
        assert torch.equal(torch.nonzero(torch.tensor([0, 1, 0, 1])), torch.tensor([[1], [3]]))
        assert torch.equal(X[X > 0] + 1, X.masked_select(X > 0) + 1)


def test_what_has_no_value_on_meta_still_fails() -> None:
    x = torch.empty(3, device="meta")
    for _ in range(2):
        with Through(), pytest.raises((RuntimeError, NotImplementedError)):
            x.sum().item()
        with Through(), pytest.raises(RuntimeError):
            torch.empty(2, 3, device="meta") @ torch.empty(2, 3, device="meta")


def test_autocast_does_nothing_on_meta_and_what_it_does_elsewhere() -> None:
    x = torch.randn(3, 3)
    with kernels.autocast_on_meta():
        with torch.autocast("meta", torch.bfloat16):
            assert (x.to("meta") @ x.to("meta")).dtype is (x @ x).dtype is torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            assert (x @ x).dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match="autocast"):
        torch.autocast("meta", torch.bfloat16)
