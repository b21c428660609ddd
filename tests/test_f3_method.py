"""The method F3: plans that follow their scores, whatever the order of sites, and cost what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from f3core_f3.criteria import Random
from f3core_f3.method import F3
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plan import COMPONENTS, COSTS, LEVELS, MACS, PASSES, SAVED, SITES, TA, axes, ratios, request
from test_scores import make_scores

from f3core.costs import unit_saving
from f3core.errors import PlanError
from f3core.plan import Unit, round_half_up
from f3core.sites import FORWARD, AttentionSite, PruningAxis, Removal


@settings(deadline=None, max_examples=60)
@given(axes, ratios, st.permutations(SITES), st.permutations(range(len(SITES))), st.booleans())
def test_a_plan_does_not_depend_on_the_order_of_sites(
    axis: PruningAxis, ratio: float, sites: tuple[AttentionSite, ...], scored: list[int], tied: bool
) -> None:
    base = make_scores([s.fqn for s in SITES], LEVELS, passes=PASSES, prompts=[0])
    if tied:
        for one in base.prompts.values():
            one.mass[:] = 1.0
            for i, heads in enumerate(base.header.heads):
                one.mass[i, :, heads:] = 0
    moved = _reordered(base, scored)
    one = F3().plan(request(axis, ratio, scores=base))
    two = F3().plan(request(axis, ratio, scores=moved, sites=tuple(sites)))
    assert one == two


def _reordered(scores: Any, order: list[int]) -> Any:
    header = replace(
        scores.header,
        sites=tuple(scores.header.sites[i] for i in order),
        heads=tuple(scores.header.heads[i] for i in order),
    )
    prompts = {
        index: replace(one, **{name: getattr(one, name)[order] for name in one.FIELDS})
        for index, one in scores.prompts.items()
    }
    return replace(scores, header=header, prompts=prompts)


@settings(deadline=None, max_examples=60)
@given(axes, ratios, ratios, st.sampled_from([None, 1, 2, 3, 6]))
def test_macs_are_additive_and_fall_with_ratio(axis: PruningAxis, a: float, b: float, count: int | None) -> None:
    low, high = sorted((a, b))
    small, large = (F3().plan(request(axis, ratio, step_ranges=count)) for ratio in (low, high))
    assert {u.name for u in small.pruned} <= {u.name for u in large.pruned}
    before = sum(MACS[c][FORWARD] * sum(PASSES[c][FORWARD]) for c in COMPONENTS)
    assert small.macs_before == large.macs_before == before
    assert large.macs_after <= small.macs_after <= before
    for plan in (small, large):
        assert plan.macs_after == before - sum(unit.macs_saved for unit in plan.pruned)
        saved = sum(  # cell by cell, from the steps themselves
            SAVED[site] * PASSES[site.partition(".")[0]][FORWARD][t]
            for site, ranges in plan.gates().items()
            for t, level in enumerate(LEVELS)
            if plan.range_of(level) in ranges
        )
        assert plan.macs_after == before - saved
        assert len(plan.pruned) == round_half_up(plan.ratio, len(plan.units))


def test_the_ends_of_the_ratio() -> None:
    for axis in PruningAxis:
        none, every = F3().plan(request(axis, 0.0)), F3().plan(request(axis, 1.0))
        assert none.gates() == {}
        assert none.macs_after == none.macs_before
        assert not none.gated()
        assert every.gates() == {s.fqn: frozenset(range(len(every.step_ranges))) for s in SITES}
        assert every.macs_after == F3().plan(request(PruningAxis.LAYER, 1.0)).macs_after
        assert not every.gated()


def test_a_range_in_which_a_site_does_not_run_goes_with_its_neighbour() -> None:
    scores = make_scores([s.fqn for s in SITES], LEVELS, passes=PASSES, prompts=())
    units = F3().plan(request(PruningAxis.CELL, step_ranges=3, scores=scores, criterion=Random())).units
    first, second = ({unit.ranges for unit in units if unit.sites[0].startswith(f"{c}.")} for c in COMPONENTS)
    assert (first, second) == ({(0,), (1, 2)}, {(0, 1), (2,)})
    assert all(unit.macs_saved > 0 for unit in units)


def test_default_step_ranges() -> None:
    assert [len(F3().plan(request(axis)).step_ranges) for axis in PruningAxis] == [1, len(LEVELS), 4]
    assert len(F3().plan(request(PruningAxis.LAYER, step_ranges=3)).step_ranges) == 1
    with pytest.raises(PlanError, match="6 calibrated steps cannot be cut into 7"):
        F3().plan(request(PruningAxis.CELL, step_ranges=7))


def test_removals_decide_sites_and_savings() -> None:
    some = {SITES[1].fqn: Removal.DROP, SITES[2].fqn: Removal.SELF_ONLY}
    plan = F3().plan(request(ratio=1.0, removals=some))
    assert {unit.name: unit.macs_saved for unit in plan.units} == {
        SITES[1].fqn: 3 * SAVED[SITES[1].fqn] * 6,
        SITES[2].fqn: SAVED[SITES[2].fqn] * 6,
    }
    with pytest.raises(PlanError, match="no site of this model can lose TA"):
        F3().plan(request(removals={}))


def test_unit_saving_adds_sites_and_ranges() -> None:
    unit = Unit(name="u", sites=(SITES[0].fqn, SITES[4].fqn), ranges=(0, 2))
    removals = {site.fqn: Removal.SELF_ONLY for site in SITES}
    passes = {"transformer": {FORWARD: (1, 10, 100)}, "transformer_2": {FORWARD: (2, 20, 200)}}
    saved = unit_saving(unit, COSTS, TA, removals, passes)
    assert saved == SAVED[SITES[0].fqn] * 101 + SAVED[SITES[4].fqn] * 202


@settings(deadline=None, max_examples=60)
@given(axes, ratios)
def test_gates_always_and_gated_agree_with_the_units(axis: PruningAxis, ratio: float) -> None:
    plan = F3().plan(request(axis, ratio, criterion=Random(), step_ranges=3))
    count = len(plan.step_ranges)
    cells = {(site, r) for unit in plan.units if unit.pruned for site in unit.sites for r in unit.ranges}
    assert {(site, r) for site, ranges in plan.gates().items() for r in ranges} == cells
    for site in SITES:
        whole = all((site.fqn, r) in cells for r in range(count))
        assert plan.always(site.fqn) is whole
    states = [{site for site, r in cells if r == i} for i in range(count)]
    assert plan.gated() is any(state != states[0] for state in states)
    assert plan.always("transformer.nowhere") is False
    for level in (*LEVELS, 0.0, 1e9):
        assert level in plan.step_ranges[plan.range_of(level)]
