"""What a job's distill section names, made; and what can be refused before a model is loaded."""

from __future__ import annotations

import math

from f3core.distillation.dataset import Dataset
from f3core.distillation.loss import Loss
from f3core.errors import F3Error
from f3core.job import Job
from f3core.sites import AttentionKind, GuidanceBranch, PruningAxis
from f3core.spec_distill import DistillSpec


def section_of(job: Job) -> DistillSpec:
    """The distill section. Raises `SpecError` where there is none, or where the job prunes forwards unlike one another:
    a batch of training mixes rows of all."""
    prune, section = job.file.spec.prune, job.file.spec.distill
    if section is None:
        raise job.file.error(("distill",), "training needs a distill section, with data")
    if prune.branch is not GuidanceBranch.BOTH:
        raise job.file.error(("prune", "branch"), "a batch of training mixes the branches; distil with branch: both")
    own = job.adapter.default_axis if job.adapter is not None and isinstance(prune.target, AttentionKind) else None
    axis = prune.axis or own
    if axis not in (None, PruningAxis.LAYER) and not job.registry.classes("method")[prune.method.name].removals:
        message = f"a batch of training mixes rows of all steps, and axis {axis} prunes some; distil with axis: layer"
        raise job.file.error(("prune", "axis"), message)
    return section


def losses_of(job: Job) -> list[Loss]:
    """The losses that a job asks for. Raises `SpecError` for one that does not take its options, and for a weight that
    is no number, or below zero."""
    made = list[Loss]()
    for i, loss in enumerate(job.file.spec.distill.losses if job.file.spec.distill else ()):
        try:
            made.append(job.registry.make("loss", loss.name, loss.options))
        except F3Error as error:
            raise job.file.error(("distill", "losses", i), str(error)) from error
        weight: object = made[-1].weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            message = f"the weight of loss {loss.name!r} must be a finite number, 0 or more, not {weight!r}"
            raise job.file.error(("distill", "losses", i), message)
    return made


def dataset_of(job: Job) -> Dataset:
    """The data set that a job asks for, which must have a distill section. Raises `SpecError` for one that does not
    take its options or has no clip."""
    section = section_of(job)
    try:
        found: Dataset = job.registry.make("data set", section.data.name, section.data.options)
    except F3Error as error:
        raise job.file.error(("distill", "data"), str(error)) from error
    if not len(found):
        raise job.file.error(("distill", "data"), f"data set {section.data.name!r} has no clip to train on")
    return found
