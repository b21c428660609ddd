"""The methods: registered, their plans reduce every layer by one share, and what they cannot do is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from f3core_f3.criteria import Random
from test_plan import COMPONENTS, COSTS, LEVELS, PASSES, SITES, TA, request
from test_scores import make_scores

from f3core.budget import Budget
from f3core.costs import Costs, SiteCost
from f3core.errors import PlanError
from f3core.method import Method, PlanRequest
from f3core.reduction import Merger, Reducer
from f3core.registry import installed
from f3core.sites import FORWARD, KINDS, AttentionKind, GuidanceBranch, PruningAxis, Removal

NAMES = ("evit", "token_pruning", "tome", "tomesd", "tps")
SA = AttentionKind.SELF
REDUCING = Costs(
    forward=COSTS.forward,
    sites={
        site.fqn: {FORWARD: SiteCost(maps=dict.fromkeys(KINDS, 9), saved={"TA:reduce": 100 + i, "SA:merge": -i})}
        for i, site in enumerate(SITES)
    },
)


def make(name: str) -> Method:
    found = installed().make("method", name)
    assert isinstance(found, Method)
    assert found.name == name
    return found


def asked(**other: Any) -> PlanRequest:
    """Of a model that nothing was scored for."""
    values: dict[str, Any] = {
        "removals": {site.fqn: Removal.REDUCE for site in SITES},
        "costs": REDUCING,
        "scores": make_scores([s.fqn for s in SITES], LEVELS, passes=PASSES, prompts=()),
        "criterion": Random(),
    }
    return request(**{**values, **other})


def test_registered_with_a_summary() -> None:
    for name in NAMES:
        assert installed().entry("method", name).summary


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_goes_by_the_share_asked_for(name: str) -> None:
    plan = make(name).plan(asked(ratio=0.3))
    assert plan.method == name
    assert plan.ratio == 0.3
    assert len(plan.pruned) == len(plan.units) == len(SITES)
    assert plan.gates() == {site.fqn: frozenset({0}) for site in SITES}
    assert not plan.gated()
    assert set(plan.removals.values()) == {Removal.REDUCE}
    assert {unit.score for unit in plan.units} == {0.0}
    rows = {c: sum(PASSES[c][FORWARD]) for c in COMPONENTS}
    saved = sum((100 + i) * rows[site.component] for i, site in enumerate(SITES))
    assert plan.macs_before - plan.macs_after == saved
    assert plan == make(name).plan(asked(ratio=0.3))


@pytest.mark.parametrize("name", NAMES)
def test_a_share_of_nothing_leaves_the_model_alone(name: str) -> None:
    plan = make(name).plan(asked(ratio=0.0))
    assert plan.pruned == ()
    assert plan.macs_after == plan.macs_before


def test_tomesd_alone_merges_tokens_of_a_frame() -> None:
    merging = asked(target=SA, removals={site.fqn: Removal.MERGE for site in SITES})
    plan = make("tomesd").plan(merging)
    assert set(plan.removals.values()) == {Removal.MERGE}
    assert plan.target is SA
    assert plan.macs_after > plan.macs_before  # choosing tokens may cost more than it saves, and the plan says so
    for name in NAMES:
        method = make(name)
        assert method.removals[TA] is Removal.REDUCE
        assert (SA in method.removals) is (name == "tomesd")
        if name != "tomesd":
            with pytest.raises(PlanError, match=f"method '{name}' reduces TA, not SA"):
                method.plan(merging)
            with pytest.raises(PlanError, match="no way to merge"):
                method.merger(0)
    assert isinstance(make("tomesd").merger(0), Merger)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": None, "budget": Budget(macs=0.5)}, "cannot meet a budget; give prune.ratio"),
        ({"axis": PruningAxis.TIMESTEP}, "at every step; set prune.axis to layer"),
        ({"axis": PruningAxis.CELL}, "at every step; set prune.axis to layer"),
        ({"branch": GuidanceBranch.UNCONDITIONAL}, "both branches of guidance; set prune.branch to both"),
    ],
)
def test_what_it_cannot_do_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(name).plan(replace(asked(), **change))


@pytest.mark.parametrize("name", NAMES)
def test_each_gives_a_reducer(name: str) -> None:
    assert isinstance(make(name).reducer(0), Reducer)
