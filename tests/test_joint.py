"""Attention restricted inside one call equals dense attention with the same keys masked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.errors import ModelError
from f3core.joint import Restricted, Span, Turned, Woven, not_own_frame, own_frame, without_text
from f3core.sites import TEXT

sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "frames": st.integers(1, 4),
        "tokens": st.integers(1, 3),
        "text": st.integers(0, 3),
        "text_first": st.booleans(),
        "mask": st.sampled_from(["none", "keys", "row", "rows", "heads", "added"]),
    }
)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None]
    moved = (tokens.transpose(1, 2) for tokens in (query, key, value))
    return nn.functional.scaled_dot_product_attention(*moved, attn_mask=mask).transpose(1, 2)


def drawn_mask(kind: str, batch: int, length: int) -> Tensor | None:
    shape = {
        "keys": (batch, length),
        "row": (batch, 1, 1, length),
        "rows": (1, 1, length, length),
        "heads": (batch, 2, length, length),
        "added": (batch, 1, length, length),
    }
    if kind == "none":
        return None
    mask = torch.rand(shape[kind]) < 0.7
    mask[..., 0] = True  # some key is left somewhere
    return torch.where(mask, 0.0, -2.0) if kind == "added" else mask


def dense(gone: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Every map in full, [B, H, Lq, Lk], with the pairs ``gone`` at -inf; zeros where no key is left."""
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
    if mask is not None:
        mask = mask[:, None, None] if mask.ndim == 2 else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype is torch.bool else scores + mask
    weights = scores.masked_fill(gone, -math.inf).softmax(-1).nan_to_num(0.0)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


def check(restricted: Restricted, gone: Tensor, span: Span, batch: int, kind: str) -> None:
    length = len(gone)
    query, key, value = torch.randn(3, batch, length, 2, 4)
    mask = drawn_mask(kind, batch, length)
    found = restricted(span, attend, query, key, value, mask).nan_to_num(0.0)
    assert torch.allclose(found, dense(gone, query, key, value, mask), atol=1e-5)


def drawn(size: dict[str, object]) -> tuple[Span, int, str, Tensor]:
    torch.manual_seed(0)
    span = Span(size["frames"], size["tokens"], size["text_first"])
    segments = span.segments(size["frames"] * size["tokens"] + size["text"], torch.device("cpu"))
    return span, size["batch"], size["mask"], segments


@given(sizes)
def test_own_frame_is_dense_attention_without_other_frames(size: dict[str, object]) -> None:
    span, batch, kind, of = drawn(size)
    visual = (of != TEXT)[:, None] & (of != TEXT)[None, :]
    check(own_frame, visual & (of[:, None] != of[None, :]), span, batch, kind)


@given(sizes)
def test_without_text_is_dense_attention_from_frames_to_frames(size: dict[str, object]) -> None:
    span, batch, kind, of = drawn(size)
    check(without_text, (of != TEXT)[:, None] & (of == TEXT)[None, :], span, batch, kind)


@given(sizes)
def test_not_own_frame_is_dense_attention_without_the_own(size: dict[str, object]) -> None:
    span, batch, kind, of = drawn(size)
    gone = (of != TEXT)[:, None] & (of[:, None] == of[None, :])
    if span.frames == 1 and len(of) == span.tokens:
        gone = torch.zeros_like(gone)
    check(not_own_frame, gone, span, batch, kind)


@given(sizes, st.integers(0, 3))
def test_turned_text_on_either_side_is_text(size: dict[str, object], before: int) -> None:
    span, batch, kind, of = drawn(size | {"text_first": False})
    span = replace(span, before=before)
    of = torch.cat([torch.full((before,), TEXT), of])
    asked, visual = (of != TEXT)[:, None], (of != TEXT)[None, :]
    same = of[:, None] == of[None, :]
    check(Turned(own_frame), asked & visual & ~same, span, batch, kind)
    check(Turned(without_text), asked & ~visual, span, batch, kind)
    if span.frames > 1 or len(of) > span.tokens:
        check(Turned(not_own_frame), asked & same, span, batch, kind)


@given(sizes, st.integers(1, 3))
def test_woven_runs_of_a_clip_are_restricted_frame_by_frame(size: dict[str, object], runs: int) -> None:
    span, batch, kind, of = drawn(size | {"text": 0})
    same = of.repeat(runs)[:, None] == of.repeat(runs)[None, :]
    check(Woven(own_frame, runs), ~same, span, batch, kind)
    check(Woven(not_own_frame, runs), same if span.frames > 1 else ~same, span, batch, kind)


def test_segments_say_what_split_splits() -> None:
    assert Span(2, 2, text_first=True).segments(5, torch.device("cpu")).tolist() == [TEXT, 0, 0, 1, 1]
    assert Span(2, 2, text_first=False).segments(5, torch.device("cpu")).tolist() == [0, 0, 1, 1, TEXT]


@pytest.mark.parametrize("restricted", [own_frame, without_text, not_own_frame])
def test_a_sequence_too_short_for_the_clip_is_refused(restricted: Restricted) -> None:
    tokens = torch.randn(1, 5, 2, 4)
    with pytest.raises(ModelError, match=r"attention over 5 tokens .* 3 frames of 2\. Is its sequence split"):
        restricted(Span(3, 2, text_first=False), attend, tokens, tokens, tokens, None)


@pytest.mark.parametrize("restricted", [own_frame, without_text, not_own_frame])
def test_one_graph_holds_whatever_a_mask_leaves_of_the_text(restricted: Restricted) -> None:
    torch.manual_seed(0)
    visual, text = torch.randn(1, 6, 2, 8), torch.randn(1, 4, 2, 8)
    span = Span(3, 2, text_first=False, varying=True)

    def masked(mask: Tensor) -> Tensor:
        tokens = torch.cat([visual, text[:, torch.nonzero(mask).flatten()]], dim=1)
        return restricted(span, attend, tokens, tokens, tokens)

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(masked, fullgraph=True, backend="aot_eager")
    for mask in ([1, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 0]):
        assert torch.allclose(compiled(torch.tensor(mask)), masked(torch.tensor(mask)), atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
