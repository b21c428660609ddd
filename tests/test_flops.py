"""MACs split by kind of attention, and what each removal saves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from test_operators import reference, tiny_wan, wan_inputs
from torch import Tensor, nn
from torch.nn import functional as F

from f3core import surgery
from f3core.adapter import Adapter
from f3core.errors import CountingError
from f3core.flops import costs, count
from f3core.sites import FORWARD, KINDS, TEXT, AttentionCall, AttentionSite, Layout, Removal, Segments

CA, SA, TA = KINDS


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
    found = costs(adapter, {"transformer": model}, {"transformer": {FORWARD: inputs}})
    assert found.forward == {"transformer": {FORWARD: count(model, inputs).total}}
    per_site = count(model, inputs, adapter).sites
    assert {fqn: cost[FORWARD].maps for fqn, cost in found.sites.items()} == per_site
    for target, removal in ((TA, Removal.SELF_ONLY), (TA, Removal.DROP), (CA, Removal.DROP), (SA, Removal.MASK)):
        pruned = tiny_wan()
        surgery.restrict_all_(pruned, adapter, "transformer", target, removal)
        saved = [cost[FORWARD].saved.get(f"{target}:{removal}", 0) for cost in found.sites.values()]
        assert sum(saved) == found.forward["transformer"][FORWARD] - reference(pruned, inputs)
    first = "transformer.blocks.0.attn1"
    assert found.saved(first, TA, Removal.SELF_ONLY, FORWARD) == per_site[first][TA]
    assert found.saved(first, SA, Removal.MASK, FORWARD) == 0
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
        costs(WanAdapter(), {"transformer": model}, {"transformer": {FORWARD: wan_inputs(model, batch=2)}})


class WithoutAttention(WanAdapter):
    """Takes a feed-forward for a site."""

    def sites(self, denoiser: nn.Module, component: str) -> list[AttentionSite]:
        return [AttentionSite(component, "blocks.0.ffn", 0, (TA,))]


def test_costs_refuse_a_site_without_attention() -> None:
    model = tiny_wan()
    with pytest.raises(CountingError, match=r"blocks\.0\.ffn made no call of scaled_dot_product_attention"):
        costs(WithoutAttention(), {"transformer": model}, {"transformer": {FORWARD: wan_inputs(model)}})


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
        costs(Spilling(), {"transformer": model}, {"transformer": {FORWARD: wan_inputs(model)}})
