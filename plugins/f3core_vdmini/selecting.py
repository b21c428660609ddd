"""What the methods here share: plans that take whole blocks out, at every step."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from f3core.block import Block
from f3core.candidates import Candidates
from f3core.errors import PlanError
from f3core.method import PlanRequest
from f3core.plan import PruningPlan, StepRange, split_steps
from f3core.sites import GuidanceBranch, PruningAxis, Structure
from f3core.skipping import check_blocks
from f3core.spec_sections import DEFAULT_RATIO


def check_structural(request: PlanRequest, method: str) -> None:
    """Raises `PlanError` for a request that whole blocks cannot answer."""
    if request.target is not Structure.BLOCK:
        raise PlanError(f"method {method!r} takes whole blocks out, not {request.target}; set prune.target to block")
    if request.axis is not PruningAxis.LAYER or request.branch is not GuidanceBranch.BOTH:
        raise PlanError(
            f"method {method!r} takes blocks out at every step and in both branches of guidance; set prune.axis to "
            "layer, and leave prune.branch out"
        )


def check_no_goal(request: PlanRequest, method: str) -> None:
    """Raises `PlanError` where a spec asks for a ratio or a budget of a method that is told otherwise what goes."""
    if request.budget is not None or request.ratio != DEFAULT_RATIO:
        asked = f"ratio {request.ratio:g}" if request.budget is None else f"budget {request.budget}"
        raise PlanError(
            f"method {method!r} knows what goes and takes no {asked}; leave prune.ratio and prune.budget out, or "
            "choose method importance"
        )


def blocks_of(request: PlanRequest) -> tuple[Block, ...]:
    """The model's blocks, those that cannot go too."""
    return tuple(site for site in request.sites if isinstance(site, Block))


def whole(request: PlanRequest) -> tuple[StepRange, ...]:
    """One range of all steps."""
    return split_steps(request.scores.header.levels, 1)


def plan_of(request: PlanRequest, method: str, gone: Collection[str]) -> PruningPlan:
    """The plan by which the blocks of these fqns go, each a unit of its own, whatever else it usually goes with.

    Its ``ratio`` is the share of blocks that go. Raises `PlanError` with block and reason where they cannot all go.
    """
    blocks = blocks_of(request)
    for component in dict.fromkeys(block.component for block in blocks):
        mine = [block for block in blocks if block.component == component]
        check_blocks(mine, [block.path for block in mine if block.fqn in gone])
    apart = tuple(replace(block, index=i) for i, block in enumerate(blocks))
    found = Candidates.of(replace(request, sites=apart), whole(request))
    chosen = [i for i, unit in enumerate(found.units) if set(unit.sites) <= set(gone)]
    plan = found.plan(method, [0.0] * len(found.units), chosen)
    return plan.model_copy(update={"ratio": len(chosen) / len(found.units), "unranked": True})


def shallow_first(scores: Sequence[float], savings: Sequence[int]) -> list[int]:
    """Indices of units, first to go first: those without which nothing is lost (a score of 0 or less), then the least
    lost for what is saved; the shallower of equals first."""
    if len(savings) != len(scores):
        raise PlanError(f"{len(savings)} units but {len(scores)} scores")

    def price(i: int) -> tuple[bool, float]:
        if scores[i] <= 0:
            return False, scores[i]
        return True, scores[i] / savings[i] if savings[i] > 0 else float("inf")

    return sorted(range(len(scores)), key=lambda i: (*price(i), i))
