"""`sweep`: one spec over pruning ratios and kinds of attention, each scored once a seed, then pruned and measured."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from f3core import curves, sweep_text
from f3core.adapter import Model
from f3core.block import Site
from f3core.costs import Costs
from f3core.engine import SPEC, command, prune, silent
from f3core.environment import library_versions, machine, now
from f3core.evaluate import damage
from f3core.footprint import model_size
from f3core.job import Job
from f3core.measure import Listener, count_change
from f3core.plan import PruningPlan
from f3core.planning import axis_of, make_plan
from f3core.scores import Scores
from f3core.scoring import inputs_of, scored
from f3core.seeds import changed, each_seed, seeded
from f3core.sites import Removal, Target
from f3core.spec import SpecFile, SweepSpec
from f3core.sweep_rows import Outcome, Sweep, rows_of
from f3core.trial import Trial
from f3core.workspace import workspace


def sweep(file: SpecFile, *, output: Path | None = None, resume: bool = False, listener: Listener = silent) -> Sweep:
    """Run the spec's sweep section on its model, prompts and metrics, and write sweep.json, sweep.md, curve.png and
    every seed's scores to the output folder.

    All variants of a seed meet the same prompts and noise. A removal that the spec names and a target cannot do falls
    back to that target's own. Finished seeds are kept, so that an interrupted sweep goes on with ``resume``. Raises
    `SpecError` when there is nothing to measure with, or a target that no site can lose.
    """
    if file.spec.evaluate is None:
        raise file.error(("evaluate",), "a sweep measures quality; it needs an evaluate section")
    section = file.spec.sweep or SweepSpec()
    targets = section.targets or (file.spec.prune.target,)
    if section.ratios is None and file.spec.prune.ratio is None:
        raise file.error(("prune", "budget"), "a sweep goes over ratios; give sweep.ratios, or --ratios")
    ratios = [ratio for ratio in section.ratios or (file.spec.prune.ratio,) if ratio]
    jobs = {seed: seeded(file, seed, output) for seed in section.seeds}
    first, method = jobs[section.seeds[0]], file.spec.prune.method.name
    ranks = first.registry.classes("method")[method].needs_scores
    if not ranks and not first.registry.classes("method")[method].removals:
        raise file.error(
            ("prune", "method"), f"method {method!r} says itself what goes, so there are no ratios to sweep"
        )
    identity = {"run": "sweep", "spec": file.spec.model_dump(mode="json", exclude={"output"})}
    with workspace(first.output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> dict[str, Any]:
            timed = seed == section.seeds[0]
            return _one_seed(job, model, seed, targets, ratios, work.scratch, listener, timed)

        parts = each_seed(jobs, work.scratch, listener, one)
        outcomes = tuple(Outcome.model_validate(found) for part in parts for found in part.pop("outcomes"))
        found = Sweep(
            date=now(),
            machine=machine(),
            versions=library_versions(),
            command=command("sweep", file),
            spec=file.name,
            source=file.spec.model.source,
            method=method,
            criterion=file.spec.prune.criterion.name if ranks else None,
            branch=file.spec.prune.branch,
            removal=file.spec.prune.removal,
            seeds=section.seeds,
            timed_clips=next((o.timing.clips for o in outcomes if o.timing), None),
            rows=tuple(rows_of(outcomes)),
            outcomes=outcomes,
            **parts[0],
        )
        for scores in sorted(work.scratch.glob("*.safetensors")):
            (work.folder / "scores").mkdir(exist_ok=True)
            shutil.copy(scores, work.folder / "scores" / scores.name)
        (work.folder / SPEC).write_text(file.text, encoding="utf-8")
        curves.draw(found, work.folder / "curve.png")
        (work.folder / "sweep.md").write_text(sweep_text.to_markdown(found), encoding="utf-8")
        (work.folder / "sweep.json").write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        work.finish()
    return found


def _one_seed(
    job: Job,
    model: Model,
    seed: int,
    targets: Sequence[Target],
    ratios: Sequence[float],
    scratch: Path,
    listener: Listener,
    timed: bool,
) -> dict[str, Any]:
    """Outcomes of one seed as JSON, with what of the sweep they are the first to know."""
    aimed = {target: _aimed(job, target, model.places(target)) for target in targets}
    trial, inputs = Trial.of(job, model), inputs_of(job, model)
    task, total = f"Seed {seed}: variants", 1 + len(targets) * len(ratios)
    listener(task, 0, total)
    reference = trial.unpruned()
    listener(task, 1, total)
    unpruned = trial.quality(reference)
    outcomes: list[Outcome] = []
    axis = str(axis_of(next(iter(aimed.values())), model.adapter.name))
    own = bool(job.registry.classes("method")[job.file.spec.prune.method.name].removals)
    for target, its_job in aimed.items():
        scores = _scored(its_job, model, inputs, scratch, f"seed-{seed}-{target}", listener)
        if not outcomes:
            before = Costs.model_validate(scores.header.costs).generation(scores.header.passes)
            size = model_size(model.adapter, model.pipeline)
            outcomes.append(_unpruned(seed, before, size, unpruned))
        for ratio in ratios:
            if own:  # what such a method costs depends on the ratio
                its_job = changed(its_job, f"prune.ratio={ratio}", "prune.budget=null")
                scores = _scored(its_job, model, inputs, scratch, f"seed-{seed}-{target}-{ratio}", listener)
            plan = make_plan(its_job, scores, ratio=ratio)
            pruned = prune(model, plan)
            with model.adapter.observable(pruned):
                macs = count_change(model, pruned, plan, scores, inputs)[1]
            clips = trial.clips(pruned)
            outcomes.append(
                Outcome(
                    seed=seed,
                    target=target,
                    ratio=ratio,
                    pruned=tuple(unit.name for unit in plan.pruned),
                    units=len(plan.units),
                    removals=_done(plan),
                    macs_before=macs.before.total,
                    macs_predicted=macs.predicted.total,
                    macs_counted=macs.counted.total,
                    parameters=model_size(model.adapter, pruned),
                    damage=damage(reference, clips),
                    quality=trial.quality(clips),
                    timing=trial.timing(pruned) if timed else None,
                )
            )
            listener(task, len(outcomes), total)
    return {
        "axis": axis,
        "clips": len(trial.prompts),
        "steps": trial.steps,
        "higher_is_better": {metric.name: metric.higher_is_better for metric in trial.metrics},
        "outcomes": [outcome.model_dump(mode="json") for outcome in outcomes],
    }


def _unpruned(seed: int, macs: int, parameters: int, quality: dict[str, dict[str, float]]) -> Outcome:
    return Outcome(
        seed=seed, macs_before=macs, macs_predicted=macs, macs_counted=macs, parameters=parameters, quality=quality
    )


def _aimed(job: Job, target: Target, sites: Sequence[Site]) -> Job:
    """The job with another target, and without the spec's removal where no site can lose the target that way."""
    able = [removals for site in sites if (removals := site.ways(target))]
    if not able:
        place = ("sweep", "targets", ((job.file.spec.sweep or SweepSpec()).targets or ()).index(target))
        raise job.file.error(place, f"no site of this model can lose {target}")
    asked = job.file.spec.prune.removal
    fallback = asked is not None and not any(asked in removals for removals in able)
    return changed(job, f"prune.target={target}", *(["prune.removal=null"] if fallback else []))


def _scored(job: Job, model: Model, inputs: Any, scratch: Path, name: str, listener: Listener) -> Scores:
    """Scores that outlive an interruption."""
    file = scratch / f"{name}.safetensors"
    scores = scored(job, model, inputs, listener, folder=scratch / f"scored-{name}")
    if scores.prompts or scores.impact is not None:
        scores.save(file)
    return scores


def _done(plan: PruningPlan) -> dict[Removal, int]:
    return dict(Counter(plan.removals[site] for site in plan.gates()))
