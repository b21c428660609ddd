"""Which blocks go: the rule for U-Nets of every depth, greedy selection under ratios and budgets, explicit lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from f3core_f3.criteria import Random
from f3core_vdmini.criteria import Change, OutputDrift
from f3core_vdmini.methods import Importance, Listed, VDMini
from hypothesis import given, settings
from hypothesis import strategies as st

from f3core.block import Block, Stage
from f3core.budget import Budget
from f3core.costs import Costs, SiteCost
from f3core.errors import PlanError, ScoresError
from f3core.impact import Impact
from f3core.method import Criterion, PlanRequest
from f3core.plan import StepRange, round_half_up
from f3core.scores import Scores
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis, Removal, Structure

WIDTHS = (320, 640, 1280, 1280)


def unet(levels: int = 4, pairs: int = 2, component: str = "unet") -> tuple[Block, ...]:
    """The blocks of a U-Net: pairs whose width changes cannot go, the deepest level goes as one."""
    found: list[Block] = []

    def add(
        path: str, stage: Stage, level: int, number: int, fixed: str | None = None, needs: Sequence[str] = ()
    ) -> None:
        index = 1000 if level == levels - 1 else len(found)
        found.append(Block(component, path, index, (), stage, level, number, tuple(needs), fixed))

    for level in range(levels):
        for number in range(pairs):
            widens = level > 0 and number == 0 and level < levels - 1
            add(f"down_blocks.{level}.{number}", Stage.DOWN, level, number, "it changes the width" if widens else None)
    add("mid_block", Stage.MID, levels - 1, 0)
    for level in reversed(range(levels)):
        for number in range(pairs + 1):
            fixed = "it changes the width" if number == 0 and level < levels - 2 else None
            add(f"up_blocks.{levels - 1 - level}.{number}", Stage.UP, level, number, fixed)
    inner = [block.path for block in found if block.level == levels - 1]
    add("samplers", Stage.DOWN, levels - 1, pairs, needs=inner)
    return tuple(found)


def stack(count: int, component: str = "transformer") -> tuple[Block, ...]:
    return tuple(Block(component, f"blocks.{i}", i, (), number=i) for i in range(count))


class Given(Criterion):
    """Scores by name, as a test gives them."""

    name = "given"

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    def score(self, units: Any, ranges: Any, scores: Any, target: Any, seed: int) -> list[float]:
        return [self.scores[unit.name] for unit in units]


def request(blocks: Sequence[Block], ratio: float | None = 0.5, macs: Any = None, **other: Any) -> PlanRequest:
    able = {block.fqn: Removal.DROP for block in blocks if not block.fixed}
    costs = {
        block.fqn: {
            "forward": SiteCost(
                maps={},
                saved={"block:drop": (macs or {}).get(block.path, 10)} if block.fqn in able else {},
                parameters={"block:drop": 3} if block.fqn in able else {},
            )
        }
        for block in blocks
    }
    components = dict.fromkeys(block.component for block in blocks)
    scores = Scores.unscored(
        blocks,
        adapter="a",
        levels=(3.0, 2.0),
        passes={name: {"forward": (1, 1)} for name in components},
        drift_target=Structure.BLOCK,
    )
    base = {
        "adapter": "a",
        "sites": tuple(blocks),
        "scores": scores,
        "costs": Costs(
            forward={name: {"forward": 1000} for name in components},
            sites=costs,
            parameters=dict.fromkeys(components, 300),
        ),
        "target": Structure.BLOCK,
        "axis": PruningAxis.LAYER,
        "removals": able,
        "criterion": Random(),
        "ratio": ratio,
    }
    return PlanRequest(**{**base, **other})


def gone(plan: Any) -> set[str]:
    return {site.partition(".")[2] for unit in plan.pruned for site in unit.sites}


def test_the_rule_takes_out_of_stable_video_diffusion_what_the_paper_does() -> None:
    plan = VDMini().plan(request(unet()))
    assert gone(plan) == {
        *("down_blocks.0.1", "down_blocks.1.1", "down_blocks.3.0", "down_blocks.3.1", "mid_block", "samplers"),
        *("up_blocks.0.0", "up_blocks.0.1", "up_blocks.0.2", "up_blocks.2.1", "up_blocks.3.1"),
    }
    assert plan.method == "vdmini"
    assert not plan.ranked
    assert plan.always("unet.mid_block")


@given(st.integers(2, 6), st.integers(1, 3))
def test_the_rule_balances_skips_at_every_depth(levels: int, pairs: int) -> None:
    out = gone(VDMini().plan(request(unet(levels, pairs))))
    for level in range(levels):
        lost = {
            stage: sum(
                block.path in out for block in unet(levels, pairs) if block.stage is stage and block.level == level
            )
            for stage in (Stage.DOWN, Stage.UP)
        }
        if level < levels - 1:
            assert lost[Stage.DOWN] == lost[Stage.UP] == (pairs > 1 and level != levels - 2)


def test_several_denoisers_are_ruled_each_for_itself() -> None:
    plan = VDMini().plan(request((*unet(3), *unet(4, component="other"))))
    assert {s for unit in plan.pruned for s in unit.sites} >= {
        "unet.mid_block",
        "other.mid_block",
        "unet.down_blocks.2.0",
    }


def test_the_rule_is_refused_where_it_makes_no_sense() -> None:
    with pytest.raises(PlanError, match="no Down and Up blocks"):
        VDMini().plan(request(stack(4)))
    stuck = tuple(replace(b, fixed="it is asked for") if b.path == "down_blocks.3.0" else b for b in unet())
    with pytest.raises(PlanError, match=r"unet\.down_blocks\.3\.0 cannot go: it is asked for"):
        VDMini().plan(request(stuck))
    for other in ({"ratio": 0.3}, {"ratio": None, "budget": Budget(macs=0.5)}):
        with pytest.raises(PlanError, match="knows what goes"):
            VDMini().plan(request(unet(), **other))
    for method in (VDMini(), Importance(), Listed(["mid_block"])):
        with pytest.raises(PlanError, match="takes whole blocks out, not TA"):
            method.plan(request(unet(), target=AttentionKind.TEMPORAL))
        with pytest.raises(PlanError, match="at every step"):
            method.plan(request(unet(), axis=PruningAxis.CELL))
        with pytest.raises(PlanError, match="both branches"):
            method.plan(request(unet(), branch=GuidanceBranch.UNCONDITIONAL))


@given(st.integers(1, 12), st.floats(0, 1), st.data())
def test_the_least_important_go_and_the_shallower_of_equals(count: int, ratio: float, data: st.DataObject) -> None:
    blocks = stack(count)
    scores = {b.fqn: float(data.draw(st.integers(0, 3))) for b in blocks}
    plan = Importance().plan(request(blocks, ratio, criterion=Given(scores)))
    order = sorted(blocks, key=lambda b: (scores[b.fqn], b.number))
    assert gone(plan) == {b.path for b in order[: round_half_up(ratio, count)]}


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-1, 5), st.integers(1, 80)), min_size=1, max_size=8), st.floats(0.1, 1))
def test_a_budget_of_macs_is_met_greedily(blocks: list[tuple[float, int]], share: float) -> None:
    sites = stack(len(blocks))
    scores = {site.fqn: score for site, (score, _) in zip(sites, blocks, strict=True)}
    macs = {site.path: cost for site, (_, cost) in zip(sites, blocks, strict=True)}
    asked = request(sites, None, macs, criterion=Given(scores), budget=Budget(macs=share))
    total = sum(macs.values()) * 2
    if 2000 - total > share * 2000:
        with pytest.raises(PlanError, match="cannot be met"):
            Importance().plan(asked)
        return
    plan = Importance().plan(asked)
    assert plan.macs_after <= share * 2000
    price = {
        site.path: (score > 0, score / cost if score > 0 else score)
        for site, (score, cost) in zip(sites, blocks, strict=True)
    }
    out = gone(plan)
    assert all(price[a] <= price[b] for a in out for b in price.keys() - out)
    if out:  # no less would do
        last = max(out, key=lambda path: (price[path], int(path.rpartition(".")[2])))
        assert plan.macs_after + 2 * macs[last] > share * 2000


def test_listed_blocks_go_and_each_is_a_unit() -> None:
    plan = Listed(["mid_block", "unet.up_blocks.0.1"]).plan(request(unet()))
    assert gone(plan) == {"mid_block", "up_blocks.0.1"}
    assert [len(unit.sites) for unit in plan.pruned] == [1, 1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "is given no blocks"),
        (["mid_blok"], r"no block 'mid_blok'; .*mid_block"),
        (["down_blocks.1.0"], r"down_blocks\.1\.0 cannot go: it changes the width"),
        (["samplers"], r"samplers can only go together with down_blocks\.3\.0, "),
    ],
)
def test_what_cannot_be_listed_is_said(names: list[str], said: str) -> None:
    with pytest.raises(PlanError, match=said):
        Listed(names).plan(request(unet()))
    with pytest.raises(ValueError, match="list of names"):
        Listed("mid_block")


def _impact(sites: Sequence[Block], drift: Any, change: Any) -> Impact:
    shape = (1, len(sites), 1)
    return Impact(
        Structure.BLOCK,
        {site.fqn: Removal.DROP for site in sites},
        (StepRange(),),
        {"transformer": (1.0,)},
        np.ones((1, 1)),
        np.reshape(drift, shape),
        np.reshape(drift, (*shape[:2], 1, 1)),
        np.reshape(change, (len(sites), -1)),
    )


def test_criteria_of_blocks_read_what_was_measured() -> None:
    sites = stack(3)
    asked = request(sites)
    scores = replace(
        asked.scores, impact=_impact(sites, [0.5, 0.25, 2.0], [[0.1, 0.3], [np.nan, np.nan], [0.4, np.nan]])
    )
    plan = Importance().plan(replace(asked, scores=scores, criterion=OutputDrift(), ratio=1.0))
    assert [unit.score for unit in plan.units] == [0.5, 0.25, 2.0]
    plan = Importance().plan(replace(asked, scores=scores, criterion=Change(), ratio=1.0))
    assert [unit.score for unit in plan.units] == pytest.approx([0.2, 2.0, 0.4])
    with pytest.raises(ScoresError, match="do not hold"):
        Change().score(plan.units, (StepRange(),), asked.scores, Structure.BLOCK, 0)
    bare = replace(scores, impact=replace(scores.impact, change=np.zeros((0, 0))))  # type: ignore[type-var]
    with pytest.raises(ScoresError, match=r"set prune\.target to block"):
        Change().score(plan.units, (StepRange(),), bare, AttentionKind.TEMPORAL, 0)
