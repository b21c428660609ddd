"""Copies without weights, and copies that share them."""

from __future__ import annotations

from typing import Any

import torch
from f3core_diffusers.wan import WanAdapter
from test_operators import tiny_wan, wan_inputs
from torch import Tensor, nn

from f3core import surgery
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.sites import KINDS, Removal

CA, SA, TA = KINDS


class Tied(nn.Module):
    """Tied weights, a buffer, a plain tensor attribute, a hook bound to the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3, dtype=torch.float64).requires_grad_(False)
        self.c = nn.Linear(3, 3)
        self.c.weight = self.a.weight
        self.again = self.a
        self.register_buffer("table", torch.arange(6).view(2, 3).T, persistent=False)
        self.plain = torch.ones(3)
        self.seen = 0
        self.register_forward_pre_hook(self.__class__.look)

    def look(self, args: Any) -> None:
        self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.plain


def test_meta_copy_keeps_everything_but_the_values() -> None:
    model = Tied()
    copied = meta_copy(model)
    kept = dict(model.named_parameters()) | dict(model.named_buffers()) | {"plain": model.plain}
    made = dict(copied.named_parameters()) | dict(copied.named_buffers()) | {"plain": copied.plain}
    assert kept.keys() == made.keys()
    for name, tensor in made.items():
        like = kept[name]
        assert tensor.is_meta
        assert not like.is_meta
        assert type(tensor) is type(like)
        assert (tensor.shape, tensor.stride(), tensor.dtype) == (like.shape, like.stride(), like.dtype)
        assert tensor.requires_grad == like.requires_grad
    assert copied.c.weight is copied.a.weight
    assert copied.again is copied.a
    assert copied(torch.ones(2, 3, device="meta")).shape == (2, 3)
    assert (copied.seen, model.seen) == (1, 0)


def test_meta_copy_of_a_model_too_large_to_hold() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(10**6, 10**6) for _ in range(3)))
    assert sum(p.numel() for p in meta_copy(meta_copy(model)).parameters()) == 3 * (10**12 + 10**6)


def test_share_copy_shares_tensors_and_nothing_else() -> None:
    model = Tied()
    copied = share_copy(model)
    assert all(p is q for p, q in zip(model.parameters(), copied.parameters(), strict=True))
    assert copied.table is model.table
    assert copied.plain is model.plain
    assert not set(model.modules()) & set(copied.modules())
    x = torch.randn(2, 3)
    assert torch.equal(copied(x), model(x))
    assert (copied.seen, model.seen) == (1, 1)
    copied.a = nn.Identity()
    assert isinstance(model.a, nn.Linear)


def test_surgery_on_a_shared_copy_leaves_the_model_whole() -> None:
    model, adapter = tiny_wan(), WanAdapter()
    inputs = wan_inputs(model)
    before = model(**inputs)[0]
    copied = share_copy(model)
    surgery.restrict_all_(copied, adapter, "transformer", TA, Removal.DROP)
    assert torch.equal(model(**inputs)[0], before)
    assert not torch.equal(copied(**inputs)[0], before)


def test_on_meta_keeps_the_nest() -> None:
    moved = on_meta({"a": [torch.ones(2), 3], "b": (torch.ones(1), None)})
    assert moved["a"][1] == 3
    assert moved["b"][1] is None
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
