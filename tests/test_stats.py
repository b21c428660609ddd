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


def test_the_spread_is_left_out_for_a_single_value() -> None:
    assert stats.mean_sd([1.0, 3.0]) == (2.0, 1.0)
    assert stats.with_spread([0.91234]) == "0.912"
    assert stats.with_spread([-1.0, -3.0], 2, "+") == "−2 ± 1"
    with pytest.raises(ValueError, match="no value"):
        stats.mean_sd([])
