"""Where along a front a measured budget is met: two searches over rising savings, each told what was measured. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence

MOST_TIMINGS = 6
"""Candidates that are timed at most, the fully pruned one included."""
OVERSHOOT = 0.05
"""A speed-up above the one asked for by no more than this share of it is near enough,"""
OVERSHOOT_GAIN = 0.25
"""and by no more than this share of what is gained: 1.12× for 1.1×, not 1.15×."""
NEAR = 0.01
"""Share of what can be saved that a bisection need not tell apart."""


def reach_speedup(saved: Sequence[float], target: float, measure: Callable[[int], float]) -> int | None:
    """The least of rising savings whose speed-up reaches ``target`` and is near it; None where the greatest does not.

    ``saved``: share of MACs that each candidate saves, the first of them nothing; ``measure`` times the one at a
    place. The greatest is timed first: with it, time is taken to go linearly with MACs, and after each further
    candidate piecewise so. At most `MOST_TIMINGS` are timed, so the answer may overshoot by more.
    """
    if target <= 1:
        return 0
    low, high = 0, len(saved) - 1
    times = {low: 1.0}
    if high == low or (fastest := measure(high)) < target:
        return None
    times[high] = 1 / fastest
    limit = near(target)
    aim = 2 / (target + limit)  # into the middle of what is accepted
    while high - low > 1 and len(times) <= MOST_TIMINGS and 1 / times[high] > limit:
        gain = times[low] - times[high]
        part = (times[low] - aim) / gain if gain > 0 else 0.5
        wanted = saved[low] + part * (saved[high] - saved[low])
        place = min(max(bisect.bisect_left(saved, wanted), low + 1), high - 1)
        speedup = measure(place)
        times[place] = 1 / speedup
        low, high = (low, place) if speedup >= target else (place, high)
    return high


def near(target: float) -> float:
    """The greatest speed-up that is near enough to the one asked for."""
    return target + min(OVERSHOOT * target, OVERSHOOT_GAIN * (target - 1))


def last_kept(saved: Sequence[float], keeps: Callable[[int], bool]) -> int:
    """The greatest of rising savings that ``keeps`` what is to be kept, by bisection; the first is taken to keep it.

    It is assumed that whatever saves more than one that fails fails too. Savings within `NEAR` of each other are not
    told apart, but for the first and the last, so that the answer is exactly nothing or everything where it should be.
    """
    low, high, last = 0, len(saved), len(saved) - 1
    while high - low > 1:
        bound = saved[min(high, last)]
        if bound - saved[low] > NEAR * saved[-1]:
            middle = bisect.bisect_left(saved, (saved[low] + bound) / 2)
            place = min(max(middle, low + 1), high - 1)
        elif high > last:
            place = last
        elif low == 0:
            place = 1
        else:
            break
        low, high = (place, high) if keeps(place) else (low, place)
    return low
