"""`Candidates`: the units a plan may choose among, with what each would save, and the plan that a choice makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from f3core.budget import Budget
from f3core.costs import Passes, unit_saving
from f3core.errors import PlanError, ScoresError
from f3core.method import Criterion, Method, PlanRequest
from f3core.plan import PruningPlan, StepRange, Unit, Verdict, make_units, rank, select
from f3core.selection import Front
from f3core.selection import front as best
from f3core.sites import GuidanceBranch

Fronts = Callable[[Sequence[Unit], Sequence[float], Sequence[int], type[Criterion]], Front]
"""`Method.front`"""


@dataclass(frozen=True)
class Candidates:
    """The units of a request over ``step_ranges``, in canonical order.

    ``savings``: MACs of one generation that each unit's removal saves, of ``macs_before``. ``passes``: by component
    and kind of forward, denoiser rows of one clip in each step range; ``unconditional``: of these, those of guidance's
    unconditional branch. ``parameters``: how many of the denoisers' ``parameters_before`` leave with each unit; the
    latter is None where scores do not know them.
    """

    request: PlanRequest
    step_ranges: tuple[StepRange, ...]
    units: tuple[Unit, ...]
    passes: dict[str, dict[str, tuple[int, ...]]]
    unconditional: dict[str, dict[str, tuple[int, ...]]]
    savings: tuple[int, ...]
    macs_before: int
    parameters: tuple[int, ...]
    parameters_before: int | None

    @classmethod
    def of(cls, request: PlanRequest, step_ranges: tuple[StepRange, ...]) -> Candidates:
        """All units along the request's axis. Raises `PlanError` when no site can lose the target, or no forward is of
        the branch of guidance that is to be pruned."""
        sites = [site for site in request.sites if site.fqn in request.removals]
        if not sites:
            raise PlanError(f"no site of this model can lose {request.target}")
        header, costs = request.scores.header, request.costs
        passes = _by_range(header.levels, header.passes, step_ranges)
        unconditional = _by_range(header.levels, header.unconditional, step_ranges)
        reach = passes
        if request.branch is not GuidanceBranch.BOTH:
            reach = unconditional
            sites = [site for site in sites if any(map(any, reach.get(site.component, {}).values()))]
            if not sites:
                raise PlanError(
                    f"this generation runs nothing that is known to be of guidance's {request.branch} branch: it is "
                    f"unguided, or adapter {request.adapter!r} cannot tell the branches apart; prune both"
                )
        macs = costs.generation(passes)
        units = make_units(
            sites, request.axis, len(step_ranges), lambda fqn, i: costs.occurs(fqn, request.target, reach, i)
        )
        if not units:
            raise PlanError(f"this generation computes no {request.target} at any site that can lose it")
        return cls(
            request,
            step_ranges,
            units,
            passes,
            unconditional,
            tuple(unit_saving(unit, costs, request.target, request.removals, reach) for unit in units),
            macs,
            tuple(_leaving(unit, request, len(step_ranges)) for unit in units),
            sum(costs.parameters.values()) or None,
        )

    def scored(self) -> list[float]:
        """What the request's criterion gives each unit. Raises `ScoresError` where a measurement is missing, or was of
        another removal."""
        asked, impact = self.request, self.request.scores.impact
        if asked.criterion.needs_impact and not (impact and impact.of(asked.target, asked.removals)):
            lacking = "no removal" if impact is None else f"another removal of {impact.target}"
            raise ScoresError(
                f"these scores hold the impact of {lacking}; add this one's: f3core score SPEC --scores FILE, with "
                f"prune.criterion {asked.criterion.name}"
            )
        scores = asked.scores.within(asked.branch)
        return asked.criterion.score(self.units, self.step_ranges, scores, asked.target, asked.seed)

    def chosen(self, scores: Sequence[float], front: Fronts = Method.front) -> frozenset[int]:
        """Indices of the units that go: the request's ratio of them, or what its budget takes among the selections of
        a method's ``front``.

        A budget that has to be measured takes its first guess: for a speed-up what MACs predict, but never more than
        there is; for milliseconds and a metric, half of what can be saved. Raises `PlanError` for a budget of MACs or
        parameters out of reach, and for one of parameters where these are not known.
        """
        asked = self.request
        if asked.budget is None:
            assert asked.ratio is not None, "a request has a ratio or a budget"
            return select(self.units, scores, asked.ratio)
        what, savings, before = self._spent(asked.budget)
        found = front(self.units, scores, savings, type(asked.criterion))
        needed = asked.budget.to_save(before)
        place = found.reaching(found.saved[-1] / 2 if needed is None else needed)
        if place is None and not asked.budget.measured:
            best = 1 - found.saved[-1] / before
            raise PlanError(
                f"the budget ({asked.budget}) cannot be met: pruning every unit leaves {_up(best)} of the {what}; "
                "give a higher share, or another target, removal or axis"
            )
        return found.units(len(found) - 1 if place is None else place)

    def _spent(self, budget: Budget) -> tuple[str, Sequence[int], int]:
        """What a budget counts, in a word, how much of it each unit saves, and how much there is."""
        if budget.parameters is None:
            return "MACs", self.savings, self.macs_before
        if self.parameters_before is None:
            raise PlanError(
                f"the budget ({budget}) counts parameters, and these scores have none; score the model again"
            )
        return "parameters", self.parameters, self.parameters_before

    def plan(self, method: str, scores: Sequence[float], chosen: Collection[int]) -> PruningPlan:
        """The plan by which the units at the indices ``chosen`` go."""
        asked = self.request
        return PruningPlan(
            adapter=asked.adapter,
            method=method,
            criterion=asked.criterion.name,
            target=asked.target,
            branch=asked.branch,
            axis=asked.axis,
            ratio=asked.ratio if asked.ratio is not None else len(chosen) / len(self.units),
            budget=asked.budget,
            step_ranges=self.step_ranges,
            removals=dict(asked.removals),
            units=tuple(
                Verdict(**dict(unit), score=float(score), pruned=i in chosen, macs_saved=saving)
                for i, (unit, score, saving) in enumerate(zip(self.units, scores, self.savings, strict=True))
            ),
            seed=asked.seed,
            passes=self.passes,
            unconditional=self.unconditional,
            macs_before=self.macs_before,
            macs_after=self.macs_before - sum(self.savings[i] for i in chosen),
        )


def _leaving(unit: Unit, request: PlanRequest, ranges: int) -> int:
    """Parameters that leave the model with a unit: none where some forwards still need them."""
    if len(unit.ranges) < ranges or request.branch is not GuidanceBranch.BOTH:
        return 0
    return sum(request.costs.parameters_saved(s, request.target, request.removals[s]) for s in unit.sites)


def _by_range(
    levels: Sequence[float], passes: Passes, step_ranges: Sequence[StepRange]
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Passes in each step range, from those at each level."""

    def summed(rows: Sequence[int]) -> tuple[int, ...]:
        return tuple(sum(n for level, n in zip(levels, rows, strict=True) if level in r) for r in step_ranges)

    return {name: {kind: summed(rows) for kind, rows in kinds.items()} for name, kinds in passes.items()}


def front_of(units: Sequence[Unit], scores: Sequence[float], savings: Sequence[int], *, additive: bool) -> Front:
    """The best selections among units between nothing and all. Raises `PlanError` for scores that cannot be used."""
    return best(scores, savings, rank(units, scores), additive)


def _up(share: float) -> str:
    """A share with three digits, rounded up, so that asking for it succeeds."""
    return f"{math.ceil(share * 1000) / 1000:g}"
