"""F3: rank units by a criterion, prune the lowest share (F3-Pruning, section 3)."""

from __future__ import annotations

import numpy as np

from f3core.errors import PlanError
from f3core.method import Method, PlanRequest
from f3core.plan import PruningPlan, Verdict, make_units, select, split_steps, unit_saving
from f3core.sites import PruningAxis

DEFAULT_CELL_RANGES = 4
"""Few enough that a cell plan has few distinct graphs."""


class F3(Method):
    name = "f3"

    def plan(self, request: PlanRequest) -> PruningPlan:
        """Units along the axis, scored by the criterion; ``round_half_up(ratio * n)`` go, lowest first."""
        sites = [site for site in request.sites if site.fqn in request.removals]
        if not sites:
            raise PlanError(f"no site of this model can lose {request.target}")
        header = request.scores.header
        step_ranges = split_steps(header.levels, _ranges(request, len(header.levels)))
        units = make_units(sites, request.axis, len(step_ranges))
        scored = request.criterion.score(units, step_ranges, request.scores, request.target, request.seed)
        chosen = select(units, scored, request.ratio)
        member = np.array([[level in r for level in header.levels] for r in step_ranges])
        passes = {name: tuple(int(n) for n in member @ np.array(rows)) for name, rows in header.passes.items()}
        savings = [unit_saving(u, request.costs, request.target, request.removals, passes) for u in units]
        before = sum(request.costs.forward[name] * sum(rows) for name, rows in passes.items())
        return PruningPlan(
            adapter=request.adapter,
            method=self.name,
            criterion=request.criterion.name,
            target=request.target,
            axis=request.axis,
            ratio=request.ratio,
            step_ranges=step_ranges,
            removals=dict(request.removals),
            units=tuple(
                Verdict(**dict(unit), score=float(score), pruned=i in chosen, macs_saved=saving)
                for i, (unit, score, saving) in enumerate(zip(units, scored, savings, strict=True))
            ),
            passes=passes,
            macs_before=before,
            macs_after=before - sum(savings[i] for i in chosen),
        )


def _ranges(request: PlanRequest, steps: int) -> int:
    if request.axis is PruningAxis.LAYER:
        return 1
    if request.step_ranges is not None:
        return request.step_ranges
    return steps if request.axis is PruningAxis.TIMESTEP else min(DEFAULT_CELL_RANGES, steps)
