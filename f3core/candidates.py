"""`Candidates`: the units a plan may choose among, with what each would save, and the plan that a choice makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from f3core.errors import PlanError
from f3core.method import PlanRequest
from f3core.plan import PruningPlan, StepRange, Unit, Verdict, make_units, unit_saving


@dataclass(frozen=True)
class Candidates:
    """The units of a request over ``step_ranges``, in canonical order.

    ``savings``: MACs of one generation that each unit's removal saves, of ``macs_before``. ``passes``: by component,
    denoiser rows of one clip in each step range.
    """

    request: PlanRequest
    step_ranges: tuple[StepRange, ...]
    units: tuple[Unit, ...]
    passes: Mapping[str, tuple[int, ...]]
    savings: tuple[int, ...]
    macs_before: int

    @classmethod
    def of(cls, request: PlanRequest, step_ranges: tuple[StepRange, ...]) -> Candidates:
        """All units along the request's axis. Raises `PlanError` when no site can lose the target."""
        sites = [site for site in request.sites if site.fqn in request.removals]
        if not sites:
            raise PlanError(f"no site of this model can lose {request.target}")
        header, costs = request.scores.header, request.costs
        passes = {
            name: tuple(sum(n for level, n in zip(header.levels, rows, strict=True) if level in r) for r in step_ranges)
            for name, rows in header.passes.items()
        }
        units = make_units(sites, request.axis, len(step_ranges))
        return cls(
            request,
            step_ranges,
            units,
            passes,
            tuple(unit_saving(unit, costs, request.target, request.removals, passes) for unit in units),
            sum(costs.forward[name] * sum(rows) for name, rows in passes.items()),
        )

    def scored(self) -> list[float]:
        """What the request's criterion gives each unit. Raises `ScoresError` where a measurement is missing."""
        asked = self.request
        return asked.criterion.score(self.units, self.step_ranges, asked.scores, asked.target, asked.seed)

    def plan(self, method: str, scores: Sequence[float], chosen: Collection[int]) -> PruningPlan:
        """The plan by which the units at the indices ``chosen`` go."""
        asked = self.request
        return PruningPlan(
            adapter=asked.adapter,
            method=method,
            criterion=asked.criterion.name,
            target=asked.target,
            axis=asked.axis,
            ratio=asked.ratio,
            step_ranges=self.step_ranges,
            removals=dict(asked.removals),
            units=tuple(
                Verdict(**dict(unit), score=float(score), pruned=i in chosen, macs_saved=saving)
                for i, (unit, score, saving) in enumerate(zip(self.units, scores, self.savings, strict=True))
            ),
            passes=dict(self.passes),
            macs_before=self.macs_before,
            macs_after=self.macs_before - sum(self.savings[i] for i in chosen),
        )
