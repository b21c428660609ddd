"""`importance`: take every place away alone, at every step, and measure how much worse the model gets without it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from f3core import evaluate, importance_text
from f3core.adapter import Model
from f3core.block import Block
from f3core.costs import Costs
from f3core.engine import SPEC, as_file, command, prune, silent
from f3core.environment import library_versions, machine, now
from f3core.errors import ScoresError, SpecError, suggest
from f3core.importance_places import Place, alone, places_of
from f3core.importance_rows import FILE, Importance, places_of_seeds
from f3core.job import Job
from f3core.measure import Listener
from f3core.method import Criterion, PlanRequest
from f3core.plan import PruningPlan
from f3core.planning import able_criteria, chosen_removals
from f3core.scoring import inputs_of, scored
from f3core.seeds import each_seed, seeded
from f3core.sites import GuidanceBranch, PruningAxis
from f3core.spec import Choice, SpecFile, SweepSpec
from f3core.trial import Trial, metrics_of
from f3core.workspace import workspace, written


def importance(
    file: SpecFile,
    *,
    criteria: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    listener: Listener = silent,
) -> Importance:
    """Measure the importance of every place where the spec's target can go, and write importance.json, .md, .csv and
    .png to the output folder.

    A place is one site, or a block with all that it needs to go. Per seed of the spec's sweep section: what each of
    ``criteria`` (all that can score the target, when none is given) makes of the places; then every place is pruned
    alone, at every step, and meets the same prompts and noise as the unpruned model: figures of every metric, damage,
    and under the first seed denoiser seconds in interleaved pairs. Every finished measurement is kept, so that an
    interrupted study goes on with ``resume``. Raises `SpecError` for specs and options that make no sense, before
    anything is loaded, and `ScoresError` for a criterion that is asked for and cannot score the target.
    """
    if file.spec.evaluate is None:
        raise file.error(("evaluate",), "importance is measured; it needs an evaluate section")
    seeds = (file.spec.sweep or SweepSpec()).seeds
    first = seeded(file, seeds[0], output)
    _check(first)
    own, names = file.spec.prune.criterion, _criteria(first, criteria)
    chosen = [own if own.name == name else Choice(name=name) for name in names]
    study = as_file(file, [f"prune.criterion={names[0]}"])  # the spec's own takes no part
    jobs = {seed: seeded(study, seed, output) for seed in seeds}
    identity = {
        "run": "importance",
        "criteria": list(criteria),
        "spec": file.spec.model_dump(mode="json", exclude={"output"}),
    }
    with workspace(first.output, identity, resume=resume) as work:

        def one(job: Job, model: Model, seed: int) -> dict[str, Any]:
            folder = work.scratch / f"of-seed-{seed}"
            return _Seed(job, model, folder, listener, seed, seed == seeds[0]).measured(chosen, bool(criteria))

        parts = each_seed(jobs, work.scratch, listener, one)
        found = _joined(file, criteria, seeds, parts)
        (work.folder / SPEC).write_text(file.text, encoding="utf-8")
        (work.folder / FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (work.folder / "importance.md").write_text(importance_text.to_markdown(found), encoding="utf-8")
        (work.folder / "importance.csv").write_text(importance_text.to_csv(found), encoding="utf-8")
        from f3core.importance_figure import draw

        draw(found, work.folder / "importance.png")
        work.finish()
    return found


def _check(job: Job) -> None:
    """Raises `SpecError` for a spec whose importance cannot be measured."""
    file, prune = job.file, job.file.spec.prune
    if file.spec.evaluate is None or not file.spec.evaluate.metrics:
        message = "importance is how much worse figures get; name at least one metric"
        raise file.error(("evaluate", "metrics"), message)
    metrics_of(job)
    if prune.axis not in (None, PruningAxis.LAYER):
        raise file.error(("prune", "axis"), "places are taken away at every step; set prune.axis to layer")
    if prune.branch is not GuidanceBranch.BOTH:
        raise file.error(
            ("prune", "branch"), "places are taken away in both branches of guidance; leave the branch out"
        )
    if job.registry.classes("method")[prune.method.name].removals:
        message = f"method {prune.method.name!r} takes nothing away; importance is of what goes: leave the method out"
        raise file.error(("prune", "method"), message)


def _criteria(job: Job, asked: Sequence[str]) -> list[str]:
    """Names of the criteria to set beside what is measured: those asked for, or all that measure something which holds
    for the target."""
    every, target, able = job.registry.classes("criterion"), job.file.spec.prune.target, able_criteria(job)
    for name in asked:
        if name not in job.registry.names("criterion"):
            raise SpecError(f"--criteria {name}: {suggest(name, job.registry.names('criterion'))}")
        if name not in able:
            raise SpecError(f"--criteria {name}: it scores attention, not whole blocks; {suggest(name, able)}")
    chosen = list(dict.fromkeys(asked)) or [n for n in able if every[n].needs_scores or every[n].needs_impact]
    if not chosen:
        raise SpecError(f"no criterion that measures anything can score {target}; name one with --criteria")
    return chosen


@dataclass
class _Seed:
    """The study under one seed. ``folder`` keeps what is finished."""

    job: Job
    model: Model
    folder: Path
    listener: Listener
    seed: int
    timed: bool
    trial: Trial = field(init=False)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    """by name of a place, what was measured without it"""

    def __post_init__(self) -> None:
        self.trial = Trial.of(self.job, self.model)
        if self._outcomes.exists():
            self.found = json.loads(self._outcomes.read_text(encoding="utf-8"))

    @property
    def _outcomes(self) -> Path:
        return self.folder / "outcomes.json"

    @cached_property
    def reference(self) -> torch.Tensor:
        """Clips of the unpruned model, made once even over interruptions."""
        file = self.folder / "unpruned.safetensors"
        if file.exists():
            self.trial.kept["unpruned"] = load_file(file)["clips"]
        else:
            with written(file) as unfinished:
                save_file({"clips": self.trial.unpruned()}, unfinished)
        return self.trial.unpruned()

    def measured(self, criteria: Sequence[Choice], strict: bool) -> dict[str, Any]:
        """Everything, as JSON values. ``strict``: a criterion that cannot score the target is an error."""
        job, model = self.job, self.model
        target, sites = job.file.spec.prune.target, model.places(job.file.spec.prune.target)
        removals = chosen_removals(job, sites)
        places, staying = places_of(sites, target, removals.keys())
        if not places:
            name, why = next(iter(staying.items()))
            raise job.file.error(("prune", "target"), f"no {target} of this model can go alone: of {name}, {why}")
        names = [criterion.name for criterion in criteria]
        scores = scored(job, model, inputs_of(job, model), self.listener, criteria=names, folder=self.folder)
        request = PlanRequest(
            adapter=model.adapter.name,
            sites=sites,
            scores=scores,
            costs=Costs.model_validate(scores.header.costs),
            target=target,
            axis=PruningAxis.LAYER,
            removals=removals,
            criterion=_made(job, criteria[0]),
            ratio=0.0,
            seed=job.file.spec.prune.seed,
        )
        proxies, unable = _proxies(job, request, places, criteria, strict)
        candidates = alone(request, places)
        task = f"Seed {self.seed}: places"
        self.listener(task, 0, 1 + len(places))
        unpruned = self._figures(self.reference)
        for i, place in enumerate(places):
            self.listener(task, 1 + i, 1 + len(places))
            self._without(place, candidates.plan(job.file.spec.prune.method.name, [0.0] * len(places), {i}))
        self.listener(task, 1 + len(places), 1 + len(places))
        return {
            "adapter": model.adapter.name,
            "target": str(target),
            "clips": len(self.trial.prompts),
            "steps": self.trial.steps,
            "higher_is_better": {metric.name: metric.higher_is_better for metric in self.trial.metrics},
            "unpruned": unpruned,
            "macs": candidates.macs_before,
            "parameters": sum(request.costs.parameters.values()),
            "unable": unable,
            "staying": staying,
            "places": [
                _known(request, place, saved) | {"proxies": scored_so} | self.found[place.name]
                for place, saved, scored_so in zip(places, candidates.savings, proxies, strict=True)
            ],
        }

    def _figures(self, clips: torch.Tensor) -> dict[str, float]:
        """Figures of every metric, all in one; one that does not bear its metric's name is told by it."""
        made = self.trial.quality(clips)
        return {k if k == metric else f"{metric}.{k}": v for metric, group in made.items() for k, v in group.items()}

    def _without(self, place: Place, plan: PruningPlan) -> None:
        """Measure the model without a place, unless that was done before."""
        if place.name in self.found:
            return
        pruned = prune(self.model, plan)
        clips = self.trial.clips(pruned)
        timing = self.trial.timing(pruned) if self.timed else None
        self.found[place.name] = {
            "figures": self._figures(clips),
            "damage": evaluate.damage(self.reference, clips),
            "timing": timing.model_dump(mode="json") if timing else None,
        }
        with written(self._outcomes) as file:
            file.write_text(json.dumps(self.found), encoding="utf-8")


def _made(job: Job, criterion: Choice) -> Criterion:
    made: Criterion = job.registry.make("criterion", criterion.name, criterion.options)
    return made


def _proxies(
    job: Job, request: PlanRequest, places: Sequence[Place], criteria: Sequence[Choice], strict: bool
) -> tuple[list[dict[str, float]], dict[str, str]]:
    """What each criterion scores each place, and why some cannot."""
    by_criterion, unable = dict[str, list[float]](), dict[str, str]()
    for criterion in criteria:
        asked = replace(request, criterion=_made(job, criterion))
        try:
            by_criterion[criterion.name] = alone(asked, places).scored()
        except ScoresError as error:
            if strict:
                raise
            unable[criterion.name] = str(error)
    return [{name: values[i] for name, values in by_criterion.items()} for i in range(len(places))], unable


def _known(request: PlanRequest, place: Place, macs: int) -> dict[str, Any]:
    """What is known of a place without running anything."""
    head, removals = place.head, request.removals
    where = {"stage": str(head.stage), "level": head.level, "number": head.number} if isinstance(head, Block) else {}
    return where | {
        "name": place.name,
        "sites": list(place.sites),
        "removal": [str(removal) for removal in dict.fromkeys(removals[site] for site in place.sites)],
        "index": head.index,
        "macs_saved": macs,
        "parameters_saved": sum(
            request.costs.parameters_saved(site, request.target, removals[site]) for site in place.sites
        ),
    }


def _joined(
    file: SpecFile, criteria: Sequence[str], seeds: Sequence[int], parts: Sequence[Mapping[str, Any]]
) -> Importance:
    """One study of all seeds."""
    first, (places, seconds) = parts[0], places_of_seeds(parts)
    given = f" --criteria {','.join(criteria)}" if criteria else ""
    return Importance(
        date=now(),
        machine=machine(),
        versions=library_versions(),
        command=f"{command('importance', file)}{given}",
        spec=file.name,
        source=file.spec.model.source,
        seeds=tuple(seeds),
        adapter=first["adapter"],
        target=first["target"],
        clips=first["clips"],
        steps=first["steps"],
        calibrated=file.spec.calibrate.steps,
        higher_is_better=first["higher_is_better"],
        unpruned=tuple(part["unpruned"] for part in parts),
        macs=first["macs"],
        parameters=first["parameters"],
        seconds=seconds,
        criteria=tuple(places[0].proxies),
        unable=first["unable"],
        places=places,
        staying=first["staying"],
    )
