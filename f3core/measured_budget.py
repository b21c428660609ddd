"""Budgets that only a running model can tell: candidates are pruned, measured and compared until one meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from f3core.adapter import Model
from f3core.budget import Tried
from f3core.errors import PlanError, SpecError, suggest
from f3core.job import Job, metric_of
from f3core.measure import Listener
from f3core.plan import PruningPlan
from f3core.planning import plan_front
from f3core.search import MOST_TIMINGS, last_kept, near, reach_speedup
from f3core.trial import Trial

if TYPE_CHECKING:
    import torch

TASK = "Measuring candidates"
SPEEDUP = "speed-up"
_ROUNDING = 1e-9
"""so that 0.98 - 0.96 is a drop of 0.02"""


def meet(
    job: Job, model: Model, plan: PruningPlan, prune: Callable[[Model, PruningPlan], Any], listener: Listener
) -> tuple[PruningPlan, tuple[Tried, ...]]:
    """Of the choices among the units of ``plan`` that save the most for their predicted damage, the one that meets the
    plan's budget, as measured by the job's evaluate section; and all that were measured, in order of what they save.

    ``prune`` makes a pipeline of a plan. A speed-up is approached from what MACs predict (`reach_speedup`), a metric by
    bisection (`last_kept`). Raises `PlanError` with the best that is possible where the budget cannot be met, and
    `SpecError` where its metric has no such figure.
    """
    search = _Search(job, model, plan, prune, listener)
    place = search.for_speed() if search.budget.speedup is not None else search.for_metric()
    return search.plan_at(place), search.records(place)


class _Search:
    """One search: its candidates are the selections of the front, by place; each is measured once."""

    def __init__(
        self,
        job: Job,
        model: Model,
        plan: PruningPlan,
        prune: Callable[[Model, PruningPlan], Any],
        listener: Listener,
    ) -> None:
        assert plan.budget is not None
        self.job, self.model, self.plan, self.prune, self.listener = job, model, plan, prune, listener
        self.budget = plan.budget
        self.front = plan_front(plan, job.registry)
        self.saved = [saved / plan.macs_before for saved in self.front.saved]
        self.trial = Trial.of(job, model)
        self.measured: dict[int, tuple[dict[str, float], str]] = {}
        """figures and verdict, by place"""

    def plan_at(self, place: int) -> PruningPlan:
        return self.plan.choosing(self.front.units(place))

    def pipeline_at(self, place: int) -> Any:
        return self.prune(self.model, self.plan_at(place))

    def note(self, place: int, figures: Mapping[str, float], verdict: str, most: int) -> None:
        self.measured[place] = (dict(figures), verdict)
        self.listener(TASK, len(self.measured), max(most, len(self.measured)))

    def records(self, chosen: int) -> tuple[Tried, ...]:
        return tuple(
            Tried(
                macs=1 - self.saved[place],
                units=len(self.front.units(place)),
                predicted=None if self.front.damage is None else self.front.damage[place],
                measured=figures,
                verdict=verdict,
                chosen=place == chosen,
            )
            for place, (figures, verdict) in sorted(self.measured.items())
        )

    # --- seconds ------------------------------------------------------------------------------------------------

    def for_speed(self) -> int:
        target = self.budget.speedup
        assert target is not None

        def measure(place: int) -> float:
            timing = self.trial.timing(self.pipeline_at(place))
            assert timing is not None, "the job was checked to ask for timing"
            speedup = timing.denoiser.speedup
            verdict = "too slow" if speedup < target else "met" if speedup <= near(target) else "more than asked for"
            self.note(place, {SPEEDUP: speedup}, verdict, MOST_TIMINGS)
            return speedup

        place = reach_speedup(self.saved, target, measure)
        if place is not None:
            return place
        last = len(self.saved) - 1
        if not last:
            raise PlanError(f"the budget ({self.budget}) cannot be met: no unit saves any work")
        best = self.measured[last][0][SPEEDUP]
        raise PlanError(
            f"the budget ({self.budget}) cannot be met: speed-up measured with every unit pruned is {_down(best)}× "
            f"({1 - self.saved[last]:.3g} of the MACs stay); ask for less, or measure at the size that you use"
        )

    # --- quality ------------------------------------------------------------------------------------------------

    def for_metric(self) -> int:
        name, one = metric_of(str(self.budget.metric), self.job.registry)
        metric = next(metric for metric in self.trial.metrics if metric.name == name)
        sign = 1 if metric.higher_is_better else -1
        most = math.ceil(math.log2(len(self.saved))) + 1

        def figures(clips: torch.Tensor) -> dict[str, float]:
            found = self.trial.quality(clips, [metric])[name]
            if one is not None and one not in found:
                raise self._no_figure(name, one, found)
            return found if one is None else {one: found[one]}

        before = figures(self.trial.unpruned())
        self.note(0, before, "unpruned", most)

        def keeps(place: int) -> bool:
            after = figures(self.trial.clips(self.pipeline_at(place)))
            drops = {figure: sign * (before[figure] - after.get(figure, math.nan)) for figure in before}
            allowed = (self.budget.max_drop or 0.0) + _ROUNDING
            broken = {figure: drop for figure, drop in drops.items() if not drop <= allowed}
            if not broken:
                self.note(place, after, "within", most)
                return True
            worst = max(broken, key=lambda figure: broken[figure])
            word = "falls" if metric.higher_is_better else "rises"
            self.note(place, after, f"{worst} {word} by {broken[worst]:.3g}", most)
            return False

        place = last_kept(self.saved, keeps)
        if place:
            return place
        if len(self.saved) == 1:
            raise PlanError(f"the budget ({self.budget}) cannot be met: no unit saves any work")
        least = [unit.name for unit in self.plan_at(1).pruned]
        names = ", ".join([*least[:2], *([f"{len(least) - 2} more"] if len(least) > 2 else [])])
        raise PlanError(
            f"the budget ({self.budget}) cannot be met: even with the least pruned ({names}; {1 - self.saved[1]:.3g} "
            f"of the MACs stay) {self.measured[1][1]}; allow more, or measure over more clips"
        )

    def _no_figure(self, metric: str, figure: str, found: Mapping[str, float]) -> SpecError:
        return self.job.file.error(
            ("prune", "budget", "metric"), f"{metric} has no figure {figure!r}; {suggest(figure, found)}"
        )


def _down(speedup: float) -> str:
    """A speed-up with two digits, rounded down, so that asking for it is within reach."""
    return f"{math.floor(speedup * 100) / 100:.2f}"
