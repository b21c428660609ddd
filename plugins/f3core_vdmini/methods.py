"""Which blocks go: VDMini's rule for U-Nets, the least important under a budget, or those that a spec lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from f3core.block import Block, Stage
from f3core.candidates import Candidates
from f3core.errors import PlanError, suggest
from f3core.method import Criterion, Method, PlanRequest
from f3core.plan import PruningPlan, Unit, rank, round_half_up
from f3core.selection import Front, ranked
from f3core_vdmini.selecting import blocks_of, check_no_goal, check_structural, plan_of, shallow_first, whole


class VDMini(Method):
    """VDMini's rule for U-Nets (arXiv 2411.18375, section 3): shallow blocks carry the content of single frames and can
    be spared, deep ones the motion.

    The second pair (ResNet and attention) of every Down and Up block goes, but for the second-deepest of each, which
    stay whole; the deepest Down and Up block go, and Mid with them, and what samples down to them and up again. Where a
    Down block has no second pair, the Up block of its level keeps its own, so that skips are balanced.
    """

    name = "vdmini"
    needs_scores = False

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Raises `PlanError` for a model that is no U-Net, and where a block that should go cannot."""
        check_structural(request, self.name)
        check_no_goal(request, self.name)
        blocks = blocks_of(request)
        gone = set[str]()
        for component in dict.fromkeys(block.component for block in blocks):
            gone |= {block.fqn for block in ruled_out([b for b in blocks if b.component == component])}
        return plan_of(request, self.name, gone)


def ruled_out(blocks: Sequence[Block]) -> list[Block]:
    """What the rule takes out of one U-Net. Raises `PlanError` for a model without Down, Mid and Up blocks."""
    if not {Stage.DOWN, Stage.UP} <= {block.stage for block in blocks}:
        raise PlanError(
            "method 'vdmini' is a rule for U-Nets, and this model has no Down and Up blocks; choose method importance, "
            "or list the blocks"
        )
    deepest = max(block.level for block in blocks if block.stage is Stage.DOWN)
    paired = {block.level for block in blocks if block.stage is Stage.DOWN and block.number == 1}
    return [
        block
        for block in blocks
        if block.stage is Stage.MID
        or block.level == deepest
        or (block.number == 1 and block.level in paired - {deepest - 1})
    ]


class Importance(Method):
    """The least important blocks go, as the spec's criterion has it: its share of them, or, under a budget, greedily,
    least importance for what is saved first; the shallower of equals first.

    `measured` as criterion takes what `f3core importance` found: the importance of a block is then how much worse a
    figure gets without it (VDMini, figure 1).
    """

    name = "importance"

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Raises `PlanError` for a budget that cannot be met."""
        check_structural(request, self.name)
        found = Candidates.of(request, whole(request))
        scores = found.scored()
        rank(found.units, scores)  # refuses what is not finite
        if request.budget is None:
            assert request.ratio is not None, "a request has a ratio or a budget"
            order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
            return found.plan(self.name, scores, order[: round_half_up(request.ratio, len(order))])
        return found.plan(self.name, scores, found.chosen(scores, self.front))

    @classmethod
    def front(
        cls, units: Sequence[Unit], scores: Sequence[float], savings: Sequence[int], criterion: type[Criterion]
    ) -> Front:
        """The beginnings of the greedy order."""
        return ranked(savings, shallow_first(scores, savings))


class Listed(Method):
    """The blocks that the spec names go: ``method: {listed: {blocks: [...]}}``, by path or with their component."""

    name = "listed"
    needs_scores = False

    def __init__(self, blocks: Iterable[str] = ()) -> None:
        if isinstance(blocks, str) or not all(isinstance(name, str) for name in blocks):
            raise ValueError(f"blocks: give a list of names, not {blocks!r}")
        self.blocks = tuple(blocks)

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Raises `PlanError` for a name that no block has, and where a block cannot go."""
        check_structural(request, self.name)
        check_no_goal(request, self.name)
        if not self.blocks:
            raise PlanError("method 'listed' is given no blocks; write method: {listed: {blocks: [...]}}")
        called: dict[str, list[str]] = {}
        for block in blocks_of(request):
            for name in (block.path, block.fqn):
                called.setdefault(name, []).append(block.fqn)
        for name in self.blocks:
            if name not in called:
                raise PlanError(f"method 'listed': this model has no block {name!r}; {suggest(name, called)}")
        return plan_of(request, self.name, {fqn for name in self.blocks for fqn in called[name]})
