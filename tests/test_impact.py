"""Impact: how the damage of step ranges is shared among sites and steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from f3core.impact import Impact
from f3core.plan import StepRange, split_steps
from f3core.sites import AttentionKind, GuidanceBranch, Removal

TA = AttentionKind.TEMPORAL
LEVELS = (900.0, 700.0, 500.0, 300.0, 100.0)
REMOVALS = {"transformer.a": Removal.SELF_ONLY, "transformer.b": Removal.DROP, "transformer.c": Removal.SELF_ONLY}


def make_impact(ranges: int = 2, seed: int = 0, **changes: Any) -> Impact:
    """Of three sites, two branches and two prompts."""
    rng = np.random.default_rng(seed)
    given = {
        "target": TA,
        "removals": REMOVALS,
        "ranges": split_steps(LEVELS, ranges),
        "branches": {"transformer": (3.0, -2.0)},
        "damage": rng.random((ranges, 2)),
        "output_drift": rng.random((ranges, 3, 2)),
        "branch_drift": rng.random((ranges, 3, 2, 2)),
    }
    return Impact(**(given | changes))


@given(st.integers(1, 5), st.integers(0, 99))
def test_what_sites_and_steps_of_a_range_do_adds_up_to_its_damage(ranges: int, seed: int) -> None:
    impact = make_impact(ranges, seed)
    cells = impact.by_step(LEVELS)
    assert cells.shape == (3, 5)
    for k, step_range in enumerate(impact.ranges):
        inside = cells[:, [i for i, level in enumerate(LEVELS) if level in step_range]]
        assert inside.sum() == pytest.approx(impact.damage[k].mean())
        assert np.allclose(inside, inside[:, :1])  # every step of a range alike
        drift = impact.output_drift[k].mean(axis=1)
        assert inside.sum(axis=1) / inside.sum() == pytest.approx(drift / drift.sum())


def test_sites_that_move_nothing_share_evenly() -> None:
    cells = make_impact(1, output_drift=np.zeros((1, 3, 2)), damage=np.array([[3.0, 0.0]])).by_step(LEVELS)
    assert np.allclose(cells, 1.5 / 15)


def test_json_and_arrays_make_it_again() -> None:
    impact = make_impact()
    again = Impact.from_json(impact.to_json(), {name: getattr(impact, name) for name in Impact.FIELDS})
    assert again == impact or all(np.array_equal(getattr(again, name), getattr(impact, name)) for name in Impact.FIELDS)
    assert (again.removals, again.ranges, again.branches) == (impact.removals, impact.ranges, impact.branches)
    with pytest.raises(KeyError):
        Impact.from_json(impact.to_json(), {})


def test_it_fits_what_was_tried_alone() -> None:
    impact = make_impact()
    assert impact.fits(TA, dict(REMOVALS), impact.ranges, 2)
    assert not impact.fits(AttentionKind.SELF, REMOVALS, impact.ranges, 2)
    assert not impact.fits(TA, REMOVALS | {"transformer.a": Removal.DROP}, impact.ranges, 2)
    assert not impact.fits(TA, REMOVALS, (StepRange(),), 2)
    assert not impact.fits(TA, REMOVALS, impact.ranges, 4)


@given(st.integers(1, 5), st.integers(0, 99))
def test_in_one_branch_a_site_does_what_its_drift_there_amplified_does(ranges: int, seed: int) -> None:
    impact = make_impact(ranges, seed)
    alone = impact.within(GuidanceBranch.UNCONDITIONAL)
    amplification = impact.damage.mean(axis=1) / impact.output_drift.mean(axis=2).sum(axis=1)
    predicted = amplification[:, None] * impact.branch_drift[:, :, 1].mean(axis=2)  # the branch that weighs -2
    cells = alone.by_step(LEVELS)
    for k, step_range in enumerate(impact.ranges):
        inside = cells[:, [i for i, level in enumerate(LEVELS) if level in step_range]]
        assert inside.sum(axis=1) == pytest.approx(predicted[k])
    assert impact.within(GuidanceBranch.BOTH) is impact


def test_without_guidance_a_branch_does_nothing() -> None:
    alone = make_impact(branches={"transformer": (1.0,)}).within(GuidanceBranch.UNCONDITIONAL)
    assert not alone.by_step(LEVELS).any()
