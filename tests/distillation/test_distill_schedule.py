"""The learning rate rises in a line and falls by a cosine."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f3core.distillation.schedule import share

trainings = st.tuples(st.integers(1, 300), st.integers(0, 400))


@given(trainings)
def test_it_rises_to_one_and_then_falls_and_is_never_zero(training: tuple[int, int]) -> None:
    steps, warmup = training
    rates = [share(step, steps, warmup) for step in range(1, steps + 1)]
    assert all(0 < rate <= 1 for rate in rates)
    assert all(early < late for early, late in pairwise(rates[: warmup + 1]))
    assert all(early > late for early, late in pairwise(rates[warmup:]))
    if warmup < steps:
        assert rates[warmup] == 1


@given(st.integers(2, 200), st.integers(0, 50))
def test_halfway_through_the_fall_it_is_a_half(half: int, warmup: int) -> None:
    assert share(warmup + 1 + half, warmup + 2 * half, warmup) == pytest.approx(0.5)


def test_numbers_by_hand() -> None:
    assert [share(step, 6, 2) for step in range(1, 7)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447], 1e-5
    )
