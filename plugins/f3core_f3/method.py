"""F3: rank units by a criterion, prune the lowest share (F3-Pruning, section 3)."""

from __future__ import annotations

from f3core.candidates import Candidates
from f3core.method import Method, PlanRequest
from f3core.plan import PruningPlan
from f3core.sites import PruningAxis
from f3core.step_ranges import choose_ranges, usual_count


class F3(Method):
    name = "f3"

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Units along the axis, scored by the criterion; ``round_half_up(ratio * n)`` go, lowest first, or what the
        budget takes."""
        levels = request.scores.header.levels
        found = Candidates.of(request, choose_ranges(request.scores, _ranges(request, len(levels))))
        scored = found.scored()
        return found.plan(self.name, scored, found.chosen(scored))


def _ranges(request: PlanRequest, steps: int) -> int:
    if request.axis is PruningAxis.LAYER:
        return 1
    if request.axis is PruningAxis.TIMESTEP and request.step_ranges is None:
        return steps
    return usual_count(request.step_ranges, steps)
