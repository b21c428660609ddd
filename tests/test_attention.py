"""The attention that stays, against dense attention under a mask."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_wan
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.attention import ZeroBranch, dropped, frames_in_batch, own_frame_attention
from f3core.clock import Clock, Gate
from f3core.plan import StepRange
from f3core.sites import Layout

sizes = {
    "batch": st.integers(1, 3),
    "heads": st.integers(1, 3),
    "frames": st.integers(1, 5),
    "tokens": st.integers(1, 4),
    "seed": st.integers(0, 2**16),
}


def gate(frames: int, tokens: int, ranges: frozenset[int] | None = None) -> Gate:
    clock = Clock((StepRange(low=500), StepRange(high=500)))
    clock.observe(Layout(1, frames, tokens))
    return Gate(clock, ranges)


@settings(max_examples=100, deadline=None)
@given(
    **sizes, text=st.integers(0, 4), queries=st.integers(1, 4), scale=st.sampled_from((None, 0.5)), wide=st.booleans()
)
def test_own_frame_attention_equals_a_dense_mask(
    batch: int, heads: int, frames: int, tokens: int, seed: int, text: int, queries: int, scale: float, wide: bool
) -> None:
    """Also where only some queries of a frame are asked, values have another width, and heads share keys."""
    torch.manual_seed(seed)
    q = torch.randn(batch, heads * (2 if wide else 1), frames * queries, 8)
    k = torch.randn(batch, heads, text + frames * tokens, 8)
    v = torch.randn(batch, heads, text + frames * tokens, 12 if wide else 8)
    of_query = torch.arange(frames).repeat_interleave(queries)
    of_key = torch.cat([torch.full((text,), -1), torch.arange(frames).repeat_interleave(tokens)])
    seen = (of_key == -1) | (of_query[:, None] == of_key)
    shared = [x.double().repeat_interleave(q.shape[1] // heads, 1) for x in (k, v)]
    scores = (q.double() @ shared[0].mT * (scale or 8**-0.5)).masked_fill(~seen, -torch.inf)
    expected = scores.softmax(-1) @ shared[1]
    found = own_frame_attention(q, k, v, frames, text, scale=scale, enable_gqa=wide)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5


class Dense(nn.Module):
    """Self-attention with rotary-like tables in every form in which models pass them, and an optional mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(
        self,
        hidden: Tensor,
        table: Tensor | None = None,
        pair: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
        flag: bool = False,
    ) -> Tensor:
        q, k, v = self.qkv(hidden).chunk(3, -1)
        if table is not None:
            q, k = q + table, k + table
        if pair is not None:
            q, k = q * pair[0] + pair[1], k * pair[0] + pair[1]
        out = nn.functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask)[:, 0]
        return -out if flag else out


def drawn(batch: int, frames: int, tokens: int, seed: int, *, per_row: bool) -> tuple[Dense, Tensor, dict[str, Any]]:
    torch.manual_seed(seed)
    rows, length = batch if per_row else 1, frames * tokens
    table = torch.randn(rows, length, 6)
    pair = (torch.randn(1, length, 6), torch.randn(rows, length, 6))
    return Dense(6), torch.randn(batch, length, 6), {"table": table, "pair": pair}


def masked(module: Dense, hidden: Tensor, tables: dict[str, Any], seen: Tensor) -> Tensor:
    return module(hidden, **tables, mask=seen[None])


@settings(max_examples=60, deadline=None)
@given(**sizes, per_row=st.booleans(), by_position=st.booleans())
def test_frames_in_batch_equals_a_dense_mask(
    batch: int, heads: int, frames: int, tokens: int, seed: int, per_row: bool, by_position: bool
) -> None:
    """Whatever the batch, with tables alone, in tuples, shared by the rows or not, by keyword or by position."""
    module, hidden, tables = drawn(batch, frames, tokens, seed, per_row=per_row)
    frame = torch.arange(frames).repeat_interleave(tokens)
    expected = masked(module, hidden, tables, frame[:, None] == frame)
    keys = list(module.state_dict())
    restricted = frames_in_batch(module, gate(frames, tokens), fold=("hidden", "table", "pair"))
    assert restricted is module
    assert list(restricted.state_dict()) == keys
    args = (hidden, *tables.values()) if by_position else (hidden,)
    found = restricted(*args, **({} if by_position else tables))
    assert torch.allclose(found, expected, atol=1e-5)
    flagged = restricted(hidden=hidden, **tables, mask=None, flag=True)
    assert torch.equal(flagged, -restricted(hidden, **tables))


@pytest.mark.parametrize("how", ["fold", "drop", "bypass"])
def test_a_closed_gate_leaves_the_module_as_it_was(how: str) -> None:
    module, hidden, tables = drawn(2, 3, 2, 0, per_row=True)
    if how == "bypass":
        tables = {}
    expected = module(hidden, **tables)
    late = gate(3, 2, frozenset({1}))
    restricted = {
        "fold": lambda: frames_in_batch(module, late, fold=("hidden", "table", "pair")),
        "drop": lambda: dropped(module, late),
        "bypass": lambda: dropped(module, late, bypass=True),
    }[how]()
    late.clock.tick(900.0)
    assert torch.equal(restricted(hidden, **tables), expected)
    late.clock.tick(100.0)
    active = restricted(hidden, **tables)
    assert not torch.equal(active, expected)
    if how == "drop":
        assert torch.equal(active, torch.zeros_like(hidden))
    if how == "bypass":
        assert active is hidden
    late.clock.tick(900.0)
    assert torch.equal(restricted(hidden, **tables), expected)
    assert len(list(restricted.parameters())) == 2  # some step needs them


def test_what_is_dropped_for_good_leaves_nothing() -> None:
    module, hidden, _ = drawn(2, 3, 2, 0, per_row=True)
    zero, identity = dropped(module, gate(3, 2)), dropped(module, gate(3, 2), bypass=True)
    assert not [*zero.parameters(), *identity.parameters()]
    assert identity(hidden) is hidden
    half = hidden.bfloat16()
    out = zero(half, "anything", mask=None)
    assert out.dtype is torch.bfloat16
    assert torch.equal(out, torch.zeros_like(half))
    assert isinstance(zero, ZeroBranch)


def test_a_class_is_made_once_and_keeps_its_name_and_home() -> None:
    one, other = (tiny_wan.transformer().blocks[0].attn1 for _ in range(2))
    base = type(one)
    for module in (one, other):
        frames_in_batch(module, gate(3, 2), fold=("hidden_states",))
    assert type(one) is type(other)
    assert isinstance(one, base)
    assert type(one).__module__ == base.__module__
    assert base.__name__ in type(one).__name__
