"""Budgets that only a running model can tell: candidates are pruned, measured and compared until one meets it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from f3core.adapter import Model
from f3core.budget import Tried
from f3core.budget_text import plain
from f3core.errors import PlanError, SpecError, suggest
from f3core.evaluate import PairedTiming
from f3core.job import Job, metric_of
from f3core.measure import Listener
from f3core.plan import PruningPlan
from f3core.planning import plan_front
from f3core.search import MOST_TIMINGS, last_kept, near, reach_speedup
from f3core.trial import Trial

if TYPE_CHECKING:
    import torch

TASK = "Measuring candidates"
SPEEDUP, MILLISECONDS = "speed-up", "milliseconds"
_ROUNDING = 1e-9
"""so that 0.98 - 0.96 is a drop of 0.02"""


def meet(
    job: Job, model: Model, plan: PruningPlan, prune: Callable[[Model, PruningPlan], Any], listener: Listener
) -> tuple[PruningPlan, tuple[Tried, ...]]:
    """Of the choices among the units of ``plan`` that save the most for their predicted damage, the one that meets the
    plan's budget, as measured by the job's evaluate section; and all that were measured, in order of what they save.

    ``prune`` makes a pipeline of a plan. A speed-up is approached from what MACs predict (`reach_speedup`); so are
    milliseconds, as the speed-up that the unpruned model lacks; a metric by bisection (`last_kept`). Raises
    `PlanError` with the best that is possible where the budget cannot be met, and `SpecError` where its metric has no
    such figure.
    """
    search = _Search(job, model, plan, prune, listener)
    place = search.for_speed() if search.budget.timed else search.for_metric()
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
        self.timings: dict[int, PairedTiming] = {}

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
        """The place that is fast enough.

        Milliseconds of a candidate are those of the unpruned model, measured beside the fully pruned one (median),
        divided by the candidate's own speed-up, so that a slow spell of the machine counts against no candidate.
        """
        last, asked = len(self.saved) - 1, self.budget.milliseconds
        target, unpruned = self.budget.speedup or 1.0, 0.0
        if asked is not None:
            unpruned = 1e3 * self._timing(last).denoiser.before
            target = unpruned / asked
            self.note(0, {MILLISECONDS: unpruned, SPEEDUP: 1.0}, "unpruned", MOST_TIMINGS + 1)

        def measure(place: int) -> float:
            speedup = self._timing(place).denoiser.speedup
            verdict = "too slow" if speedup < target else "met" if speedup <= near(target) else "more than asked for"
            found = {SPEEDUP: speedup} if asked is None else {MILLISECONDS: unpruned / speedup, SPEEDUP: speedup}
            self.note(place, found, verdict, MOST_TIMINGS + (asked is not None))
            return speedup

        if asked is not None and last:
            measure(last)  # it is timed already
        place = reach_speedup(self.saved, target, measure)
        if place is not None:
            return place
        if not last:
            raise PlanError(f"the budget ({self.budget}) cannot be met: no unit saves any work")
        raise PlanError(
            f"the budget ({self.budget}) cannot be met: {self._best(self.measured[last][0])} "
            f"({1 - self.saved[last]:.3g} of the MACs stay); {'ask for less' if asked is None else 'allow more'}, or "
            "measure at the size that you use"
        )

    def _timing(self, place: int) -> PairedTiming:
        if place not in self.timings:
            found = self.trial.timing(self.pipeline_at(place))
            assert found is not None, "the job was checked to ask for timing"
            self.timings[place] = found
        return self.timings[place]

    def _best(self, best: Mapping[str, float]) -> str:
        if MILLISECONDS not in best:
            return f"speed-up measured with every unit pruned is {_down(best[SPEEDUP])}×"
        unpruned = self.measured[0][0][MILLISECONDS]
        return f"with every unit pruned {_up(best[MILLISECONDS])} ms are measured, of {plain(unpruned)} ms unpruned"

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


def _up(milliseconds: float) -> str:
    """Milliseconds with three digits, rounded up, so that asking for them is within reach."""
    digits = 2 - math.floor(math.log10(milliseconds)) if milliseconds > 0 else 0
    return f"{math.ceil(milliseconds * 10**digits) / 10**digits:g}"
