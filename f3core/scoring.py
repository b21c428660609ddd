"""Scores of a job's model: calibration on the spec's prompts, and what removals do, where a criterion asks for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from f3core.ablation import ablate
from f3core.adapter import Model
from f3core.calibration import calibrate
from f3core.capture import Inputs, capture_inputs, watch_forwards
from f3core.evaluate import noise_seeds
from f3core.flops import costs
from f3core.identity import calibration_identity
from f3core.job import Job
from f3core.measure import Listener
from f3core.planning import chosen_removals, priced
from f3core.reducing import Reduction
from f3core.scores import Scores
from f3core.sites import AttentionKind, Structure
from f3core.step_ranges import choose_ranges, usual_count

TRIED = 2
"""Removals are tried out on one in so many of the calibration prompts, where the spec does not say on how many. Not on
fewer: what a whole range does to the clips lies mostly in a few of them."""
SENSED = 8
"""Sites are tried one by one on one in so many of these: a prediction moves alike whatever the prompt."""


def inputs_of(job: Job, model: Model) -> Inputs:
    """Arguments of one forward of each denoiser, as the spec makes it generate."""
    prompt = job.prompts(1, job.file.spec.calibrate.seed)[0]
    return capture_inputs(model.adapter, model.pipeline, prompt, model.call)


def score(
    job: Job,
    model: Model,
    inputs: Inputs,
    listener: Listener,
    *,
    folder: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    clips: dict[int, Tensor] | None = None,
) -> Scores:
    """Calibrate on the spec's prompts; ``folder`` keeps finished prompts for a resumed run. Into ``clips`` go those of
    the prompts on which removals are tried out, by place, as far as they are made now."""
    spec = job.file.spec.calibrate
    target = job.file.spec.prune.target
    if not isinstance(target, AttentionKind):
        raise job.file.error(("prune", "target"), f"a {target} has no attention of its own to watch prompt by prompt")
    listener("Counting MACs", 0, 1)
    with model.adapter.observable(model.pipeline):
        found = costs(model.adapter, model.denoisers, inputs)
    listener("Counting MACs", 1, 1)
    prompts = job.prompts(spec.num_prompts, spec.seed)
    listener("Scoring prompts", 0, -(-len(prompts) // shard[1]))

    def keep(place: int, clip: Tensor) -> None:
        if clips is not None and place < _tried(job):
            clips[place] = clip.float().cpu()

    return calibrate(
        model.adapter,
        model.pipeline,
        prompts,
        steps=spec.steps,
        seed=noise_seeds(spec.seed, 1)[0],
        call=model.call,
        target=target,
        stride=spec.query_stride,
        batch_size=together(job, model),
        identity=calibration_identity(job, model, prompts),
        costs=found,
        folder=folder,
        shard=shard,
        progress=lambda done, total: listener("Scoring prompts", done, total),
        clip_made=keep,
    )


def scored(
    job: Job,
    model: Model,
    inputs: Inputs,
    listener: Listener,
    *,
    criteria: Iterable[str] = (),
    folder: Path | None = None,
) -> Scores:
    """All that one of ``criteria`` ranks by, or the spec's own; ``folder`` keeps what is finished for a resumed run.

    Scores without a prompt where the spec's method ranks nothing.
    """
    spec = job.file.spec.prune
    if not criteria and not job.registry.classes("method")[spec.method.name].needs_scores:
        return _unscored(job, model, inputs, listener)
    if spec.target is Structure.BLOCK:
        unscored = _unscored(job, model, inputs, listener)
        return completed(job, model, unscored, listener, criteria=criteria, folder=folder)
    clips: dict[int, Tensor] | None = {} if _needs_impact(job, criteria) else None
    within = folder / "calibration" if folder else None
    scores = score(job, model, inputs, listener, folder=within, clips=clips)
    return completed(job, model, scores, listener, criteria=criteria, folder=folder, clips=clips)


def _unscored(job: Job, model: Model, inputs: Inputs, listener: Listener) -> Scores:
    """No more than what a generation is made of, and what its forwards cost."""
    spec, adapter = job.file.spec, model.adapter
    method = job.registry.make("method", spec.prune.method.name, spec.prune.method.options)
    listener("Counting MACs", 0, 1)
    reduction = Reduction(method, 1 - (spec.prune.ratio or 0.0), spec.prune.seed) if method.removals else None
    identity = {"priced": priced(spec.prune.method.name, spec.prune.ratio, spec.prune.seed)}
    if reduction is None:
        identity = calibration_identity(job, model, job.prompts(spec.calibrate.num_prompts, spec.calibrate.seed))
    with adapter.observable(model.pipeline), torch.no_grad():
        found = costs(adapter, model.denoisers, inputs, [spec.prune.target], reduction)
        with watch_forwards(adapter, model.denoisers) as seen:
            prompt, seeds = job.prompts(1, spec.calibrate.seed), noise_seeds(spec.calibrate.seed, 1)
            adapter.generate(model.pipeline, prompt, steps=spec.calibrate.steps, seeds=seeds, call=model.call)
    listener("Counting MACs", 1, 1)
    levels = sorted({level for each in seen.values() for level in each.levels}, reverse=True)
    return Scores.unscored(
        model.places(spec.prune.target),
        adapter=adapter.name,
        levels=tuple(levels),
        passes={name: each.rows(levels) for name, each in seen.items()},
        drift_target=spec.prune.target,
        identity=identity,
        costs=found.model_dump(mode="json"),
    )


def completed(
    job: Job,
    model: Model,
    scores: Scores,
    listener: Listener,
    *,
    criteria: Iterable[str] = (),
    folder: Path | None = None,
    clips: Mapping[int, Tensor] | None = None,
) -> Scores:
    """The scores with the impact of the spec's removals, if one of ``criteria`` (the spec's own when none is given)
    ranks by it and they lack it.

    It is measured on the first of the calibration prompts, from the same noise; ``clips`` are what scoring made of
    them, where it is known. ``folder`` keeps finished generations.
    """
    if not _needs_impact(job, criteria):
        return scores
    spec, header = job.file.spec, scores.header
    target, places = spec.prune.target, model.places(spec.prune.target)
    removals = chosen_removals(job, places)
    gated = all(removals[site.fqn] in site.gated(target) for site in places if site.fqn in removals)
    count = usual_count(spec.prune.step_ranges, len(header.levels)) if gated else 1
    if count > len(header.levels):
        message = f"a generation of {len(header.levels)} steps has no {count} step ranges; ask for as many or fewer"
        raise job.file.error(("prune", "step_ranges"), message)
    ranges, number, known = choose_ranges(scores, count), _tried(job), clips or {}
    if scores.impact is not None and scores.impact.fits(target, removals, ranges, number):
        return scores
    seed = noise_seeds(spec.calibrate.seed, 1)[0]
    listener("Trying removals", 0, 2 + len(ranges))
    impact = ablate(
        model.adapter,
        model.pipeline,
        job.prompts(spec.calibrate.num_prompts, spec.calibrate.seed)[:number],
        steps=spec.calibrate.steps,
        seeds=[seed + i for i in range(number)],
        call=model.call,
        target=target,
        removals=removals,
        ranges=ranges,
        levels={
            name: [level for level, *rows in zip(header.levels, *kinds.values(), strict=True) if any(rows)]
            for name, kinds in header.passes.items()
        },
        batch_size=together(job, model),
        sensed=max(1, number // SENSED),
        clips=torch.stack([known[i] for i in range(number)]) if all(i in known for i in range(number)) else None,
        folder=folder / f"impact-{_digest(header.identity, target, removals, ranges, number)}" if folder else None,
        progress=lambda done, total: listener("Trying removals", done, total),
    )
    return replace(scores, impact=impact)


def _needs_impact(job: Job, criteria: Iterable[str]) -> bool:
    asked, every = tuple(criteria) or (job.file.spec.prune.criterion.name,), job.registry.classes("criterion")
    return any(every[name].needs_impact for name in asked)


def _digest(*parts: Any) -> str:
    """Other for another impact, so that a resumed run of another spec does not read what was kept."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _tried(job: Job) -> int:
    """On how many of the calibration prompts removals are tried out."""
    spec = job.file.spec.calibrate
    return min(spec.num_prompts, spec.impact_prompts or max(1, spec.num_prompts // TRIED))


def together(job: Job, model: Model) -> int:
    """How many prompts are scored at once: as many as the spec says, or one where the pipeline takes no more."""
    return 1 if model.adapter.one_by_one(model.pipeline) else job.file.spec.calibrate.batch_size
