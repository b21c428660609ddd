"""Rank correlation and means with their spread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from f3core import stats

FEW = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), min_size=2, max_size=12)


@given(st.data())
def test_spearman_is_scipys(data: st.DataObject) -> None:
    first = data.draw(FEW)
    second = data.draw(st.lists(st.floats(-10, 10), min_size=len(first), max_size=len(first)))
    found = stats.spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(scipy_stats.spearmanr(first, second).statistic, abs=1e-12)


def test_a_figure_is_told_with_its_spread() -> None:
    assert (stats.Figure.of([1.0, 3.0]).mean, stats.Figure.of([1.0, 3.0]).sd) == (2, 1)
    assert stats.Figure.of([0.91234]).text(spread=False) == "0.912"
    assert stats.Figure.of([-1.0, -3.0]).text(True, "+.2f") == "−2.00 ± 1"
    assert stats.Figure.of([1e-5, 3e-5]).text(True) == "2e-05 ± 1e-05"
    with pytest.raises(ValueError, match="no value"):
        stats.Figure.of([])


@given(st.lists(st.integers(-10, 10), min_size=2, max_size=40).filter(lambda values: len(set(values)) > 1))
def test_the_interval_is_students(values: list[int]) -> None:
    found = stats.Figure.of(values).half_width
    expected = scipy_stats.t.ppf(0.975, len(values) - 1) * scipy_stats.tstd(values) / len(values) ** 0.5
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_an_interval_is_told_within_what_is_possible() -> None:
    assert stats.Figure.of([0.9, 0.94, 0.92]).interval() == "+0.92 [+0.87, +0.97]"
    assert stats.Figure.of([0.5, 0.9, 1.0]).interval(within=1) == "+0.80 [+0.14, +1.00]"
    assert stats.Figure.of([-0.25]).interval() == "−0.25"
