"""What a sweep measured: every variant under every seed, and one row a variant over all seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from f3core.environment import Provenance
from f3core.evaluate import PairedTiming
from f3core.pace import Pace
from f3core.sites import GuidanceBranch, Removal, Target
from f3core.stats import Figure


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Outcome(_Frozen):
    """One variant under one seed. The unpruned model has no ``target``.

    ``removals``: pruned sites by what was done there. ``macs_*``: multiply-adds of one clip, all steps; ``parameters``
    of the denoisers. ``damage``: mean squared error to the unpruned clips of the same noise. ``quality``: figures by
    metric. ``timing``: interleaved runs of the unpruned model and this variant, in the first seed only.
    """

    seed: int
    target: Target | None = None
    ratio: float = 0.0
    pruned: tuple[str, ...] = ()
    units: int = 0
    removals: dict[Removal, int] = Field(default_factory=dict)
    macs_before: int
    macs_predicted: int
    macs_counted: int
    parameters: int
    damage: float = 0.0
    quality: dict[str, dict[str, float]]
    timing: PairedTiming | None = None


class Row(_Frozen):
    """One variant over all seeds.

    MACs and parameters are means over seeds, whose plans may differ; ``macs_removed`` is a share of the unpruned.
    ``seconds`` of one clip are the unpruned model's, divided by the variant's ``speedup`` (the median over
    interleaved pairs), so that a slow spell of the machine does not count against one variant; the raw runs are in
    the outcomes. ``predicted_speedup``: of the denoiser, if time went with MACs.
    """

    target: Target | None
    removal: str
    ratio: float
    pruned: float
    units: int
    macs_predicted: float
    macs_counted: float
    macs_removed: float
    parameters: float
    damage: Figure
    quality: dict[str, dict[str, Figure]]
    seconds: Pace | None
    speedup: Pace | None
    predicted_speedup: float


class Sweep(Provenance):
    """A whole sweep. ``rows``: the unpruned model, then every ratio of every target; ``outcomes``: the same, seed by
    seed. ``clips`` of ``steps`` steps lie behind every figure; ``timed_clips`` were timed in one batch. ``removal`` is
    what the spec asks for; rows say what was done. ``criterion``: None for a method that ranks nothing."""

    method: str
    criterion: str | None
    axis: str
    branch: GuidanceBranch = GuidanceBranch.BOTH
    removal: Removal | None
    clips: int
    steps: int
    timed_clips: int | None
    higher_is_better: dict[str, bool]
    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]


def rows_of(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """One row a variant, in the order of the outcomes."""
    unpruned = Pace.unpruned([o.timing for o in outcomes if o.timing])
    for target, ratio in dict.fromkeys((o.target, o.ratio) for o in outcomes):
        yield _row([o for o in outcomes if (o.target, o.ratio) == (target, ratio)], unpruned)


def _row(mine: Sequence[Outcome], unpruned: Pace | None) -> Row:
    first = mine[0]
    before, predicted, counted = (
        statistics.fmean(getattr(o, name) for o in mine) for name in ("macs_before", "macs_predicted", "macs_counted")
    )
    timing = next((o.timing for o in mine if o.timing), None)
    timed = unpruned is not None and (timing is not None or first.target is None)
    speedup = Pace.speedup(timing) if timed else None
    return Row(
        target=first.target,
        removal=" + ".join(dict.fromkeys(str(removal) for o in mine for removal in o.removals)),
        ratio=first.ratio,
        pruned=statistics.fmean(len(o.pruned) for o in mine),
        units=first.units,
        macs_predicted=predicted,
        macs_counted=counted,
        macs_removed=1 - counted / before if before else 0.0,
        parameters=statistics.fmean(o.parameters for o in mine),
        damage=Figure.of(o.damage for o in mine),
        quality={
            metric: {name: Figure.of(o.quality[metric][name] for o in mine) for name in figures}
            for metric, figures in first.quality.items()
        },
        seconds=unpruned.over(speedup) if unpruned and speedup else None,
        speedup=speedup,
        predicted_speedup=before / predicted if predicted else float("inf"),
    )
