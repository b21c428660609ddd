"""What a comparison measured: every row under every seed, and one row over all seeds, with the Pareto front."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from f3core.environment import Provenance
from f3core.evaluate import PairedTiming
from f3core.footprint import Memory
from f3core.pace import Pace
from f3core.sites import Removal
from f3core.stats import Figure

if TYPE_CHECKING:
    from f3core.plan import PruningPlan

DAMAGE = "damage"
"""What stands for quality where nothing is measured by a metric: mean squared error to the unpruned clips."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Pruning(_Frozen):
    """What a plan did. ``criterion``: None for a method that ranks nothing; ``scope``: what went, in words; ``goal``:
    what decided how much; ``removals``: pruned sites by what was done there."""

    method: str
    criterion: str | None
    scope: str
    axis: str
    goal: str
    pruned: tuple[str, ...]
    units: int
    removals: dict[Removal, int]

    @classmethod
    def of(cls, plan: PruningPlan) -> Pruning:
        """What ``plan`` does, in short."""
        return cls(
            method=plan.method,
            criterion=plan.criterion if plan.ranked else None,
            scope=plan.scope,
            axis=str(plan.axis),
            goal=plan.goal,
            pruned=tuple(unit.name for unit in plan.pruned),
            units=len(plan.units),
            removals=dict(Counter(plan.removals[site] for site in plan.gates())),
        )


class Outcome(_Frozen):
    """One row under one seed. The unpruned model has neither ``pruning`` nor ``accelerators``, nor has a row of another
    model, of ``source``, that is compared as it is.

    ``macs``: multiply-adds that the denoisers executed for one clip; ``predicted``: the share that the plan leaves,
    where it is the plan alone that saves, for as many steps. ``parameters`` of the denoisers. ``damage``: mean squared
    error to the unpruned clips of the same noise. ``quality``: figures by metric. ``timing`` (interleaved runs of the
    unpruned model and this row) and ``memory`` (of one generation of one clip) in the first seed only.
    """

    seed: int
    name: str
    source: str | None = None
    pruning: Pruning | None = None
    accelerators: tuple[str, ...] = ()
    macs: int
    predicted: float | None = None
    parameters: int
    damage: float = 0.0
    quality: dict[str, dict[str, float]]
    timing: PairedTiming | None = None
    memory: Memory | None = None


class Row(_Frozen):
    """One row over all seeds.

    ``source``: the model that stands in the place of the spec's; None for that itself. MACs, parameters and the units
    ``pruned`` are means over seeds, whose plans may differ; ``share``: of the unpruned model's MACs, counted, and as
    ``predicted``. ``seconds`` of one clip are the unpruned model's (median), divided by the row's ``speedup`` (median
    over interleaved pairs), so that a slow spell of the machine does not count against one row. ``memory``: bytes that
    one generation adds at its peak. Figures carry their 95 % interval over seeds. ``pareto``, by metric: no other row
    is as fast and as good by the metric's telling figure, and better in one of the two.
    """

    name: str
    what: str
    source: str | None = None
    accelerators: tuple[str, ...]
    pruned: float
    units: int
    macs: float
    predicted: float | None
    share: float
    parameters: float
    seconds: Pace | None
    speedup: Pace | None
    memory: int | None
    quality: dict[str, dict[str, Figure]]
    damage: Figure
    pareto: dict[str, bool] = Field(default_factory=dict)

    def figure(self, metric: str, name: str) -> Figure:
        """A figure of a metric, or the damage; no number where it was not measured."""
        if metric == DAMAGE:
            return self.damage
        return self.quality[metric][name] if metric in self.quality else Figure(mean=math.nan, sd=0.0)


class Comparison(Provenance):
    """A whole comparison. ``rows``: the unpruned model, then the spec's, in its order; ``outcomes``: the same, seed by
    seed. ``clips`` of ``steps`` steps lie behind every figure; plans predict for ``calibrated`` steps; ``timed_clips``
    were timed in one batch. ``telling``: of each metric, the figure that moves most over the rows. ``machine`` is the
    one that timed, ``versions`` are those that ran the rows."""

    clips: int
    steps: int
    calibrated: int
    timed_clips: int | None
    higher_is_better: dict[str, bool]
    telling: dict[str, str]
    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]


def rows_of(outcomes: Sequence[Outcome], higher_is_better: Mapping[str, bool]) -> tuple[dict[str, str], list[Row]]:
    """The telling figure of every metric, and one row a name, in the order of the outcomes; the first is unpruned."""
    first = outcomes[0].name
    unpruned = Pace.unpruned([o.timing for o in outcomes if o.timing])
    before = {o.seed: o.macs for o in outcomes if o.name == first}
    rows = [
        _row([o for o in outcomes if o.name == name], before, unpruned)
        for name in dict.fromkeys(o.name for o in outcomes)
    ]
    telling = {metric: _moves_most(rows, metric) for metric in figures_of(rows)} or {DAMAGE: DAMAGE}
    timed = all(row.seconds for row in rows)
    costs = [row.seconds.denoiser if timed and row.seconds else row.macs for row in rows]
    fronts = {
        metric: pareto(costs, [row.figure(metric, name).mean for row in rows], higher_is_better.get(metric, False))
        for metric, name in telling.items()
    }
    marked = [
        row.model_copy(update={"pareto": {metric: front[i] for metric, front in fronts.items()}})
        for i, row in enumerate(rows)
    ]
    return telling, marked


def figures_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Names of every metric's figures, metrics included that the unpruned model does not have: it is no other clip."""
    return {metric: list(figures) for row in reversed(rows) for metric, figures in row.quality.items()}


def pareto(costs: Sequence[float], values: Sequence[float], higher_is_better: bool) -> list[bool]:
    """Of points, which are on the front: no other costs no more, is no worse, and is better in one of the two.

    One whose value is not a number is on no front, and keeps none off it.
    """
    worth = [value if higher_is_better else -value for value in values]
    points = list(zip(costs, worth, strict=True))

    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)

    return [not math.isnan(value) and not beaten(cost, value) for cost, value in points]


def _row(mine: Sequence[Outcome], before: Mapping[int, int], unpruned: Pace | None) -> Row:
    first = mine[0]
    plain = first.source is None and first.pruning is None and not first.accelerators
    timing = next((o.timing for o in mine if o.timing), None)
    timed = unpruned is not None and (timing is not None or plain)
    speedup = Pace.speedup(timing) if timed else None
    predicted = [o.predicted for o in mine if o.predicted is not None]
    return Row(
        name=first.name,
        what=_what(mine),
        source=first.source,
        accelerators=first.accelerators,
        pruned=statistics.fmean(len(o.pruning.pruned) if o.pruning else 0 for o in mine),
        units=first.pruning.units if first.pruning else 0,
        macs=statistics.fmean(o.macs for o in mine),
        predicted=statistics.fmean(predicted) if predicted else None,
        share=statistics.fmean(o.macs / before[o.seed] if before[o.seed] else 1.0 for o in mine),
        parameters=statistics.fmean(o.parameters for o in mine),
        seconds=unpruned.over(speedup) if unpruned and speedup else None,
        speedup=speedup,
        memory=next((o.memory.added for o in mine if o.memory), None),
        quality={
            metric: {name: figure_of([o.quality[metric][name] for o in mine]) for name in figures}
            for metric, figures in first.quality.items()
        },
        damage=figure_of([o.damage for o in mine]),
    )


def _what(mine: Sequence[Outcome]) -> str:
    """A row in words, such as ``runs/student; f3 (aas) on TA, ratio 0.5, axis layer: self_only; with pab``."""
    pruning, words = mine[0].pruning, [mine[0].source] if mine[0].source else []
    if pruning:
        by = f" ({pruning.criterion})" if pruning.criterion else ""
        done = " + ".join(dict.fromkeys(str(r) for o in mine if o.pruning for r in o.pruning.removals)) or "nothing"
        words.append(f"{pruning.method}{by} on {pruning.scope}, {pruning.goal}, axis {pruning.axis}: {done}")
    if mine[0].accelerators:
        words.append(f"with {' and '.join(mine[0].accelerators)}")
    return "; ".join(words) or "the model as it is"


def figure_of(values: Sequence[float]) -> Figure:
    """A `Figure`; without a spread where values are infinite or no numbers, such as PSNR to the very same clip."""
    if all(map(math.isfinite, values)):
        return Figure.of(values)
    return Figure(mean=values[0] if len(set(values)) == 1 else math.nan, sd=0.0)


def _moves_most(rows: Sequence[Row], metric: str) -> str:
    """The figure of a metric whose means differ most between rows."""

    def moved(name: str) -> float:
        means = [mean for row in rows if math.isfinite(mean := row.figure(metric, name).mean)]
        return max(means) - min(means) if means else -math.inf

    return max(figures_of(rows)[metric], key=moved)
