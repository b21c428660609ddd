"""Budgets as values, and plans made for a budget of MACs: met, no worse than they must be, or refused."""

from __future__ import annotations

import dataclasses
import itertools
import re

import pytest
from f3core_f3.criteria import Drift, Late, Random, Reverse
from f3core_f3.method import F3
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_plan import axes, request

from f3core.budget import Budget
from f3core.candidates import Candidates
from f3core.errors import PlanError
from f3core.method import Criterion
from f3core.plan import PruningPlan, rank, split_steps
from f3core.sites import PruningAxis

shares = st.floats(0.01, 1)
parts = st.floats(0, 1)
"""of what can be saved"""


class Below(Random):
    """Claims what its scores do not keep."""

    additive = True

    def score(self, *args: object) -> list[float]:  # type: ignore[override]
        return [-value for value in super().score(*args)]  # type: ignore[arg-type]


def planned(axis: PruningAxis, budget: Budget, criterion: Criterion | None = None, **other: object) -> PruningPlan:
    return F3().plan(request(axis, None, budget=budget, criterion=criterion or Drift(), **other))


def reachable(axis: PruningAxis) -> float:
    return F3().plan(request(axis, 1.0)).macs_share


def within(axis: PruningAxis, part: float) -> Budget:
    """A budget of MACs that asks for a part of what can be saved."""
    best = reachable(axis)
    return Budget(macs=best + (1 - best) * (1 - part))


def test_a_budget_is_one_thing() -> None:
    for wrong in (
        {},
        {"macs": 0.5, "speedup": 2.0},
        {"metric": "m"},
        {"max_drop": 0.1},
        {"macs": 0.5, "max_drop": 0.1},
        {"macs": 0.5, "parameters": 0.5},
        {"speedup": 2.0, "milliseconds": 5.0},
        {"parameters": 0.0},
        {"parameters": 1.01},
        {"milliseconds": 0.0},
    ):
        with pytest.raises(ValidationError):
            Budget(**wrong)
    every = (
        Budget(macs=0.6), Budget(parameters=0.7), Budget(speedup=1.5), Budget(milliseconds=120.0),
        Budget(metric="m.all", max_drop=0.02),
    )  # fmt: skip
    assert [(str(budget), budget.measured, budget.timed) for budget in every] == [
        ("MACs ≤ 0.6 of before", False, False),
        ("parameters ≤ 0.7 of before", False, False),
        ("speed-up ≥ 1.5×", True, True),
        ("denoiser ≤ 120 ms", True, True),
        ("m.all within 0.02", True, False),
    ]


@given(shares, st.integers(0, 10**19))
def test_what_must_go_is_exact(share: float, macs: int) -> None:
    needed = Budget(macs=share).to_save(macs)
    assert needed is not None
    assert macs - needed <= macs
    assert Budget(macs=0.3).to_save(10) == 7  # and not 8, as 0.3 in binary would have it
    assert Budget(macs=1.0).to_save(macs) == 0
    assert Budget(speedup=2.0).to_save(10) == 5
    assert Budget(parameters=share).to_save(macs) == needed
    assert Budget(milliseconds=5.0).to_save(macs) is None
    assert Budget(metric="m", max_drop=0.0).to_save(macs) is None


@settings(deadline=None, max_examples=60)
@given(axes, parts | st.just(1.001), st.sampled_from([Drift(), Late(), Random(), Reverse()]))
def test_plans_keep_within_a_budget_of_macs_or_are_refused(axis: PruningAxis, part: float, by: Criterion) -> None:
    budget, best = within(axis, part), reachable(axis)
    share = budget.macs or 0.0
    if share < best:
        with pytest.raises(PlanError, match=r"cannot be met: pruning every unit leaves .* of the MACs") as refused:
            planned(axis, budget, by)
        (offered,) = re.findall(r"leaves ([0-9.]+) of", str(refused.value))
        assert best <= float(offered) < best + 0.001
        assert planned(axis, Budget(macs=float(offered)), by).macs_share <= float(offered)
        return
    plan = planned(axis, budget, by)
    assert plan.macs_after <= share * plan.macs_before
    assert plan.budget == budget
    assert plan.ratio == len(plan.pruned) / len(plan.units)
    assert plan.goal == f"budget MACs ≤ {share:g} of before"
    assert PruningPlan.model_validate_json(plan.model_dump_json()) == plan


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([PruningAxis.LAYER, PruningAxis.TIMESTEP]), parts)
def test_additive_criteria_do_the_least_damage(axis: PruningAxis, part: float) -> None:
    budget = within(axis, part)
    plan = planned(axis, budget)
    needed = budget.to_save(plan.macs_before) or 0

    def fits(some: tuple[int, ...]) -> bool:
        return sum(plan.units[i].macs_saved for i in some) >= needed

    every = itertools.chain.from_iterable(itertools.combinations(range(len(plan.units)), n) for n in range(9))
    least = min(sum(plan.units[i].score for i in some) for some in every if fits(some))
    assert sum(unit.score for unit in plan.pruned) == pytest.approx(least)


@settings(deadline=None, max_examples=40)
@given(axes, parts, parts, st.sampled_from([Drift(), Random()]))
def test_a_tighter_budget_saves_more_at_more_damage(axis: PruningAxis, a: float, b: float, by: Criterion) -> None:
    tight, loose = (planned(axis, within(axis, part), by) for part in sorted((a, b), reverse=True))
    assert tight.macs_after <= loose.macs_after
    assert len(tight.pruned) >= len(loose.pruned) or by.additive
    if by.additive:
        harm = [sum(unit.score for unit in plan.pruned) for plan in (loose, tight)]
        assert harm[0] <= harm[1] * (1 + 1e-12)


def test_criteria_that_only_rank_go_in_their_order() -> None:
    plan = planned(PruningAxis.LAYER, within(PruningAxis.LAYER, 0.5), Late())
    order = [unit.pruned for unit in plan.units]
    assert order == sorted(order)
    assert any(order)


def test_budgets_that_are_measured_start_from_a_guess() -> None:
    axis = PruningAxis.CELL
    most = 1 - reachable(axis)
    guess = planned(axis, Budget(speedup=1 + most / 2))
    assert guess.macs_share <= 1 / (1 + most / 2)
    assert planned(axis, Budget(speedup=50.0)).macs_share == reachable(axis)  # never more than there is
    half = planned(axis, Budget(metric="m", max_drop=0.0))
    assert 1 - half.macs_share >= most / 2
    assert planned(axis, Budget(milliseconds=1.0)).pruned == half.pruned


# --- parameters -----------------------------------------------------------------------------------------------------

BEFORE = 1000


def counted(budget: Budget, sizes: list[int], by: Criterion) -> Candidates:
    """Layers with parameters of their own, of 1000 in all."""
    asked = request(PruningAxis.LAYER, None, budget=budget, criterion=by)
    found = Candidates.of(asked, split_steps(asked.scores.header.levels, 1))
    return dataclasses.replace(found, parameters=tuple(sizes[: len(found.units)]), parameters_before=BEFORE)


sizes = st.lists(st.integers(0, 166), min_size=6, max_size=6)


@settings(deadline=None, max_examples=60)
@given(sizes, parts, st.sampled_from([Drift(), Late()]))
def test_a_budget_of_parameters_takes_what_saves_them(drawn: list[int], part: float, by: Criterion) -> None:
    share = max(1 - part * sum(drawn) / BEFORE, 0.001)
    candidates = counted(Budget(parameters=share), drawn, by)
    scores = candidates.scored()
    needed = candidates.request.budget.to_save(BEFORE)  # type: ignore[union-attr]
    assert needed is not None
    if needed > sum(drawn):  # by the rounding of the share
        return
    chosen = candidates.chosen(scores)
    saved = sum(drawn[i] for i in chosen)
    assert BEFORE - saved <= share * BEFORE
    if by.additive:
        every = itertools.chain.from_iterable(itertools.combinations(range(6), n) for n in range(7))
        least = min(sum(scores[i] for i in some) for some in every if sum(drawn[i] for i in some) >= needed)
        assert sum(scores[i] for i in chosen) == pytest.approx(least)
    else:
        order = rank(candidates.units, scores)
        assert chosen == frozenset(order[: len(chosen)])
        assert saved - drawn[order[len(chosen) - 1]] < needed or not chosen


def test_parameters_out_of_reach_or_unknown_are_refused() -> None:
    budget = Budget(parameters=0.3)
    candidates = counted(budget, [100] * 6, Drift())
    with pytest.raises(PlanError, match=r"pruning every unit leaves 0\.4 of the parameters; give a higher share"):
        candidates.chosen(candidates.scored())
    old = dataclasses.replace(candidates, parameters_before=None)
    with pytest.raises(PlanError, match=r"these scores have none; score the model again"):
        old.chosen(old.scored())


def test_scores_below_nothing_cannot_add_up() -> None:
    with pytest.raises(PlanError, match="never scores below 0"):
        planned(PruningAxis.LAYER, within(PruningAxis.LAYER, 0.5), Below())


def test_which_scores_add_up() -> None:
    from test_criteria import NAMES, criterion

    assert {name for name in NAMES if criterion(name).additive} >= {"aas", "drift"}
    assert not {"aas_mean", "late", "random", "reverse"} & {name for name in NAMES if criterion(name).additive}
