"""Where denoising steps are cut into ranges: few, so that a pruned model has few distinct graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from f3core.errors import PlanError
from f3core.impact import Array
from f3core.plan import StepRange, ranges_from, split_steps
from f3core.scores import Scores

DEFAULT_RANGES = 4
"""Few enough that a plan of cells has few distinct graphs."""
IDLE = 1e-4
"""Of the least drift that was measured: what a site that does not run is taken to drift."""


def usual_count(asked: int | None, steps: int) -> int:
    """How many step ranges a spec that asks for so many, or for none, gets of ``steps``."""
    return min(DEFAULT_RANGES, steps) if asked is None else asked


def choose_ranges(scores: Scores, count: int) -> tuple[StepRange, ...]:
    """``count`` step ranges whose boundaries lie where drift changes most; of equal length where none was measured.

    Each step has a profile, the logarithm of every site's drift there; a site that does not run in a step drifts next
    to nothing there, so that a second denoiser that takes over begins a range. The ranges are those that leave the
    least variance of profiles within ranges: the optimal segmentation, by dynamic programming in O(T²·count) of T
    steps. Raises `PlanError` when there are fewer steps than ranges.
    """
    levels = scores.header.levels
    equal = split_steps(levels, count)
    if not scores.prompts or count == 1:
        return equal
    drift = scores.mean_drift()
    drift = drift[(drift > 0).any(axis=1)]  # sites that hold the target
    if not len(drift):
        return equal
    starts = segment(np.log(np.maximum(drift, IDLE * drift[drift > 0].min())).T, count)
    return ranges_from(levels, starts)


def segment(profiles: Array, count: int) -> list[int]:
    """Where to cut T rows of ``profiles`` [T, S] into ``count`` runs of least variance within: the first rows of all
    runs but the first. Ties go to the cut that comes first. Raises `PlanError` for more runs than rows."""
    rows = len(profiles)
    if not 1 <= count <= rows:
        raise PlanError(f"{rows} steps cannot be cut into {count} step ranges")
    sums = np.concatenate([np.zeros((1, profiles.shape[1])), np.cumsum(profiles, axis=0)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(profiles).sum(axis=1))])

    def spread(first: int, end: int) -> float:
        """Summed squared deviation of rows first to end (excluded) from their mean."""
        total = sums[end] - sums[first]
        return float(squares[end] - squares[first] - np.square(total).sum() / (end - first))

    best = [spread(0, end) if end else 0.0 for end in range(rows + 1)]
    cuts: list[Sequence[int]] = [()] * (rows + 1)
    for runs in range(2, count + 1):
        found, at = list(best), list(cuts)
        for end in range(runs, rows + 1):
            start = min(range(runs - 1, end), key=lambda first: best[first] + spread(first, end))
            found[end], at[end] = best[start] + spread(start, end), (*cuts[start], start)
        best, cuts = found, at
    return list(cuts[rows])
