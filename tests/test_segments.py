"""Segments that adapters are made of."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from f3core.errors import ProbeError
from f3core.segments import argument, frame_tokens, text_tokens
from f3core.sites import TEXT, Layout

small = st.integers(1, 5)


@given(small, small, small)
def test_a_whole_clip_runs_frame_after_frame(batch: int, frames: int, tokens: int) -> None:
    found = frame_tokens(Layout(batch, frames, tokens), frames * tokens, batch)
    assert found.tolist() == [[frame for frame in range(frames) for _ in range(tokens)]]


@given(small, st.integers(2, 5), small)
def test_frames_in_the_batch_come_clip_after_clip(batch: int, frames: int, tokens: int) -> None:
    found = frame_tokens(Layout(batch, frames, tokens), tokens, batch * frames)
    assert found.tolist() == [[frame] * tokens for _ in range(batch) for frame in range(frames)]


@given(small, small, small, st.integers(1, 40), st.integers(1, 12))
def test_what_fits_neither_is_refused(batch: int, frames: int, tokens: int, count: int, rows: int) -> None:
    assume(count != frames * tokens)
    assume(count != tokens or rows % frames)
    with pytest.raises(ProbeError, match=f"{count} visual tokens in {rows} rows are neither {frames} frames"):
        frame_tokens(Layout(batch, frames, tokens), count, rows)


def test_text_is_one_row_of_its_own_segment() -> None:
    assert text_tokens(4).tolist() == [[TEXT] * 4]
    assert text_tokens(0).shape == (1, 0)


def test_arguments_by_keyword_and_by_position() -> None:
    assert argument((1, 2), {}, "timestep", 1) == 2
    assert argument((1,), {"timestep": None}, "timestep", 1) is None
    with pytest.raises(IndexError):
        argument((1,), {}, "timestep", 1)
