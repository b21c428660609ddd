"""Windows and frames: who sees whom, and that generation meets what is seen first."""

from __future__ import annotations

import tiny_cogvideo
from dense_cogvideo import swin_window
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.visibility import generation_order, given, other_frames, windows
from hypothesis import given as for_all
from hypothesis import strategies as st


@for_all(st.integers(1, 4), st.integers(1, 5), st.integers(0, 1))
def test_windows_are_those_of_shifted_window_attention(times: int, window: int, layer: int) -> None:
    side = times * window
    sizes = tiny_cogvideo.config(tokens=side**2, window=window)
    groups = windows(sizes, layer)
    assert sorted(p for group in groups for w in group for p in w) == list(range(side**2))
    assert all(len({len(w) for w in group}) == 1 and list(w) == sorted(w) for group in groups for w in group)
    found = {place: number for number, w in enumerate(w for group in groups for w in group) for place in w}
    shift = window // 2 if layer else 0
    expected = {p: swin_window(p // side, p % side, side, window, shift) for p in range(side**2)}
    for one in range(side**2):
        for other in range(side**2):
            assert (found[one] == found[other]) == (expected[one] == expected[other])


def test_a_window_as_large_as_the_frame_is_shifted_too() -> None:
    sizes = tiny_cogvideo.config(tokens=16, window=4)
    assert windows(sizes, 0) == ((tuple(range(16)),),)
    assert windows(sizes, 1) == (((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15)),)
    for layer in (0, 1):
        assert windows(tiny_cogvideo.config(tokens=16, window=-1), layer) == ((tuple(range(16)),),)


def test_published_windows() -> None:
    sizes = CogVideoConfig(stage=2, window=10)
    assert [(len(group), len(group[0])) for group in windows(sizes, 0)] == [(4, 100)]
    assert [(len(group), len(group[0])) for group in windows(sizes, 1)] == [(1, 100), (4, 50), (4, 25)]


@for_all(st.sampled_from((1, 2)), st.integers(1, 9))
def test_generation_meets_first_what_is_seen(stage: int, frames: int) -> None:
    order = generation_order(stage, frames)
    assert sorted(order) == list(range(frames))
    for slot, frame in enumerate(order):
        if not given(stage, frame):
            assert other_frames(stage, frame, tuple(range(frames))) == tuple(sorted(order[:slot]))


def test_stage_2_visibility() -> None:
    every = (0, 1, 2, 3, 4)
    assert [other_frames(2, f, every) for f in every] == [(2, 4), (0, 2, 4), (0, 4), (0, 1, 2, 4), (0, 2)]
    assert [other_frames(1, f, every) for f in every] == [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]
