"""Plans and their MACs from a model's configs alone: no weights, no calibration, nothing the size of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from f3core.adapter import Adapter
from f3core.errors import ModelError, PlanError
from f3core.flops import costs
from f3core.job import Job
from f3core.measure import count_pruned
from f3core.meta import meta_copy
from f3core.method import Method
from f3core.plan import PruningPlan
from f3core.planning import make_plan, priced
from f3core.reducing import Reduction
from f3core.report import MacsChange
from f3core.scores import Scores
from f3core.surgery import Pruned, apply_plan_


def check_unpruned(source: str, denoisers: Mapping[str, nn.Module]) -> None:
    """Raises `ModelError` for a model that is pruned already: a plan starts from the whole one."""
    for name, denoiser in denoisers.items():
        if isinstance(denoiser, Pruned) and denoiser.f3_plan is not None and not denoiser.f3_plan.structural:
            raise ModelError(f"{source}: its {name} is pruned already; start from the unpruned model")


def sketch_plans(job: Job, adapter: Adapter, ratios: Sequence[float | None]) -> list[tuple[PruningPlan, MacsChange]]:
    """The plan of each ratio (None: of the spec's own ratio or budget) and the MACs of one clip before, predicted and
    counted.

    Raises `PlanError` where the spec's criterion ranks by scores, and `ModelError` where the adapter cannot do it, or
    the model is pruned already.
    """
    spec = job.file.spec
    method: Method = job.registry.make("method", spec.prune.method.name, spec.prune.method.options)
    criteria = job.registry.classes("criterion")
    if method.needs_scores and criteria[spec.prune.criterion.name].needs_scores:
        free = ", ".join(sorted(name for name, one in criteria.items() if not one.needs_scores))
        raise PlanError(
            f"criterion {spec.prune.criterion.name!r} ranks by scores: give --scores, or choose one that needs none "
            f"({free})"
        )
    sketch = adapter.sketch(job.source, steps=spec.calibrate.steps, call=job.call)
    check_unpruned(job.source, sketch.denoisers)
    sites = [
        site
        for name, denoiser in sketch.denoisers.items()
        for site in adapter.places(denoiser, name, spec.prune.target)
    ]
    found, prices = [], None
    for ratio in ratios:
        share = spec.prune.ratio if ratio is None else ratio
        if prices is None or method.removals:  # what a removal of a method's own costs depends on the ratio
            reduction = Reduction(method, 1 - (share or 0.0), spec.prune.seed) if method.removals else None
            prices = costs(adapter, sketch.denoisers, sketch.inputs, [spec.prune.target], reduction)
        unscored = Scores.unscored(
            sites,
            adapter=adapter.name,
            levels=sketch.levels,
            passes=sketch.rows,
            unconditional=sketch.unconditional,
            drift_target=spec.prune.target,
            identity={"priced": priced(spec.prune.method.name, share, spec.prune.seed)} if method.removals else {},
            costs=prices.model_dump(mode="json"),
        )
        plan = make_plan(job, unscored, ratio=ratio)
        pruned = {name: meta_copy(denoiser) for name, denoiser in sketch.denoisers.items()}
        for name, denoiser in pruned.items():
            apply_plan_(denoiser, plan, adapter, name)
        found.append((plan, count_pruned(adapter, pruned, plan, prices, sketch.inputs)[1]))
    return found
