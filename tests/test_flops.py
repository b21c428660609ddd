"""Counting MACs: two ways that agree with each other and with torch's own counter, and the split by kind."""

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

from f3core import surgery
from f3core.adapter import Adapter
from f3core.errors import CountingError
from f3core.flops import costs, count, count_by_tracing
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.sites import KINDS, TEXT, AttentionCall, AttentionSite, Layout, Removal, Segments

CA, SA, TA = KINDS


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


# --- by kind ---------------------------------------------------------------------------------------------------------


class TinyAttention(nn.Module):
    """Projects queries and keys of width 4 and attends with two heads, twice when ``times`` is 2."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(4, 8), nn.Linear(4, 8)
        self.times = times

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        q, k = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p, x in ((self.to_q, query), (self.to_k, key)))
        for _ in range(self.times):
            q = F.scaled_dot_product_attention(q, k, k)
        return q


class TinyDenoiser(nn.Module):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.site = TinyAttention(times)
        self.elsewhere = TinyAttention()

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return self.site(query, key) + self.elsewhere(query, key)


class GivenSegments(Adapter):
    """Says of every call what it was told; one site, of a `TinyDenoiser`."""

    name = "given"

    def __init__(self, query: Tensor, key: Tensor, frames: int) -> None:
        self.given = Segments(query, key)
        self.frames = frames
        self.calls: list[AttentionCall] = []

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [AttentionSite(component, "site", 0, KINDS)]

    def layout(self, denoiser: nn.Module, args: Any, kwargs: Any) -> Layout:
        return Layout(kwargs["query"].shape[0], self.frames, 1)

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        self.calls.append(call)
        return self.given

    def _unused(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    load = denoisers = with_denoisers = generate = save = noise_level = example_inputs = latent_size = _unused


@st.composite
def segment_tables(draw: st.DrawFn) -> tuple[int, int, Tensor, Tensor]:
    batch, frames = draw(st.integers(1, 3)), draw(st.integers(1, 4))

    def table() -> Tensor:
        rows, length = draw(st.sampled_from([1, batch])), draw(st.integers(1, 6))
        row = st.lists(st.integers(TEXT, frames - 1), min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=rows, max_size=rows)))

    return batch, frames, table(), table()


@settings(max_examples=40, deadline=None)
@given(segment_tables())
def test_kinds_are_those_of_the_pairs(drawn: tuple[int, int, Tensor, Tensor]) -> None:
    batch, frames, query, key = drawn
    q, k = query.expand(batch, -1)[:, :, None], key.expand(batch, -1)[:, None, :]
    visual = q != TEXT
    expected = {
        CA: (visual & (k == TEXT)).sum(),
        SA: (visual & (k == q)).sum(),
        TA: (visual & (k != TEXT) & (k != q)).sum(),
    }
    inputs = {"query": torch.randn(batch, query.shape[1], 4), "key": torch.randn(batch, key.shape[1], 4)}
    counted = count(TinyDenoiser(), inputs, GivenSegments(query, key, frames), "unet")
    per_pair = 2 * (4 + 4)  # heads, Dqk + Dv
    assert counted.kinds == counted.sites["unet.site"] == {kind: int(n) * per_pair for kind, n in expected.items()}
    assert counted.other == int((~visual).sum()) * key.shape[1] * per_pair
    assert 2 * (sum(counted.kinds.values()) + counted.other) == counted.operators["attention"]  # half is elsewhere
    assert count(TinyDenoiser(), inputs).total == counted.total


def test_calls_of_a_site_are_numbered() -> None:
    adapter = GivenSegments(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long), 1)
    inputs = {"query": torch.randn(2, 3, 4), "key": torch.randn(2, 5, 4)}
    counted = count(TinyDenoiser(times=2), inputs, adapter)
    assert adapter.calls == [AttentionCall(i, batch=2, heads=2, queries=3, keys=5) for i in (0, 1)]
    assert counted.kinds == {CA: 0, SA: 2 * 2 * 3 * 5 * 2 * 8, TA: 0}


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.zeros(1, 4, dtype=torch.long), "the attention call has 3 tokens in 2 rows"),
        (torch.zeros(3, 3, dtype=torch.long), "the attention call has 3 tokens in 2 rows"),
        (torch.full((1, 3), 2), "frames 0 to 1"),
        (torch.full((1, 3), -2), "frames 0 to 1"),
        (torch.zeros(1, 3, dtype=torch.long, device="meta"), "must have values"),
    ],
)
def test_segments_that_do_not_fit_are_refused(query: Tensor, message: str) -> None:
    adapter = GivenSegments(query, torch.zeros(1, 5, dtype=torch.long), 2)
    with pytest.raises(CountingError, match=message):
        count(TinyDenoiser(), {"query": torch.randn(2, 3, 4), "key": torch.randn(2, 5, 4)}, adapter)


def test_wan_1_3b_at_81_frames_of_480p() -> None:
    heads, layers = 12, 30
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_layers=layers, num_attention_heads=heads, attention_head_dim=128, ffn_dim=8960, in_channels=16,
            out_channels=16, text_dim=4096, freq_dim=256,
        ).eval()  # fmt: skip
    inputs = WanAdapter().example_inputs(model, frames=21, height=60, width=104)
    counted = count(model, inputs, WanAdapter())
    assert counted.total == reference(model, inputs)
    tokens, frame = 21 * 30 * 52, 30 * 52
    width = layers * heads * 2 * 128
    assert counted.kinds == {CA: tokens * 512 * width, SA: tokens * frame * width, TA: tokens * 20 * frame * width}
    assert counted.operators["attention"] == sum(counted.kinds.values())


# --- costs -----------------------------------------------------------------------------------------------------------


def test_costs_are_what_surgery_saves() -> None:
    model, adapter = tiny_wan(), WanAdapter()
    inputs = wan_inputs(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = costs(adapter, {"transformer": model}, {"transformer": inputs})
    assert found.forward == {"transformer": count(model, inputs).total}
    per_site = count(model, inputs, adapter).sites
    assert {fqn: cost.maps for fqn, cost in found.sites.items()} == per_site
    for target, removal in ((TA, Removal.SELF_ONLY), (TA, Removal.DROP), (CA, Removal.DROP), (SA, Removal.MASK)):
        pruned = tiny_wan()
        surgery.restrict_all_(pruned, adapter, "transformer", target, removal)
        saved = [cost.saved.get(f"{target}:{removal}", 0) for cost in found.sites.values()]
        assert sum(saved) == found.forward["transformer"] - reference(pruned, inputs)
    assert (
        found.saved("transformer.blocks.0.attn1", TA, Removal.SELF_ONLY) == per_site["transformer.blocks.0.attn1"][TA]
    )
    assert found.saved("transformer.blocks.0.attn1", SA, Removal.MASK) == 0
    # untouched: same class, same weights, on the same device
    assert type(model) is WanTransformer3DModel
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_pruned_site_still_counts_by_kind() -> None:
    model, adapter = tiny_wan(), WanAdapter()
    before = count(model, wan_inputs(model), adapter).kinds
    surgery.restrict_all_(model, adapter, "transformer", TA, Removal.SELF_ONLY)
    assert count(model, wan_inputs(model), adapter).kinds == before | {TA: 0}
    surgery.restrict_all_(model, adapter, "transformer", CA, Removal.DROP)
    assert count(model, wan_inputs(model), adapter).kinds == {CA: 0, SA: before[SA], TA: 0}


def test_costs_refuse_more_than_one_row() -> None:
    model = tiny_wan()
    with pytest.raises(CountingError, match="the inputs have 2"):
        costs(WanAdapter(), {"transformer": model}, {"transformer": wan_inputs(model, batch=2)})


class WithoutAttention(WanAdapter):
    """Takes a feed-forward for a site."""

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [AttentionSite(component, "blocks.0.ffn", 0, (TA,))]


def test_costs_refuse_a_site_without_attention() -> None:
    model = tiny_wan()
    with pytest.raises(CountingError, match=r"blocks\.0\.ffn made no call of scaled_dot_product_attention"):
        costs(WithoutAttention(), {"transformer": model}, {"transformer": wan_inputs(model)})


class Spilling(WanAdapter):
    """Its removal takes the feed-forward along, without naming it a companion."""

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        self.seen = denoiser
        return super().sites(denoiser, component)

    def restrict(self, module: nn.Module, *args: Any) -> nn.Module:
        self.seen.blocks[0].ffn = nn.Identity()
        return module


def test_costs_refuse_a_removal_that_spills() -> None:
    model = tiny_wan()
    with pytest.raises(CountingError, match="missing from the companions"):
        costs(Spilling(), {"transformer": model}, {"transformer": wan_inputs(model)})


# --- copies ----------------------------------------------------------------------------------------------------------


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
