"""Attention calls taken apart by frame: every pair of query and key is in one bundle, on the side where it belongs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from f3core.bundles import bundles, grid
from f3core.sites import TEXT, AttentionCall, Layout, Segments


@st.composite
def segmented(draw: st.DrawFn) -> tuple[Layout, AttentionCall, Segments]:
    """Calls whose rows agree, or have segments of their own."""
    frames, batch = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = [draw(st.integers(1, 7)) for _ in range(2)]

    def tokens(length: int) -> torch.Tensor:
        rows = draw(st.sampled_from([1, batch]))
        drawn = st.lists(st.integers(TEXT, frames - 1), min_size=length, max_size=length)
        return torch.tensor([draw(drawn) for _ in range(rows)])

    layout = Layout(batch, frames, draw(st.integers(1, 4)))
    return layout, AttentionCall(0, batch, 1, *sizes), Segments(tokens(sizes[0]), tokens(sizes[1]))


@given(segmented())
def test_every_pair_is_in_one_bundle(drawn: tuple[Layout, AttentionCall, Segments]) -> None:
    layout, call, segments = drawn
    stays, goes = (torch.zeros(call.batch, call.queries, call.keys) for _ in range(2))
    for part in bundles(layout, call, segments):
        assert len(part.places.frame) == len(part.places.row) == len(part.places.column) == part.others.shape[1]
        for g in range(len(part.frames)):
            rows = range(call.batch) if part.rows is None else [int(part.rows[g])]
            for row in rows:
                for query in part.queries[g]:
                    stays[row, query, part.stay[g]] += 1
                    goes[row, query, part.others[g]] += 1
    query, key = (s.expand(call.batch, -1) for s in (segments.query, segments.key))
    temporal = (query[:, :, None] != key[:, None]) & (query[:, :, None] != TEXT) & (key[:, None] != TEXT)
    assert torch.equal(goes, temporal.float())
    assert torch.equal(stays, 1 - goes)


def test_frames_of_a_whole_clip_attend_in_one_call() -> None:
    frames = torch.arange(3).repeat_interleave(4)[None]
    text = torch.full((1, 2), TEXT)
    call = AttentionCall(0, 2, 1, 14, 14)
    both = torch.cat([text, frames], dim=1)
    asking, seeing = bundles(Layout(2, 3, 4, rows=2), call, Segments(both, both))
    assert asking.frames.tolist() == [TEXT]
    assert (asking.stay.shape, asking.others.shape) == ((1, 14), (1, 0))
    assert seeing.frames.tolist() == [0, 1, 2]
    assert (seeing.queries.shape, seeing.stay.shape, seeing.others.shape) == ((3, 4), (3, 6), (3, 8))
    assert seeing.places.frame.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert seeing.places.row.tolist() == [0, 0, 1, 1] * 2
    assert seeing.places.column.tolist() == [0, 1, 0, 1] * 2


def test_parts_hold_all_frames_once() -> None:
    frames = torch.arange(5)[None]
    (whole,) = bundles(Layout(1, 5, 9), AttentionCall(0, 9, 1, 5, 5), Segments(frames, frames))
    parts = list(whole.split(2))
    assert [start for start, _ in parts] == [0, 2, 4]
    assert torch.equal(torch.cat([part.others for _, part in parts]), whole.others)
    assert all(part.places is whole.places for _, part in parts)
    assert next(whole.split(5))[1] is whole
    assert whole.places.frame.tolist() == [0, 1, 2, 3], "a token a frame"


@pytest.mark.parametrize(
    ("rows", "tokens", "asked", "expected"),
    [
        (6, 60, 60, (6, 10)),
        (6, 60, 15, (3, 5)),
        (5, 45, 15, (3, 5)),  # 5 x 9, halved with what is over
        (0, 60, 60, (6, 10)),  # unknown: the squarest
        (0, 64, 16, (4, 4)),
        (6, 60, 7, (1, 7)),
    ],
)
def test_grids(rows: int, tokens: int, asked: int, expected: tuple[int, int]) -> None:
    assert grid(Layout(1, 2, tokens, rows=rows), asked) == expected
