"""The pipeline: spec → sites → scores → plan → surgery → measurement → report and pruned model."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from f3core import figures, report
from f3core.adapter import Adapter, Model
from f3core.block import Site
from f3core.budget import Tried
from f3core.errors import ModelError, OutputError, SpecError
from f3core.guidance import check_branch
from f3core.identity import check_scores
from f3core.job import CALL_FILE, Job, match_classes, resolve
from f3core.measure import Listener, measure
from f3core.measured_budget import meet
from f3core.meta import share_copy
from f3core.plan import PruningPlan
from f3core.planning import chosen_removals, make_plan, must_rank
from f3core.registry import Registry, installed
from f3core.report import MacsChange, Report
from f3core.scores import Scores
from f3core.scoring import completed, inputs_of, score, scored
from f3core.sites import Target
from f3core.sketch import check_unpruned, sketch_plans
from f3core.spec import Spec, SpecFile, load_spec, parse_spec
from f3core.surgery import apply_plan_
from f3core.trial import metrics_of
from f3core.workspace import workspace

SCORES, PLAN, SPEC = "scores.safetensors", "plan.json", "spec.yaml"


def silent(task: str, done: int, total: int) -> None:
    """The listener of those who want to hear nothing."""


@dataclass(frozen=True)
class Result:
    """What `apply` made. ``pipeline`` is the pruned one: ``pipeline(prompt, **call)``; ``folder`` holds everything."""

    report: Report
    plan: PruningPlan
    scores: Scores
    pipeline: Any
    call: Mapping[str, Any]
    folder: Path


def apply(
    spec: str | Path | Spec | SpecFile,
    *,
    pipeline: Any = None,
    output: str | Path | None = None,
    overrides: Iterable[str] = (),
    scores: Scores | None = None,
    resume: bool = False,
    listener: Listener = silent,
    registry: Registry | None = None,
) -> Result:
    """Prune a model as a spec says and write it, with everything that was measured, to the spec's output folder.

    ``pipeline``: one already loaded, instead of the spec's source; it is not altered. ``scores``: of an earlier run,
    instead of calibrating. ``overrides``: ``prune.ratio=0.3``-like. ``resume``: go on with an interrupted run.

    The report counts in MACs (multiply-adds), seconds and bytes; ``scores.mass(kind)`` is [sites, steps] attention
    mass; clips are [B, F, 3, H, W] in [0, 1].

    Raises `SpecError` before anything is loaded when the spec is wrong, `OutputError` when the output is in the way,
    `PlanError` for a budget that cannot be met (what was scored is kept, for ``resume`` with another), and other
    `F3Error` where a model does not do what its adapter says.
    """
    file = as_file(spec, overrides)
    job = resolve(file, registry or installed(), output=output, given_model=pipeline is not None)
    metrics_of(job)  # one that does not take its options is refused before anything is scored
    with workspace(job.output, {"run": "apply"}, resume=resume) as work:
        model = load(job, pipeline, listener)
        inputs = inputs_of(job, model)
        if scores is not None:
            check_scores(job, model, scores)
            scores = completed(job, model, scores, listener, folder=work.scratch)
        else:
            scores = scored(job, model, inputs, listener, folder=work.scratch)
        plan, tried = make_plan(job, scores), tuple[Tried, ...]()
        if plan.budget is not None and plan.budget.measured:
            plan, tried = meet(job, model, plan, prune, listener)
        pruned = prune(model, plan)
        model.adapter.save(pruned, work.folder / "model")
        carry_call(model, work.folder / "model")
        if scores.prompts or scores.impact is not None:
            scores.save(work.folder / SCORES)
        plan.save(work.folder / PLAN)
        (work.folder / SPEC).write_text(file.text, encoding="utf-8")
        measured = measure(job, model, pruned, plan, scores, inputs, work.folder, listener)
        finished = _report(job, plan, tried, scores, measured, work.folder)
        report.save(finished, work.folder)
        work.finish()
    return Result(finished, plan, scores, pruned, model.call, job.output)


def plan_only(
    file: SpecFile, *, pipeline: Any = None, scores: Scores | None = None, listener: Listener = silent
) -> PruningPlan:
    """The plan that `apply` would carry out, or start from where a budget has to be measured; nothing is written."""
    job = resolve(file, installed(), given_model=pipeline is not None, check_output=False)
    if scores is None:
        model = load(job, pipeline, listener)
        scores = scored(job, model, inputs_of(job, model), listener)
    return make_plan(job, scores)


def plan_without_weights(
    file: SpecFile, ratios: Sequence[float | None] = (None,)
) -> list[tuple[PruningPlan, MacsChange]]:
    """Plans for the spec's ratio or budget, or at several ratios, and their MACs of one clip, from configs alone."""
    job = resolve(file, installed(), check_output=False)
    return sketch_plans(job, adapter_for_source(job), ratios)


def score_only(
    file: SpecFile,
    *,
    scores: Scores | None = None,
    output: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    resume: bool = False,
    listener: Listener = silent,
) -> tuple[Path, Scores]:
    """Score a model (or one shard of the prompts) and save the scores to ``output``, a file; returns both.

    What removals do is tried out when all prompts are scored, not by shards: give merged ``scores`` for that. Left
    out, the file lies beside the spec's output folder. Raises `OutputError` when it is there already.
    """
    job = resolve(file, installed(), check_output=False)
    must_rank(job)
    part = "" if shard[1] == 1 else f"-{shard[0]}-of-{shard[1]}"
    path = output or job.output.with_name(f"{job.output.name}.scores{part}.safetensors")
    if path.exists():
        raise OutputError(f"{path} is there already and is not overwritten; give another --output, or remove it")
    spec = job.file.spec.calibrate
    batches = -(-spec.num_prompts // spec.batch_size)
    if shard[0] >= batches:
        raise SpecError(f"--shard {shard[0]}/{shard[1]}: there are only {batches} batches of prompts to share")
    with workspace(path, {"run": "score", "shard": shard}, resume=resume) as work:
        model = load(job, listener=listener)
        if scores is not None:
            check_scores(job, model, scores)
            scores = completed(job, model, scores, listener, folder=work.scratch)
        elif shard[1] == 1:
            scores = scored(job, model, inputs_of(job, model), listener, folder=work.scratch)
        else:
            folder = work.scratch / "calibration"
            scores = score(job, model, inputs_of(job, model), listener, folder=folder, shard=shard)
        scores.save(work.folder / SCORES)
        os.replace(work.folder / SCORES, path)
        shutil.rmtree(work.folder)
    return path, scores


def as_file(spec: str | Path | Spec | SpecFile, overrides: Iterable[str] = ()) -> SpecFile:
    """A spec in any form as a `SpecFile`. Raises `SpecError`."""
    overrides = tuple(overrides)
    if isinstance(spec, SpecFile):
        return parse_spec(spec.text, spec.name, (*spec.overrides, *overrides)) if overrides else spec
    if isinstance(spec, Spec):
        text = json.dumps(spec.model_dump(mode="json"), indent=2)  # JSON is YAML
        return parse_spec(text, "<Spec>", overrides)
    return load_spec(spec, overrides)


def command(name: str, file: SpecFile) -> str:
    """What repeats a run of this spec, as it is typed."""
    return " ".join([f"f3core {name}", file.name, *(f"--set {shlex.quote(o)}" for o in file.overrides)])


def load(job: Job, pipeline: Any = None, listener: Listener = silent) -> Model:
    """Load the job's model, or take the given pipeline, and find its sites."""
    spec = job.file.spec.model
    listener("Loading the model", 0, 1)
    if pipeline is None:
        adapter = adapter_for_source(job)
        device = spec.device if spec.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise job.file.error(("model", "device"), f"{device} is asked for, but torch sees no CUDA device")
        dtype = getattr(torch, spec.dtype) if spec.dtype else None
        pipeline = adapter.load(job.source, dtype=dtype, device=torch.device(device))
    else:
        adapter = _adapter_for_pipeline(job, pipeline)
    denoisers = adapter.denoisers(pipeline)
    if not denoisers:
        raise ModelError(f"{job.source}: adapter {adapter.name!r} finds no denoiser in {type(pipeline).__name__}")
    check_unpruned(job.source, denoisers)
    for name, denoiser in denoisers.items():
        hooked = adapter.hooked(denoiser)
        if hooked:
            raise ModelError(f"{name} is under {hooked}: undo it, prune, then enable it on the pruned pipeline")
        denoiser.eval()
    sites = tuple(site for name, denoiser in denoisers.items() for site in adapter.sites(denoiser, name))
    model = Model(adapter, pipeline, denoisers, sites, job.call)
    chosen_removals(job, model.places(job.file.spec.prune.target))
    check_branch(job, adapter, pipeline)
    listener("Loading the model", 1, 1)
    return model


def sites_of(job: Job, target: Target | None = None) -> tuple[Site, ...]:
    """Every attention site of the job's model, or every block where the spec's target (or ``target``) is blocks;
    without its weights where the adapter can do that."""
    adapter, target = adapter_for_source(job), target or job.file.spec.prune.target
    denoisers = adapter.skeletons(job.source)
    return tuple(site for name, denoiser in denoisers.items() for site in adapter.places(denoiser, name, target))


def prune(model: Model, plan: PruningPlan) -> Any:
    """A pruned pipeline that shares every remaining weight with the model's, which stays as it is."""
    pruned = {name: share_copy(denoiser) for name, denoiser in model.denoisers.items()}
    for name, denoiser in pruned.items():
        apply_plan_(denoiser, plan, model.adapter, name)
    return model.adapter.with_denoisers(model.pipeline, pruned)


# --- helpers --------------------------------------------------------------------------------------------------------


def adapter_for_source(job: Job) -> Adapter:
    if job.adapter is not None:
        adapter: Adapter = job.registry.make("adapter", job.adapter.name)
        return adapter
    classes = job.registry.denoiser_classes(job.source)
    if not classes:
        raise ModelError(f"{job.source}: no plugin knows this model; is the id right, and the hub reachable?")
    found: Adapter = job.registry.make("adapter", match_classes(job.registry, classes).name)
    return found


def _adapter_for_pipeline(job: Job, pipeline: Any) -> Adapter:
    if job.adapter is not None:
        adapter: Adapter = job.registry.make("adapter", job.adapter.name)
        return adapter
    parts = getattr(pipeline, "components", None) or getattr(pipeline, "__dict__", {})
    known = {c for r in job.registry.registered("adapter") for c in r.entry.model_classes}
    known |= job.registry.unsupported().keys()
    for part in parts.values():
        names = [cls.__name__ for cls in type(part).__mro__]
        if known & set(names):
            found: Adapter = job.registry.make("adapter", job.registry.match_adapter(names).name)
            return found
    raise ModelError(f"no component of {type(pipeline).__name__} is a model that an adapter matches; set model.adapter")


def carry_call(model: Model, folder: Path) -> None:
    """A pruned folder generates with the same arguments by default."""
    if model.call:
        text = json.dumps({"call": dict(model.call)}, indent=2, default=str) + "\n"
        (folder / CALL_FILE).write_text(text, encoding="utf-8")


def _report(
    job: Job, plan: PruningPlan, tried: tuple[Tried, ...], scores: Scores, measured: Mapping[str, Any], folder: Path
) -> Report:
    figure = folder / "attention.png"
    if scores.prompts:
        figures.attention_bars(scores, plan, figure)
    return Report(
        date=report.now(),
        versions=report.library_versions(),
        machine=report.machine(),
        command=command("apply", job.file),
        spec=job.file.name,
        source=job.file.spec.model.source,
        plan=report.PlanSummary.of(plan),
        tried=tried,
        figure=figure.name if scores.prompts else None,
        **measured,
    )
