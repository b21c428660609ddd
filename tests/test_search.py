"""The two searches, on models that are formulas: how near they come, and how much they measure for it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.search import MOST_TIMINGS, NEAR, last_kept, near, reach_speedup

fine = [i / 400 for i in range(201)]  # up to half of the MACs, in 200 steps
savings = st.lists(st.integers(1, 1000), min_size=1, max_size=60, unique=True).map(
    lambda drawn: [0.0, *(total / 2000 for total in sorted(drawn))]
)


class Machine:
    """Time falls with MACs saved, by ``gain`` of each saved second, less a fixed cost of pruning anything."""

    def __init__(self, saved: list[float], gain: float, fixed: float = 0.0, bend: float = 1.0) -> None:
        self.saved, self.gain, self.fixed, self.bend = saved, gain, fixed, bend
        self.asked: list[int] = []

    def speedup(self, place: int) -> float:
        return 1 / (1 - self.gain * self.saved[place] ** self.bend + (self.fixed if place else 0.0))

    def __call__(self, place: int) -> float:
        self.asked.append(place)
        return self.speedup(place)


@settings(deadline=None, max_examples=200)
@given(savings, st.floats(0.2, 1.2), st.floats(0, 0.05), st.floats(0.5, 2), st.floats(1, 2.5))
def test_a_speedup_is_reached_or_refused_in_few_timings(
    saved: list[float], gain: float, fixed: float, bend: float, target: float
) -> None:
    machine = Machine(saved, gain, fixed, bend)
    place = reach_speedup(saved, target, machine)
    assert len(machine.asked) == len(set(machine.asked)) <= MOST_TIMINGS
    if place is None:
        assert max(machine.speedup(p) for p in range(len(saved))) < target
        assert machine.asked == [len(saved) - 1]
    else:
        assert machine.speedup(place) >= target
        met = machine.speedup(place) <= near(target)
        no_smaller = place == 0 or place - 1 in machine.asked or place == 1
        assert met or no_smaller or len(machine.asked) == MOST_TIMINGS


@pytest.mark.parametrize("target", [1.02, 1.1, 1.2, 1.35])
@pytest.mark.parametrize(("gain", "bend"), [(0.6, 1.0), (1.0, 1.0), (1.0, 1.6), (0.8, 0.6)])
def test_a_fine_front_is_met_within_five_percent(target: float, gain: float, bend: float) -> None:
    machine = Machine(fine, gain, bend=bend)
    if machine.speedup(200) < target:
        assert reach_speedup(fine, target, machine) is None
        return
    place = reach_speedup(fine, target, machine)
    assert place is not None
    assert target <= machine.speedup(place) <= 1.05 * target
    assert len(machine.asked) <= MOST_TIMINGS


def test_time_linear_in_macs_takes_two_timings() -> None:
    machine = Machine(fine, 0.7)
    assert reach_speedup(fine, 1.2, machine) is not None
    assert len(machine.asked) == 2


def test_no_speedup_needs_no_pruning_and_nothing_to_prune_gives_none() -> None:
    def never(place: int) -> float:
        raise AssertionError

    assert reach_speedup(fine, 1.0, never) == 0
    assert reach_speedup([0.0], 1.5, never) is None


def test_a_machine_whose_timings_contradict_each_other_ends_the_search() -> None:
    readings = iter([1.5, 0.9, 2.0, 1.0, 1.7, 1.1, 1.2])
    place = reach_speedup(fine, 1.3, lambda _: next(readings))
    assert place is not None


@settings(deadline=None, max_examples=200)
@given(savings, st.floats(0, 0.6))
def test_bisection_finds_the_last_that_keeps(saved: list[float], boundary: float) -> None:
    asked: list[int] = []

    def keeps(place: int) -> bool:
        asked.append(place)
        return saved[place] <= boundary

    found = last_kept(saved, keeps)
    best = max(p for p in range(len(saved)) if saved[p] <= boundary)
    assert found <= best
    assert saved[best] - saved[found] <= NEAR * saved[-1]
    assert (found == 0) == (best == 0)
    assert len(asked) == len(set(asked))
    assert 0 not in asked


def test_bisection_measures_a_number_of_candidates_that_grows_with_precision_alone() -> None:
    many = [i / 100_000 for i in range(50_000)]
    for boundary in (0.0, 0.00001, 0.123, 0.49998, 0.5):
        asked: list[int] = []

        def keeps(place: int, asked: list[int] = asked, boundary: float = boundary) -> bool:
            asked.append(place)
            return many[place] <= boundary

        assert abs(many[last_kept(many, keeps)] - min(boundary, many[-1])) <= NEAR * many[-1]
        assert len(asked) <= math.ceil(math.log2(1 / NEAR)) + 2


def test_all_may_keep_and_none() -> None:
    assert last_kept(fine, lambda place: True) == len(fine) - 1
    assert last_kept(fine, lambda place: False) == 0
    assert last_kept([0.0], lambda place: True) == 0
