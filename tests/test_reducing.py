"""Reduced attention: equal to the dense attention over what stays, whatever a method makes of other frames' keys."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny_wan
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from f3core.calls import SdpaCall, sdpa
from f3core.clock import Clock
from f3core.errors import ModelError
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.method import Method
from f3core.plan import round_half_up
from f3core.reducing import ReducedCalls, Reduction
from f3core.reduction import Merger, Places, Reduced, Reducer
from f3core.registry import installed
from f3core.sites import TEXT, AttentionCall, AttentionKind, AttentionSite, Layout, Removal, Segments
from f3core.surgery import restrict_all_

TA, SA = AttentionKind.TEMPORAL, AttentionKind.SELF
WAN = installed().make("adapter", "wan")


class First(Reducer):
    """The first keys stay, and weigh more by ``bias``."""

    def __init__(self, bias: float | None = None) -> None:
        self.bias, self.calls = bias, 0

    def reduce(self, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, keep: int) -> Reduced:
        self.calls += 1
        assert key.shape[2] == len(places.frame) > keep > 0
        bias = None if self.bias is None else query.new_full((len(key), 1, 1, keep), self.bias)
        return Reduced(key[:, :, :keep], value[:, :, :keep], bias)


class Fake(Method):
    name = "fake"
    removals = {TA: Removal.REDUCE}  # noqa: RUF012

    def plan(self, request: Any) -> Any:
        raise NotImplementedError

    def reducer(self, seed: int) -> Reducer:
        return First()


class Told:
    """An adapter that knows one call."""

    def __init__(self, segments: Segments) -> None:
        self.known = segments

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        return self.known

    def attends(self, site: AttentionSite, layout: Layout) -> bool:
        return True


def calls_of(segments: Segments, layout: Layout, keep: float, reducer: Reducer) -> ReducedCalls:
    clock = Clock()
    clock.layout = layout
    site = AttentionSite("t", "a", 0, (SA, TA), {TA: (Removal.SELF_ONLY,)})
    return ReducedCalls(reducer, keep, site, Told(segments), clock)  # type: ignore[arg-type]


@st.composite
def drawn_calls(draw: st.DrawFn) -> tuple[Layout, Segments, SdpaCall, float, float | None]:
    frames, size, text, batch = (draw(st.integers(*ends)) for ends in ((1, 4), (1, 3), (0, 2), (1, 2)))
    visual = torch.arange(frames).repeat_interleave(size)
    if draw(st.booleans()):  # every row a frame, which sees some others
        rows = batch * frames
        query = torch.arange(frames).repeat(batch)[:, None].expand(-1, size)
        seen = torch.cat([query * 0, (query - 1).clamp(min=0)], dim=1)
        segments = Segments(query, torch.cat([torch.full((rows, text), TEXT), seen], dim=1))
    else:
        rows, whole = batch, torch.cat([torch.full((text,), TEXT), visual])[None]
        segments = Segments(whole, whole)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    lengths = (segments.query.shape[1], *[segments.key.shape[1]] * 2)
    q, k, v = (torch.randn(rows, 2, length, 4, generator=generator, dtype=torch.float64) for length in lengths)
    mask = None
    if text and draw(st.booleans()):  # padding
        mask = torch.ones(rows, 1, 1, k.shape[2], dtype=torch.bool)
        mask[:, :, :, 0] = False
        if draw(st.booleans()):  # shared by all rows
            mask = mask[:1]
        if draw(st.booleans()):
            mask = mask.expand(-1, 1, q.shape[2], -1)
        if draw(st.booleans()):
            mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -30.0)
    keep, bias = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])), draw(st.sampled_from([None, 0.7]))
    return Layout(batch, frames, size, text), segments, SdpaCall(q, k, v, attn_mask=mask), keep, bias


@given(drawn_calls())
def test_reduced_calls_equal_dense_ones(drawn: tuple[Layout, Segments, SdpaCall, float, float | None]) -> None:
    layout, segments, call, keep, bias = drawn
    calls = calls_of(segments, layout, keep, First(bias))
    calls.begun()
    made = calls.attend(call)
    rows, _, queries, _ = call.query.shape
    added = torch.zeros(rows, 1, queries, call.key.shape[2], dtype=torch.float64)
    if call.attn_mask is not None:
        given_mask = call.attn_mask
        added = added + (given_mask if given_mask.dtype is not torch.bool else torch.where(given_mask, 0.0, -torch.inf))
    for row in range(rows):
        asking, asked = (s[row % len(s)] for s in (segments.query, segments.key))
        for i, frame in enumerate(asking.tolist()):
            others = ((asked != frame) & (asked != TEXT)).nonzero()[:, 0] if frame != TEXT else asked[:0]
            left = round_half_up(keep, len(others))
            left = max(left, 1) if len(others) == len(asked) else left
            added[row, 0, i, others[left:]] = -torch.inf
            if 0 < left < len(others):
                added[row, 0, i, others[:left]] += bias or 0.0
    expected = sdpa(call.query, call.key, call.value, attn_mask=added.expand(-1, 2, -1, -1))
    torch.testing.assert_close(made, expected.nan_to_num(0.0) if bool(expected.isnan().any()) else expected)


def test_keys_of_other_frames_that_a_mask_hides_are_refused() -> None:
    frames = torch.arange(3)[None]
    calls = calls_of(Segments(frames, frames), Layout(1, 3, 1), 0.5, First())
    tokens = torch.randn(1, 1, 3, 4)
    with pytest.raises(ModelError, match="a mask hides keys of other frames"):
        calls.attend(SdpaCall(tokens, tokens, tokens, attn_mask=torch.ones(3, 3).tril().bool()))
    with pytest.raises(ModelError, match="is_causal cannot be reduced"):
        calls.attend(SdpaCall(tokens, tokens, tokens, is_causal=True))
    calls.clock.layout = None
    with pytest.raises(ModelError, match="layout is unknown"):
        calls.attend(SdpaCall(tokens, tokens, tokens))


def test_what_goes_on_keeps_what_was_chosen() -> None:
    frames = torch.arange(4)[None]
    reducer = First()
    calls = calls_of(Segments(frames, frames), Layout(1, 4, 1), 0.5, reducer)
    tokens = torch.randn(1, 1, 4, 4)
    for goes_on, chosen in ((False, 1), (True, 1), (True, 1), (False, 2)):
        calls.clock.layout = Layout(1, 4, 1, goes_on=goes_on, unfinished=True)
        with calls.begun():
            sdpa(tokens, tokens, tokens)
        assert reducer.calls == chosen


class Noted(First):
    """Knows what it made as long as somebody holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.made = weakref.WeakSet[Reduced]()

    def reduce(self, *given: Any) -> Reduced:
        found = super().reduce(*given)
        self.made.add(found)
        return found


def test_keys_that_no_forward_goes_on_with_are_let_go() -> None:
    """Of a large model, those of every layer together would not fit on the device."""
    frames, tokens, reducer = torch.arange(4)[None], torch.randn(1, 1, 4, 4), Noted()
    calls = calls_of(Segments(frames, frames), Layout(1, 4, 1), 0.5, reducer)
    for unfinished in (False, True, False):
        calls.clock.layout = Layout(1, 4, 1, unfinished=unfinished)
        with calls.begun():
            sdpa(tokens, tokens, tokens)
        assert len(reducer.made) == unfinished


def reduced(model: Any, keep: float) -> Any:
    copied = share_copy(model)
    restrict_all_(copied, WAN, "transformer", TA, Removal.REDUCE, Reduction(Fake(), keep))
    return copied


@pytest.fixture(scope="module")
def wan() -> Any:
    return tiny_wan.transformer()


def outputs(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**{**inputs, "return_dict": False})[0]


def test_all_keys_are_the_model_and_no_key_is_self_only(wan: Any) -> None:
    inputs = WAN.example_inputs(wan, frames=3, height=4, width=8, batch=2)
    assert torch.equal(outputs(reduced(wan, 1.0), inputs), outputs(wan, inputs))
    own = share_copy(wan)
    restrict_all_(own, WAN, "transformer", TA, Removal.SELF_ONLY)
    torch.testing.assert_close(outputs(reduced(wan, 0.0), inputs), outputs(own, inputs))
    half = outputs(reduced(wan, 0.5), inputs)
    assert not torch.allclose(half, outputs(wan, inputs))
    assert not torch.allclose(half, outputs(own, inputs))


def test_copies_have_a_clock_of_their_own(wan: Any) -> None:
    first = reduced(wan, 0.5)
    second = copy.deepcopy(first)
    for frames in (3, 4):
        inputs = WAN.example_inputs(wan, frames=frames, height=4, width=8)
        assert torch.equal(outputs(first, inputs), outputs(second, inputs))
    inputs = WAN.example_inputs(wan, frames=2, height=4, width=8)
    outputs(first, inputs)
    assert second.f3_clock.layout.frames == 4


def test_another_backend_is_told_and_compiling_refused(wan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = reduced(wan, 0.5), WAN.example_inputs(wan, frames=3, height=4, width=8)
    with pytest.raises(Exception, match="cannot be compiled"):
        torch.compile(model, backend="eager", fullgraph=True)(**inputs)
    attn = model.blocks[0].attn1
    monkeypatch.setattr(attn, "processor", lambda attn, hidden, *args, **kwargs: hidden)
    with pytest.raises(ModelError, match=r"transformer\.blocks\.0\.attn1 made no call of scaled_dot_product_attention"):
        outputs(model, inputs)


def test_reductions_are_counted_with_what_they_cost(wan: Any) -> None:
    from f3core.flops import costs, count

    inputs = WAN.example_inputs(wan, frames=3, height=4, width=8)
    priced = costs(WAN, {"transformer": wan}, {"transformer": {"forward": inputs}}, [TA], Reduction(Fake(), 0.5))
    model = reduced(wan, 0.5)
    counted = count(meta_copy(model), on_meta(inputs), WAN)
    saved = sum(site["forward"].saved.get("TA:reduce", 0) for site in priced.sites.values())
    assert counted.total == priced.forward["transformer"]["forward"] - saved
    plain = count(wan, inputs, WAN)
    assert counted.kinds[TA] * 2 == plain.kinds[TA]
    assert counted.kinds[SA] == plain.kinds[SA]


class Halves(Merger):
    def merge(self, tokens: Tensor, grid: tuple[int, int], keep: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        assert grid[0] * grid[1] == tokens.shape[1] == 2 * keep
        return tokens[:, ::2], lambda made: made.repeat_interleave(2, dim=1)


class FakeMerging(Fake):
    removals = {SA: Removal.MERGE}  # noqa: RUF012

    def merger(self, seed: int) -> Merger:
        return Halves()


def test_tokens_merge_where_rows_hold_frames_at_full_resolution() -> None:
    registry = installed()
    adapter = registry.make("adapter", "tune-a-video")
    folder = registry.entry("source", "zoo:digits-tune-a-video").folder
    unet = adapter.denoisers(adapter.load(folder, dtype=None, device=torch.device("cpu")))["unet"]
    inputs = adapter.example_inputs(unet, frames=3, height=8, width=8)
    merged = share_copy(unet)
    restrict_all_(merged, adapter, "unet", SA, Removal.MERGE, Reduction(FakeMerging(), 0.5))
    whole, fewer = (tokens_seen(model, adapter, inputs) for model in (unet, merged))
    assert max(whole.values()) == 64 > min(whole.values()), "there are blocks of a lower resolution"
    assert fewer == {path: 32 if count == 64 else count for path, count in whole.items()}


def tokens_seen(model: Any, adapter: Any, inputs: dict[str, Any]) -> dict[str, int]:
    """How many tokens a row holds, by path of the modules that take one frame a row."""
    seen: dict[str, int] = {}

    def note(path: str) -> Callable[..., None]:
        return lambda module, args, out: seen.update({path: args[0].shape[1]})

    paths = [site.path for site in adapter.sites(model, "unet") if site.framed]
    hooks = [model.get_submodule(path).to_q.register_forward_hook(note(path)) for path in paths]
    assert outputs(model, inputs).shape == inputs["sample"].shape
    for hook in hooks:
        hook.remove()
    return seen
