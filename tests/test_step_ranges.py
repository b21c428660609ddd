"""Where steps are cut: the optimal segmentation, against every other one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scores import make_scores

from f3core.errors import PlanError
from f3core.plan import split_steps
from f3core.scores import Scores
from f3core.step_ranges import choose_ranges, segment


def spread(profiles: np.ndarray, cuts: tuple[int, ...]) -> float:
    runs = [profiles[a:b] for a, b in itertools.pairwise((0, *cuts, len(profiles)))]
    return sum(float(np.square(run - run.mean(axis=0)).sum()) for run in runs)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_no_other_cuts_leave_less_variance(data: st.DataObject) -> None:
    rows, sites = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    count = data.draw(st.integers(1, rows))
    values = st.lists(st.floats(-5, 5), min_size=sites, max_size=sites)
    profiles = np.array(data.draw(st.lists(values, min_size=rows, max_size=rows)))
    found = segment(profiles, count)
    assert len(found) == count - 1
    assert sorted(set(found)) == found
    assert all(0 < cut < rows for cut in found)
    best = min(spread(profiles, cuts) for cuts in itertools.combinations(range(1, rows), count - 1))
    assert spread(profiles, tuple(found)) == pytest.approx(best, abs=1e-9)


def drifting(levels: tuple[float, ...], drift: np.ndarray) -> Scores:
    """One prompt whose sites drift [S, T] so."""
    scores = make_scores(sites=[f"transformer.{i}" for i in range(len(drift))], levels=levels, prompts=[0])
    ones = np.ones_like(drift)
    return Scores(scores.header, {0: replace(scores.prompts[0], drift=drift, drift_queries=ones)})


def test_boundaries_lie_where_drift_changes() -> None:
    levels = (900.0, 800.0, 700.0, 600.0, 500.0, 400.0)
    drift = np.array([[1.0, 1.1, 1.0, 90.0, 95.0, 1.0], [2.0, 2.0, 2.2, 2.0, 2.1, 30.0], [0.0] * 6])
    ranges = choose_ranges(drifting(levels, drift), 3)
    assert [[level for level in levels if level in r] for r in ranges] == [[900, 800, 700], [600, 500], [400]]
    assert (ranges[0].high, ranges[-1].low) == (None, None)
    assert ranges[0].low == ranges[1].high == 650  # halfway between levels


@given(st.integers(1, 6))
def test_ranges_without_a_measurement_are_of_equal_length(count: int) -> None:
    levels = (900.0, 800.0, 700.0, 600.0, 500.0, 400.0)
    nowhere = drifting(levels, np.zeros((2, 6)))
    for scores in (nowhere, Scores(nowhere.header, {})):
        assert choose_ranges(scores, count) == split_steps(levels, count)


def test_a_denoiser_that_takes_over_begins_a_range() -> None:
    levels = (900.0, 800.0, 700.0, 600.0, 500.0, 400.0)
    drift = np.array([[1.0, 9.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 5.0, 5.0]])
    ranges = choose_ranges(drifting(levels, drift), 2)
    assert [[level for level in levels if level in r] for r in ranges] == [[900, 800, 700, 600], [500, 400]]


def test_more_ranges_than_steps_are_refused() -> None:
    with pytest.raises(PlanError, match="4 calibrated steps cannot be cut into 5 step ranges"):
        choose_ranges(make_scores(), 5)
    with pytest.raises(PlanError, match="2 steps cannot be cut into 3"):
        segment(np.zeros((2, 1)), 3)
