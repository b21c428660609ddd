"""Operators are found by watching and by tracing, cost what torch's counter says, and never slip by uncounted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from f3core.errors import CountingError
from f3core.flops import count, count_by_tracing
from f3core.meta import meta_copy, on_meta


def reference(model: nn.Module, inputs: dict[str, Any]) -> int:
    """MACs by torch's counter, which takes a multiply-add for two operations.

    On meta, where attention is decomposed: torch's counter takes the CPU's attention kernel for free.
    """
    model = meta_copy(model)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**on_meta(inputs))
    return counter.get_total_flops() // 2


class Ops(nn.Module):
    """A module around one function of one tensor ``x``."""

    def __init__(self, function: Any, **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.function(self, x),)


def tiny_wan(**changed: Any) -> WanTransformer3DModel:
    config = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "in_channels": 4}
    config |= {"out_channels": 4, "text_dim": 16, "freq_dim": 16, "cross_attn_norm": True}
    return WanTransformer3DModel(**config | changed).eval()


def wan_inputs(model: nn.Module, **size: int) -> dict[str, Any]:
    return WanAdapter().example_inputs(model, **{"frames": 3, "height": 4, "width": 6, "text": 5} | size)


# --- two backends and torch's counter --------------------------------------------------------------------------------

X3, X4 = (2, 6, 8), (2, 8, 6, 6)
MODULES = {
    "linear": (Ops(lambda m, x: m.a(x), a=nn.Linear(8, 5)), X3),
    "linear without bias": (Ops(lambda m, x: m.a(x), a=nn.Linear(8, 5, bias=False)), X3),
    "children": (
        Ops(lambda m, x: m.a(x) @ m.b(x).mT, a=nn.Sequential(nn.Linear(8, 4), nn.GELU()), b=nn.Linear(8, 4)),
        X3,
    ),
    "norms": (Ops(lambda m, x: m.b(m.a(x)), a=nn.LayerNorm(8), b=nn.GroupNorm(2, 6)), X3),
    "conv": (Ops(lambda m, x: m.a(x), a=nn.Conv2d(8, 6, 3, stride=2, padding=1)), X4),
    "conv, padding by name": (Ops(lambda m, x: m.a(x), a=nn.Conv2d(8, 6, 3, padding="same", dilation=2)), X4),
    "grouped conv": (Ops(lambda m, x: m.a(x), a=nn.Conv2d(8, 8, 3, groups=4)), X4),
    "transposed conv": (Ops(lambda m, x: m.a(x), a=nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2)), X4),
    "conv 3-D": (Ops(lambda m, x: m.a(x[None]), a=nn.Conv3d(2, 3, 2)), X4),
    "upsample": (Ops(lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear")), X4),
    "matmul": (Ops(lambda m, x: x @ x.mT), X3),
    "matmul, broadcast": (Ops(lambda m, x: x[0] @ x.mT), X3),
    "baddbmm": (Ops(lambda m, x: torch.baddbmm(x @ x.mT, x, x.mT)), X3),
    "addmm": (Ops(lambda m, x: torch.addmm(x[0], x[0], m.a.weight), a=nn.Linear(8, 8)), X3),
    "einsum": (Ops(lambda m, x: torch.einsum("b i d, b j d -> b i j", x, x)), X3),
    "einsum, ellipsis": (Ops(lambda m, x: torch.einsum("...id,jd->...ij", x, x[0])), X3),
    "einsum, no sum": (Ops(lambda m, x: torch.einsum("bid,bid->bid", x, x)), X3),
    "einsum, implicit": (Ops(lambda m, x: torch.einsum("ij,jk", x[0], x[1].mT)), X3),
    "attention": (Ops(lambda m, x: F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])), X3),
    "attention, no heads": (Ops(lambda m, x: F.scaled_dot_product_attention(x, x[:, :4], x[:, :4])), X3),
    "multi-head": (
        Ops(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)),
        X3,
    ),
    "encoder": (Ops(lambda m, x: m.a(x), a=nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)), X3),
    "embedding": (Ops(lambda m, x: m.a(x.long().abs() % 4), a=nn.Embedding(4, 8)), X3),
}


@pytest.mark.parametrize("name", MODULES)
def test_watching_tracing_and_torch_agree(name: str) -> None:
    model, shape = MODULES[name]
    inputs = {"x": torch.randn(shape)}
    model.eval()
    watched, traced = count(model, inputs), count_by_tracing(model, inputs)
    assert watched == traced
    assert watched.total == reference(model, inputs)
    # operators may differ: on meta the attention inside nn.MultiheadAttention shows up as matmuls
    assert count(meta_copy(model), on_meta(inputs)).own == watched.own


def test_backends_agree_on_a_video_model() -> None:
    model = tiny_wan()
    inputs = wan_inputs(model)
    watched = count(model, inputs)
    assert watched == count_by_tracing(model, inputs)
    assert watched == count(meta_copy(model), on_meta(inputs))
    assert watched.total == reference(model, inputs)


def test_totals_add_up_over_modules_and_operators() -> None:
    model = tiny_wan()
    counted = count(model, wan_inputs(model))
    assert counted.total == sum(counted.own.values()) == sum(counted.operators.values()) == counted.modules[""]
    children = sum(counted.under(name) for name, _ in model.named_children())
    assert counted.under("") == children + counted.own.get("", 0)
    assert counted.own["proj_out"] == counted.modules["proj_out"]
    assert counted.under("blocks.0", "blocks.0.attn1", "blocks.1") == counted.under("blocks")
    assert counted.under("nowhere") == 0


def test_a_trace_leaves_out_what_nobody_uses() -> None:
    model = Ops(lambda m, x: (m.a(x), m.b(x))[1], a=nn.Linear(8, 3), b=nn.Linear(8, 5))
    inputs = {"x": torch.randn(X3)}
    assert count(model, inputs).total == 12 * 8 * (3 + 5)
    assert count_by_tracing(model, inputs).total == 12 * 8 * 5


def test_vectors_are_counted() -> None:
    """torch's counter passes over these; they are multiply-adds all the same."""
    model = Ops(lambda m, x: (x @ x[0, 0]).sum() + torch.dot(x[0, 0], x[0, 1]))
    counted = count(model, {"x": torch.randn(X3)})
    assert counted.total == 2 * 6 * 8 + 8
    assert counted == count_by_tracing(model, {"x": torch.randn(X3)})


def test_composite_operators_are_counted_under_inference_mode() -> None:
    @torch.inference_mode()
    def forward(module: Ops, x: Tensor) -> Tensor:
        return module.a(torch.einsum("bid,bjd->bij", x, x)) + F.scaled_dot_product_attention(x, x, x).sum()

    model = Ops(forward, a=nn.Linear(6, 3))
    attention = 2 * 6 * 6 * 16
    assert count(model, {"x": torch.randn(X3)}).total == 2 * 6 * 6 * 8 + 2 * 6 * 6 * 3 + attention


def test_counting_leaves_no_hooks_and_no_grad_mode_behind() -> None:
    model = tiny_wan()
    before = [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in model.modules()]
    count(model, wan_inputs(model))
    assert before == [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in model.modules()]
    assert torch.is_grad_enabled()
    with pytest.raises(TypeError):
        count(model, {"nonsense": 1})
    assert before == [dict(m._forward_hooks) | dict(m._forward_pre_hooks) for m in model.modules()]


# --- attention -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    key_heads=st.integers(1, 2),
    queries=st.integers(1, 5),
    keys=st.integers(1, 5),
    wide=st.sampled_from([2, 8]),
    narrow=st.sampled_from([2, 8]),
    shared=st.booleans(),
    option=st.sampled_from(["plain", "causal", "masked"]),
    meta=st.booleans(),
)
def test_attention_costs_two_products(
    batch: int, groups: int, key_heads: int, queries: int, keys: int, wide: int, narrow: int, shared: bool,
    option: str, meta: bool,
) -> None:  # fmt: skip
    device = "meta" if meta else "cpu"
    heads = groups * key_heads
    q = torch.randn(batch, heads, queries, wide, device=device)
    rows = 1 if shared else batch
    k = torch.randn(rows, key_heads, keys, wide, device=device)
    v = torch.randn(rows, key_heads, keys, narrow, device=device)
    mask = torch.ones(queries, keys, dtype=torch.bool, device=device) if option == "masked" else None
    options = {"attn_mask": mask, "is_causal": option == "causal", "enable_gqa": groups > 1}
    model = Ops(lambda m, x: F.scaled_dot_product_attention(x, key=k, value=v, **options))
    expected = queries * keys * (wide + narrow) * batch * heads
    assert count(model, {"x": q}).operators == {"attention": expected}
    if not meta:
        assert count_by_tracing(model, {"x": q}).total == expected


def test_kernels_called_by_name_are_attention_too() -> None:
    model = Ops(lambda m, x: torch.ops.aten.scaled_dot_product_attention(x, x, x))
    x = torch.randn(2, 3, 4, 8)
    assert count(model, {"x": x}).operators == {"attention": 2 * 3 * 4 * 4 * 16}


@torch.library.custom_op("f3core_test::flash_attention", mutates_args=())
def flash_attention(x: Tensor) -> Tensor:
    return x.clone()


@flash_attention.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("counter", [count, count_by_tracing])
def test_unknown_attention_is_refused(counter: Any) -> None:
    inner = Ops(lambda m, x: torch.ops.f3core_test.flash_attention(x))
    model = Ops(lambda m, x: m.inner(x)[0], inner=inner)
    with pytest.raises(CountingError, match=r"'f3core_test::flash_attention' in module 'inner'"):
        counter(model, {"x": torch.randn(X3)})


def test_other_costly_operators_without_a_formula_are_refused() -> None:
    model = Ops(lambda m, x: torch._int_mm(x, x))
    with pytest.raises(CountingError, match=r"'aten::_int_mm' in module '\(root\)'"):
        count(model, {"x": torch.ones(32, 32, dtype=torch.int8)})
    with pytest.raises(CountingError, match="einsum of 3 operands"):
        count_by_tracing(Ops(lambda m, x: torch.einsum("bi,bj,bk->ijk", x, x, x)), {"x": torch.ones(3, 3)})


def test_higher_order_operators_are_refused() -> None:
    from torch._higher_order_ops.flex_attention import flex_attention

    def forward(module: Ops, x: Tensor) -> Tensor:
        block = (1, 1, *[None] * 12, lambda b, h, q, k: q >= 0)
        return flex_attention(x, x, x, lambda score, *_: score, block, 1.0, {})[0]

    with pytest.raises(CountingError, match="flex_attention"):
        count(Ops(forward), {"x": torch.randn(1, 1, 4, 8)})
