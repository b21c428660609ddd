"""Costs: sums over kinds of forward, each with the rows that it ran."""

from __future__ import annotations

import pytest

from f3core.costs import Costs, SiteCost, unit_saving
from f3core.errors import PlanError
from f3core.plan import Unit
from f3core.sites import AttentionKind, Removal

CA, TA = AttentionKind.CROSS, AttentionKind.TEMPORAL
COSTS = Costs(
    forward={"net": {"first": 100, "later": 1000}},
    sites={
        "net.a": {
            "first": SiteCost(maps={CA: 5, TA: 0}, saved={"TA:self_only": 0}),
            "later": SiteCost(maps={CA: 5, TA: 70}, saved={"TA:self_only": 70}),
        }
    },
)
PASSES = {"net": {"first": (1, 0, 0), "later": (0, 2, 4)}}


def test_a_generation_is_the_sum_of_its_kinds() -> None:
    assert COSTS.generation(PASSES) == 100 + 6 * 1000
    with pytest.raises(PlanError, match="net ran forwards of a kind that was not counted: another"):
        COSTS.generation({"net": {"another": (1,)}})


def test_a_unit_saves_what_each_kind_saves() -> None:
    removals = {"net.a": Removal.SELF_ONLY}
    saved = [
        unit_saving(Unit(name="u", sites=("net.a",), ranges=ranges), COSTS, TA, removals, PASSES)
        for ranges in ((0,), (1,), (0, 1, 2))
    ]
    assert saved == [0, 140, 420]


def test_a_kind_of_attention_occurs_where_a_forward_that_has_it_ran() -> None:
    assert [COSTS.occurs("net.a", TA, PASSES, i) for i in range(3)] == [False, True, True]
    assert [COSTS.occurs("net.a", CA, PASSES, i) for i in range(3)] == [True] * 3
