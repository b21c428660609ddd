"""The probe against attention written out in float64, over drawn shapes, foldings, masks and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.named_calls import naming_calls
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.adapter import Adapter
from f3core.calls import rows_held
from f3core.errors import ProbeError
from f3core.probe import CellSums, Probe
from f3core.sites import KINDS, TEXT, AttentionCall, AttentionKind, AttentionSite, Layout, Segments

CA, SA, TA = KINDS
SITE = AttentionSite("transformer", "attn", 0, KINDS, output="to_out")
VISUAL = 6
"""tokens of three frames"""


class Attention(nn.Module):
    """One attention call on tensors given from outside, and a W_o."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_out = nn.Linear(width, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any]) -> Tensor:
        return self.to_out(nn.functional.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2))


class Denoiser(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = Attention(width)

    def forward(self, level: float, *args: Any) -> Tensor:
        return self.attn(*args)


@dataclass
class Case:
    """An attention call with the segments that its tokens are said to have."""

    layout: Layout
    segments: Segments
    args: tuple[Any, ...]

    def denoiser(self) -> Denoiser:
        torch.manual_seed(3)
        return Denoiser(self.args[0].shape[1] * self.args[0].shape[3])


class Told(Adapter):
    """Says what a case says."""

    name = "told"
    load = denoisers = with_denoisers = generate = save = sites = example_inputs = None  # type: ignore[assignment]

    def __init__(self, case: Case) -> None:
        self.case = case

    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        return self.case.layout

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        return self.case.segments

    def noise_level(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
        return float(args[0])


Told.__abstractmethods__ = frozenset()


def run(case: Case, levels: Sequence[float] = (9.0,), **options: Any) -> Probe:
    denoiser = case.denoiser()
    probe = Probe(Told(case), denoiser, {0: SITE}, **options)
    with probe.watching(), torch.no_grad():
        for level in levels:
            denoiser(level, *case.args)
    return probe


FOLDINGS = "whole joint folded folded-joint pixels sparse text"


@st.composite
def cases(
    draw: st.DrawFn, max_tokens: int = 4, kinds: str = "whole joint folded folded-joint pixels sparse text"
) -> Case:
    """Every way in which models lay out tokens, with every kind of mask."""
    fold = draw(st.sampled_from(kinds.split()))
    batch, heads, frames = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 6))
    tokens, text, width = draw(st.integers(1, max_tokens)), draw(st.integers(0, 3)), draw(st.sampled_from((1, 2, 4, 8)))
    clip, words = torch.arange(frames).repeat_interleave(tokens)[None], torch.full((1, text), TEXT)
    each = torch.arange(frames).repeat(batch)[:, None]  # one row a frame
    if fold == "whole":
        rows, query, key = batch, clip, torch.cat([words, clip], 1)
    elif fold == "joint":
        rows, query, key = batch, torch.cat([clip, words], 1), torch.cat([clip, words], 1)
    elif fold == "folded":
        rows, query = batch * frames, each.expand(-1, tokens)
        key = torch.cat([words.expand(rows, -1), query], 1)
    elif fold == "folded-joint":
        rows = batch * frames
        query = key = torch.cat([words.expand(rows, -1), each.expand(-1, tokens)], 1)
    elif fold == "pixels":
        rows, query, key = batch * tokens, torch.arange(frames)[None], torch.arange(frames)[None]
    elif fold == "sparse":  # Tune-A-Video: keys of the first and the previous frame
        rows, query = batch * frames, each.expand(-1, tokens)
        key = torch.cat([torch.zeros_like(query), (query - 1).clamp(min=0)], 1)
    else:
        rows, query, key = batch, clip, torch.full((1, text + 1), TEXT)
    torch.manual_seed(draw(st.integers(0, 2**16)))
    groups = draw(st.sampled_from((1, 2)))
    spread = draw(st.sampled_from((0.1, 1.0, 4.0)))
    q = torch.randn(rows, heads * groups, query.shape[1], width) * spread
    k, v = (torch.randn(rows, heads, key.shape[1], width) for _ in range(2))
    options: dict[str, Any] = {"enable_gqa": True} if groups > 1 else {}
    if draw(st.booleans()):
        options["scale"] = draw(st.sampled_from((0.3, 1.0)))
    masks = ["none", "bool", "float", "keys"] + (["causal"] if q.shape[2] == k.shape[2] else [])
    mask = draw(st.sampled_from(masks))
    shape = (draw(st.sampled_from((1, rows))), 1, q.shape[2], k.shape[2])
    if mask == "causal":
        options["is_causal"] = True
    elif mask == "float":
        options["attn_mask"] = torch.randn(shape)
    elif mask != "none":
        seen = torch.rand(shape if mask == "bool" else (rows, 1, 1, k.shape[2])) > 0.4
        seen[..., 0] = True
        options["attn_mask"] = seen
    return Case(Layout(batch, frames, tokens, text), Segments(query, key), (q, k, v, options))


def spelled_out(case: Case, without: AttentionKind | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Per row, in float64: weights [B, H, Lq, Lk], the output [B, H, Lq, D], and the query segments [B, Lq]."""
    q, k, v, options = case.args
    query, key = case.segments.query.expand(len(q), -1), case.segments.key.expand(len(q), -1)
    repeat = q.shape[1] // k.shape[1]
    k, v = k.double().repeat_interleave(repeat, 1), v.double().repeat_interleave(repeat, 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k) * options.get("scale", q.shape[3] ** -0.5)
    mask = options.get("attn_mask", torch.ones(q.shape[2], k.shape[2], dtype=torch.bool))
    if options.get("is_causal"):
        mask = torch.arange(q.shape[2])[:, None] >= torch.arange(k.shape[2])
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    for b in range(len(q)):
        for i in range(q.shape[2]):
            for j in range(k.shape[2]):
                a, c = int(query[b, i]), int(key[b, j])
                kind = CA if c == TEXT else SA if a == c else TA
                if a != TEXT and kind is without:
                    scores[b, :, i, j] = -math.inf
    weights = scores.softmax(-1).nan_to_num(0.0)
    return weights, weights @ v, query


def true_map(case: Case) -> Tensor:
    """[H, F, F + 1] mass from queries of a frame to keys of a frame, text last."""
    weights, _, query = spelled_out(case)
    key = case.segments.key.expand(len(query), -1)
    frames = case.layout.frames
    mass = torch.zeros(weights.shape[1], frames, frames + 1, dtype=torch.float64)
    for b in range(len(query)):
        for i in range(frames):
            for j in range(frames + 1):
                to = key[b] == (j if j < frames else TEXT)
                mass[:, i, j] += weights[b][:, query[b] == i][:, :, to].sum((1, 2))
    return mass


def full_round(case: Case, stride: int) -> int:
    """Steps after which every query has been sampled equally often."""
    row = case.segments.query[0]
    per_frame = int((row != TEXT).sum() if len(case.segments.query) > 1 else (row == 0).sum())
    return stride if per_frame % stride == 0 else per_frame


@settings(max_examples=300, deadline=None)
@given(cases())
def test_mass_equals_the_explicit_softmax(case: Case) -> None:
    cell = run(case, target=None).cells[0, 0]
    expected = true_map(case)
    assert float((cell.map - expected).abs().max()) <= 1e-5 * float(expected.max())
    visual = int((case.segments.query.expand(len(case.args[0]), -1) != TEXT).sum())
    assert cell.queries == visual
    assert torch.allclose(cell.map.sum((1, 2)), torch.tensor(float(visual), dtype=torch.float64), rtol=1e-5)


class RowByRow(nn.Module):
    """One attention call a row, of frame tokens over [text; frames], as much text as the row has."""

    def forward(self, tokens: Sequence[Tensor]) -> None:
        for row in tokens:
            nn.functional.scaled_dot_product_attention(row[:, :, -VISUAL:], row, row)


class RowByRowDenoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = RowByRow()

    def forward(self, level: float, tokens: Sequence[Tensor]) -> None:
        self.attn(tokens)


class ToldByRow(Told):
    def layout(self, denoiser: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Layout:
        return Layout(len(args[1]), 3, 2)

    def segments(self, site: AttentionSite, layout: Layout, call: AttentionCall) -> Segments:
        clip = torch.arange(3).repeat_interleave(2)[None]
        return Segments(clip, torch.cat([torch.full((1, call.keys - VISUAL), TEXT), clip], 1))


@pytest.mark.parametrize("target", [TA, CA])
def test_calls_row_by_row_belong_to_prompts_in_turn(target: AttentionKind) -> None:
    torch.manual_seed(0)
    rows = [torch.randn(1, 2, VISUAL + text, 8) for text in (3, 0, 1, 4, 2, 2)]
    site = AttentionSite("transformer", "attn", 0, KINDS)

    def watched(tokens: Sequence[Tensor], prompts: int) -> CellSums:
        denoiser = RowByRowDenoiser()
        probe = Probe(ToldByRow(None), denoiser, {0: site}, prompts=prompts, target=target)
        with probe.watching(), torch.no_grad():
            denoiser(9.0, tokens)
        return probe.cells[0, 0]

    together = watched(rows, prompts=3)
    for prompt in range(3):
        alone = watched(rows[prompt::3], prompts=1)
        assert torch.equal(together.maps[prompt], alone.maps[0])
        assert torch.equal(together.drifts[prompt], alone.drifts[0])
        assert together.queries == alone.queries == 2 * VISUAL
        assert together.drift_queries == alone.drift_queries


def test_more_calls_than_rows_are_refused() -> None:
    layout, site = Layout(2, 3, 2), AttentionSite("transformer", "attn", 0, KINDS)
    assert rows_held(site, layout, AttentionCall(1, 1, 1, 6, 6)) == range(1, 2)
    with pytest.raises(ProbeError, match="call 2 holds 1"):
        rows_held(site, layout, AttentionCall(2, 1, 1, 6, 6))


@settings(max_examples=20, deadline=None)
@given(cases(kinds="whole joint"), st.integers(9, 20))
def test_more_frames_than_the_head_is_wide(case: Case, frames: int) -> None:
    q, k, v, _ = case.args
    torch.manual_seed(frames)
    row = torch.cat([torch.arange(frames).repeat_interleave(2), torch.full((3,), TEXT)])[None]
    tensors = (torch.randn(*x.shape[:2], row.shape[1], x.shape[3]) for x in (q, k, v))
    options = {"enable_gqa": True}
    many = Case(replace(case.layout, frames=frames, tokens=2, text=3), Segments(row, row), (*tensors, options))
    expected = true_map(many)
    assert expected.shape[2] > q.shape[3]
    assert float((run(many, target=None).cells[0, 0].map - expected).abs().max()) <= 1e-5 * float(expected.max())


@settings(max_examples=60, deadline=None)
@given(cases(max_tokens=7), st.integers(2, 9))
def test_samples_are_unbiased(case: Case, stride: int) -> None:
    """Over a round of steps every query is sampled equally often, so the mean is the exact sum."""
    round_of_steps = full_round(case, stride)
    probe = run(case, levels=range(round_of_steps, 0, -1), stride=stride, target=None)
    assert len(probe.cells) == round_of_steps
    mean = torch.stack([cell.map for cell in probe.cells.values()]).mean(0)
    expected = true_map(case)
    assert float((mean - expected).abs().max()) <= 1e-5 * float(expected.max())
    for cell in probe.cells.values():  # and every single step accounts for every query
        assert torch.allclose(cell.map.sum((1, 2)), torch.tensor(cell.queries, dtype=torch.float64), rtol=1e-5)


def test_a_sample_attends_with_every_kth_query_only() -> None:
    case = Case(
        Layout(1, 3, 16),
        Segments(*[torch.arange(3).repeat_interleave(16)[None]] * 2),
        (*(torch.randn(1, 2, 48, 4) for _ in range(3)), {}),
    )
    lengths: list[int] = []

    class Count(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.scaled_dot_product_attention:
                lengths.append(args[0].shape[2])
            return func(*args, **(kwargs or {}))

    with Count():
        run(case, stride=4, target=None)
    assert lengths == [48, 12]


@settings(max_examples=120, deadline=None)
@given(cases(max_tokens=10), st.sampled_from(KINDS))
def test_drift_is_what_the_output_loses(case: Case, target: AttentionKind) -> None:
    """Brute force over all queries; the probe's sample goes once around."""
    probe = run(case, levels=range(full_round(case, 8), 0, -1), target=target)
    _, full, query = spelled_out(case)
    _, kept, _ = spelled_out(case, without=target)
    output = case.denoiser().attn.to_out.weight.detach().double()
    loss = (full - kept).transpose(1, 2).flatten(2) @ output.T
    visual = query != TEXT
    expected = float(loss.square().sum(-1)[visual].mean())
    drift = sum(float(cell.drift) for cell in probe.cells.values())
    queries = sum(cell.drift_queries for cell in probe.cells.values())
    assert drift / queries == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert queries % int(visual.sum()) == 0  # whole rounds


# --- manners --------------------------------------------------------------------------------------------------------


def wan() -> tuple[nn.Module, dict[str, Any], dict[int, AttentionSite]]:
    denoiser = tiny_wan.transformer()
    torch.manual_seed(0)
    inputs = WanAdapter().example_inputs(denoiser, frames=3, height=4, width=6, text=5)
    return denoiser, inputs, dict(enumerate(WanAdapter().sites(denoiser, "transformer")))


def forwards(denoiser: nn.Module) -> list[Any]:
    return [module.__dict__.get("forward") for module in denoiser.modules()]


def test_watching_changes_no_bit_and_is_undone() -> None:
    denoiser, inputs, sites = wan()
    with torch.no_grad():
        plain = denoiser(**inputs)[0]
        with Probe(WanAdapter(), denoiser, sites).watching():
            assert any(forwards(denoiser))
            assert torch.equal(denoiser(**inputs)[0], plain)
    assert not any(forwards(denoiser))


def test_everything_is_put_back_after_an_error() -> None:
    denoiser, inputs, sites = wan()
    own = denoiser.blocks[0].attn1.forward  # one that someone else has put there, as accelerate's hooks do
    denoiser.blocks[0].attn1.forward = lambda *args, **kwargs: own(*args, **kwargs)
    before = forwards(denoiser)
    probe = Probe(WanAdapter(), denoiser, sites)
    with pytest.raises(RuntimeError), probe.watching(), torch.no_grad():
        denoiser(**{**inputs, "encoder_hidden_states": torch.randn(1, 5, 3)})
    assert forwards(denoiser) == before
    with pytest.raises(AttributeError), Probe(WanAdapter(), denoiser, {**sites, 9: SITE}).watching():
        pass
    assert forwards(denoiser) == before


def test_an_attention_that_goes_another_way_is_an_error() -> None:
    denoiser, inputs, sites = wan()
    denoiser.blocks[1].attn1.processor = lambda attn, hidden, *rest: attn.to_out[0](hidden)
    probe = Probe(WanAdapter(), denoiser, sites)
    with pytest.raises(ProbeError, match=r"blocks\.1\.attn1 ran without calling.*native"), probe.watching():
        denoiser(**inputs)
    assert not any(forwards(denoiser))


def test_a_site_outside_its_denoiser_is_an_error() -> None:
    denoiser, _, sites = wan()
    with Probe(WanAdapter(), denoiser, sites).watching(), pytest.raises(ProbeError, match="outside its denoiser"):
        denoiser.blocks[0].attn1(torch.randn(1, 18, 32))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.zeros(1, 5, dtype=torch.long), "query segments have shape"),
        (torch.zeros(2, 6, dtype=torch.long), "query segments have shape"),
        (torch.full((1, 6), 3), "frames 0 to 2"),
        (torch.full((1, 6), -2), "frames 0 to 2"),
    ],
)
def test_wrong_segments_are_an_error(query: Tensor, message: str) -> None:
    right = torch.arange(3).repeat_interleave(2)[None]
    case = Case(Layout(1, 3, 2), Segments(query, right), (*(torch.randn(1, 1, 6, 4) for _ in range(3)), {}))
    with pytest.raises(ProbeError, match=message):
        run(case)


def test_steps_and_rows_are_told_apart_by_noise_level() -> None:
    """Guidance in two calls of one row, or in one of two, is one step."""
    denoiser, inputs, sites = wan()
    probe = Probe(WanAdapter(), denoiser, sites)
    with naming_calls(denoiser), probe.watching(), torch.no_grad():
        for level, call in ((900.0, "cond"), (900.0, "uncond"), (500.0, "cond")):
            with denoiser.cache_context(call):
                denoiser(**{**inputs, "timestep": torch.tensor([level])})
    assert probe.levels == [900.0, 500.0]
    assert probe.rows == {(0, "forward"): 2, (1, "forward"): 1}
    assert probe.unconditional == {(0, "forward"): 1, (1, "forward"): 0}
    assert torch.allclose(probe.cells[0, 0].map.sum((1, 2)), torch.tensor(36.0, dtype=torch.float64))
    assert probe.cells[0, 1].queries == 18


def test_no_tensor_of_the_size_of_a_map_is_made_or_kept() -> None:
    """In a clip of 3 frames of 256 tokens nothing that the probe makes has 768 x 768 entries, nor half as many."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    layout, row = Layout(1, 3, 256), torch.arange(3).repeat_interleave(256)[None]
    case = Case(layout, Segments(row, row), (*(torch.randn(1, 2, 768, 8) for _ in range(3)), {}))
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max([largest, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
            return out

    with Sizes():
        probe = run(case, levels=range(20, 0, -1), stride=1, target=TA)
    assert largest < 768 * 768 // 8
    kept = [tensor for cell in probe.cells.values() for tensor in (cell.map, cell.drift) if isinstance(tensor, Tensor)]
    assert sum(tensor.numel() for tensor in kept) == 20 * (2 * 3 * 4 + 1)
    parts = [
        p
        for part in probe._partitions.values()
        for p in (*part.one_hot, *(w for s in part.samples.values() for w in (s.positions, s.weights)))
    ]
    assert sum(tensor.numel() for tensor in parts) < 16 * 768 * 8
