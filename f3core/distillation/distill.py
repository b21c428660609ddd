"""`distill`: spec → teacher → plan → student → training → measurement → report and trained model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from f3core.adapter import Model
from f3core.distillation import training_state
from f3core.distillation.choices import dataset_of, losses_of, section_of
from f3core.distillation.dataset import Dataset
from f3core.distillation.distill_report import Distillation
from f3core.distillation.latent_cache import Latents
from f3core.distillation.launch import Launch
from f3core.distillation.loss import Bench
from f3core.distillation.measuring import Yardstick, kept
from f3core.distillation.recipe import Conditions, Recipe
from f3core.distillation.run import Run
from f3core.distillation.student import make_student, only_denoiser
from f3core.distillation.trainer import Trained, train
from f3core.engine import as_file, load, prune, silent
from f3core.errors import ModelError
from f3core.identity import calibration_identity, digest
from f3core.job import Job, resolve
from f3core.measure import Listener
from f3core.measured_budget import meet
from f3core.plan import PruningPlan
from f3core.planning import make_plan
from f3core.registry import Registry, installed
from f3core.scoring import inputs_of, scored
from f3core.spec import Spec, SpecFile
from f3core.trial import metrics_of


@dataclass(frozen=True)
class Distilled:
    """What `distill` made. ``pipeline`` is the trained student's: ``pipeline(prompt, **call)``; ``folder`` holds
    everything."""

    report: Distillation
    plan: PruningPlan
    pipeline: Any
    call: Mapping[str, Any]
    folder: Path


def distill(
    spec: str | Path | Spec | SpecFile,
    *,
    pipeline: Any = None,
    output: str | Path | None = None,
    overrides: Iterable[str] = (),
    resume: bool = False,
    listener: Listener = silent,
    registry: Registry | None = None,
) -> Distilled:
    """Prune a model as a spec says, train what is left to do again what the whole model does, and write it, with
    everything that was measured, to the spec's output folder.

    Arguments are those of `f3core.engine.apply`. Under ``accelerate launch`` every process calls this alike; the main
    one writes, measures and is listened to, and all train. A run that was killed goes on with ``resume`` as if it had
    not been: what was scored, planned, measured and trained until its last checkpoint is kept beside the output.

    Raises `SpecError` before anything is loaded when the spec is wrong, `OutputError` when the output is in the way,
    and `ModelError` for models that cannot be trained or whose training comes to no finite loss.
    """
    file = as_file(spec, overrides)
    job = resolve(file, registry or installed(), output=output, given_model=pipeline is not None)
    section_of(job)
    losses, dataset = losses_of(job), dataset_of(job)
    metrics_of(job)
    launch = Launch.joined(job)
    listener = listener if launch.main else silent
    with launch.workspace(job.output, _identity(job), resume=resume) as work:
        model = load(job, pipeline, listener)
        only_denoiser(model)
        known = _model_identity(job, model)
        recipe = model.adapter.recipe(model.pipeline, model.call)
        latents = work.scratch / f"latents-{digest(known)}"
        batches = _encoded(job, dataset, recipe, launch, latents, listener)  # first, as that finds a broken clip
        plan = launch.by_main(lambda: _plan(job, model, work.scratch / f"plan-{digest(known)}.json", listener))
        student = make_student(model, plan)
        yardstick = Yardstick(job, model, work.scratch, {**known, "plan": plan.model_dump(mode="json")}, listener)
        run = Run(job, model, plan, student, losses, dataset, launch, work, yardstick)
        launch.by_main(lambda: yardstick.before(student.pipeline))
        trained = _train(run, recipe, batches, listener)
        report = launch.by_main(lambda: run.finish(trained))
    return Distilled(report, plan, student.pipeline, model.call, job.output)


def _identity(job: Job) -> dict[str, Any]:
    """What an interrupted run has to be of to be gone on with: all that its training hangs on, but for rates that may
    be lowered where a loss was not finite."""
    other: dict[str, Any] = {
        "output": True,
        "evaluate": True,
        "sweep": True,
        "compare": True,
        "distill": training_state.FREE,
    }
    return {"run": "distill", "spec": job.file.spec.model_dump(mode="json", exclude=other)}


def _model_identity(job: Job, model: Model) -> dict[str, Any]:
    spec = job.file.spec
    prompts = job.prompts(spec.calibrate.num_prompts, spec.calibrate.seed)
    return {**calibration_identity(job, model, prompts), "prune": spec.prune.model_dump(mode="json")}


def _plan(job: Job, model: Model, file: Path, listener: Listener) -> PruningPlan:
    """The plan that `apply` would carry out; kept."""

    def make() -> PruningPlan:
        scores = scored(job, model, inputs_of(job, model), listener, folder=file.parent)
        plan = make_plan(job, scores)
        if plan.budget is not None and plan.budget.measured:
            plan, _ = meet(job, model, plan, prune, listener)
        return plan

    return kept(file, PruningPlan, make)


def _encoded(job: Job, dataset: Dataset, recipe: Recipe, launch: Launch, folder: Path, listener: Listener) -> Latents:
    """The clips as latents, each encoded once, by all processes together, and kept in ``folder``."""
    section = section_of(job)
    batches = Latents(dataset, recipe, folder, section.keep_latents, section.batch_size)
    batches.prepare(
        lambda done, total: listener("Encoding clips", done, total), process=launch.index, processes=launch.count
    )
    launch.wait()
    return batches


def _train(run: Run, recipe: Recipe, batches: Latents, listener: Listener) -> Trained:
    """Train the student in place, or go on where an interrupted run stopped."""
    section, student = section_of(run.job), run.student
    bench = Bench(
        recipe=recipe,
        teacher=run.model.denoisers[student.component],
        student=student.denoiser,
        matched=student.matched,
        device=student.device,
        example=_example(recipe, batches, student.device),
    )
    run.training.mkdir(exist_ok=True)
    try:
        return train(bench, run.losses, batches, section, run.training, listener, run.sample)
    except ModelError as error:
        if not (run.training / training_state.FILE).exists():
            raise
        raise ModelError(
            f"{error}. The training stays in {run.work.folder}: the same command with --resume goes on from its last "
            "checkpoint; --set distill.optimiser.learning_rate=... lowers the rate"
        ) from error


@torch.no_grad()
def _example(recipe: Recipe, batches: Latents, device: torch.device) -> tuple[Tensor, Tensor, Conditions]:
    """One row as the denoisers take it: the first clip at a middling level."""
    latents = batches.latents([0]).to(device)
    levels = recipe.levels(torch.tensor([0.5], device=device))
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
    conditions = recipe.conditions(batches.captions([0]), batches.clips([0]))
    return recipe.noised(latents, noise, levels), levels, conditions
