"""A `Bench`: the rows of a comparison under one seed, each run and measured once, however often that is interrupted."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from f3core import evaluate
from f3core.adapter import Model
from f3core.capture import Inputs
from f3core.compare_rows import Outcome, Pruning
from f3core.engine import prune
from f3core.environment import library_versions, machine
from f3core.errors import F3Error, PlanError
from f3core.footprint import Memory, model_size, peak_memory
from f3core.guidance import check_branch
from f3core.identity import calibration_identity
from f3core.job import Job
from f3core.measure import Listener
from f3core.measured_budget import meet
from f3core.metric import Metric, Reference
from f3core.plan import PruningPlan
from f3core.planning import chosen_removals, make_plan
from f3core.scores import Scores
from f3core.scoring import inputs_of, scored
from f3core.spec import UNPRUNED, Choice, CompareRow, CompareSpec
from f3core.tally import generation_macs
from f3core.trial import Trial
from f3core.workspace import written

if TYPE_CHECKING:
    import torch

    from f3core.accelerator import Accelerator

Entered = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a row's accelerators are at work."""


@dataclass(frozen=True)
class _Row:
    """What a row runs: a pipeline, the plan behind it, and the context of its accelerators."""

    name: str
    pipeline: Any
    plan: PruningPlan | None
    accelerators: tuple[str, ...]
    entered: Entered


class Bench:
    """All rows under one seed. What is finished lies in a folder of its own, named after what it was made with, so that
    nothing made with another model or other prompts, or timed on another machine, is taken up."""

    def __init__(self, job: Job, model: Model, seed: int, scratch: Path, listener: Listener, *, first: bool) -> None:
        assert job.file.spec.compare is not None
        assert job.file.spec.evaluate is not None
        self.job, self.model, self.seed, self.listener, self.first = job, model, seed, listener, first
        self.section: CompareSpec = job.file.spec.compare
        self.evaluate = job.file.spec.evaluate
        self.trial = Trial.of(job, model)
        calibrate = job.file.spec.calibrate
        prompts = [*job.prompts(calibrate.num_prompts, calibrate.seed), *self.trial.prompts]
        where = machine().model_dump(mode="json", exclude={"memory"})
        identity = {**calibration_identity(job, model, prompts), "machine": where}
        self.folder = scratch / f"seed-{seed}-{digest(identity)}"
        self.folder.mkdir(exist_ok=True)

    def run(self) -> dict[str, Any]:
        """Outcomes of the unpruned model and every row, as JSON, and what else of the comparison they tell."""
        for i, row in enumerate(self.section.rows):
            self._check(i, row)
        task, total = f"Seed {self.seed}: rows", 1 + len(self.section.rows)
        self.listener(task, 0, total)
        outcomes = []
        for place, told in enumerate((UNPRUNED, *self.section.rows)):
            file = self.folder / f"row-{digest(told)}.json"
            if not file.exists():
                outcome = self._outcome(self._row(place))
                with written(file) as unfinished:
                    unfinished.write_text(outcome.model_dump_json(), encoding="utf-8")
            outcomes.append(json.loads(file.read_text(encoding="utf-8")))
            self.listener(task, place + 1, total)
        return {
            "folder": self.folder.name,
            "machine": machine().model_dump(mode="json"),
            "versions": library_versions(),
            "clips": len(self.trial.prompts),
            "steps": self.trial.steps,
            "higher_is_better": {metric.name: metric.higher_is_better for metric in self.trial.metrics},
            "outcomes": outcomes,
        }

    # --- rows -----------------------------------------------------------------------------------------------------

    def _job(self, index: int) -> Job:
        """The job whose prune section is a row's."""
        return replace(self.job, file=self.job.file.of_row(index))

    def _check(self, index: int, row: CompareRow) -> None:
        """Refuses, before anything is run, what the model cannot lose or bear."""
        if row.prune is not None:
            job = self._job(index)
            chosen_removals(job, self.model.sites)
            check_branch(job, self.model.adapter, self.model.pipeline)
        try:
            entered = self._entered(row.accelerate, self.model.pipeline)
        except F3Error as error:
            raise self.job.file.error(("compare", "rows", index, "accelerate"), str(error)) from error
        with entered():
            pass

    def _row(self, place: int) -> _Row:
        if not place:
            return _Row(UNPRUNED, self.model.pipeline, None, (), self._entered((), self.model.pipeline))
        row = self.section.rows[place - 1]
        pipeline, plan = self.model.pipeline, None
        if row.prune is not None:
            job = self._job(place - 1)
            ranked = not self.job.registry.make("method", row.prune.method).removals
            try:
                plan = make_plan(job, self._scores(job, ranked))
                if plan.budget is not None and plan.budget.measured:
                    plan, _ = meet(job, self.model, plan, prune, self.listener)
            except PlanError as error:
                raise PlanError(f"row {row.name!r} of seed {self.seed}: {error}") from error
            pipeline = prune(self.model, plan)
        names = tuple(map(_in_words, row.accelerate))
        return _Row(row.name, pipeline, plan, names, self._entered(row.accelerate, pipeline))

    def _entered(self, chosen: Sequence[Choice], pipeline: Any) -> Entered:
        made = [self.job.registry.make("accelerator", choice.name, choice.options) for choice in chosen]
        return functools.partial(_accelerated, made, self.model, pipeline, self.trial.steps)

    @functools.cached_property
    def _inputs(self) -> Inputs:
        return inputs_of(self.job, self.model)

    def _scores(self, job: Job, ranked: bool) -> Scores:
        """Scores of a row: those of an earlier one that needs the same, or of an interrupted run, where there are."""
        if not ranked:
            return scored(job, self.model, self._inputs, self.listener)
        need = needed_scores(job)
        file = self.folder / f"scores-{need}.safetensors"
        if not file.exists():
            # prompts that were scored for one need serve every other of the same target
            found = scored(
                job, self.model, self._inputs, self.listener, folder=self.folder / job.file.spec.prune.target
            )
            with written(file) as unfinished:
                found.save(unfinished)
        return Scores.load(file)

    # --- measuring ------------------------------------------------------------------------------------------------

    def _outcome(self, row: _Row) -> Outcome:
        adapter, spec = self.model.adapter, self.job.file.spec
        with row.entered():
            clips = self._unpruned() if row.name == UNPRUNED else self._clips(row.name, row.pipeline)
            prompt = self.job.prompts(1, spec.calibrate.seed)[0]
            steps, seed = self.trial.steps, self.trial.seeds[0]
            macs = generation_macs(adapter, row.pipeline, prompt, steps=steps, seed=seed, call=self.model.call)
        reference = self._unpruned()
        foreseen = row.plan is not None and not row.accelerators and steps == spec.calibrate.steps
        return Outcome(
            seed=self.seed,
            name=row.name,
            pruning=_pruning(row.plan) if row.plan else None,
            accelerators=row.accelerators,
            macs=macs,
            predicted=row.plan.macs_share if row.plan and foreseen else None,
            parameters=model_size(adapter, row.pipeline),
            damage=evaluate.damage(reference, clips),
            quality=self.trial.quality(clips, self._telling_of(row)),
            timing=self._timing(row) if self.first and row.name != UNPRUNED else None,
            memory=self._memory(row) if self.first else None,
        )

    def _telling_of(self, row: _Row) -> list[Metric]:
        """The metrics that say something of a row: no clip is compared with itself."""
        return [m for m in self.trial.metrics if row.name != UNPRUNED or m.reference is not Reference.CLIP]

    def _clips(self, name: str, pipeline: Any) -> torch.Tensor:
        task, total = f"Seed {self.seed}: {name}", len(self.trial.prompts)
        self.listener(task, 0, total)
        return self.trial.clips(pipeline, lambda done, total: self.listener(task, done, total))

    def _unpruned(self) -> torch.Tensor:
        """The unpruned model's clips, which are kept as long as a row may want them."""
        file = self.folder / "unpruned.safetensors"
        if UNPRUNED not in self.trial.kept:
            if not file.exists():
                clips = self._clips(UNPRUNED, self.model.pipeline)
                with written(file) as unfinished:
                    save_file({"clips": clips.contiguous()}, unfinished)
            self.trial.kept[UNPRUNED] = load_file(file)["clips"]
        return self.trial.kept[UNPRUNED]

    def _timing(self, row: _Row) -> evaluate.PairedTiming | None:
        """Interleaved pairs of the unpruned model and the row; its accelerators work while it runs alone."""
        return self.trial.timing(
            row.pipeline, lambda done, total: self.listener(f"Timing {row.name}", done, total), during=row.entered
        )

    def _memory(self, row: _Row) -> Memory:
        def one() -> evaluate.Generation:
            return evaluate.generate(
                self.model.adapter,
                row.pipeline,
                self.trial.prompts[:1],
                steps=self.trial.steps,
                seeds=self.trial.seeds[:1],
                call=self.model.call,
                batch_size=1,
            )

        with row.entered():
            return peak_memory(one)[1]


@contextlib.contextmanager
def _accelerated(accelerators: Sequence[Accelerator], model: Model, pipeline: Any, steps: int) -> Iterator[None]:
    """Accelerators at work together, the first of them innermost."""
    denoisers = model.adapter.denoisers(pipeline)
    with ExitStack() as stack:
        for accelerator in accelerators:
            stack.enter_context(accelerator.enabled(pipeline, denoisers, steps=steps))
        yield


def needed_scores(job: Job) -> str:
    """A name for what a prune section needs to be known of the model; sections of one seed that need the same share it.

    What is tried out depends on how sites are pruned, what attention is watched for on the target alone.
    """
    prune = job.file.spec.prune
    if not job.registry.make("criterion", prune.criterion).needs_impact:
        return str(prune.target)
    return f"{prune.target}-impact-{prune.removal or 'usual'}-{prune.step_ranges or 'usual'}"


def _pruning(plan: PruningPlan) -> Pruning:
    return Pruning(
        method=plan.method,
        criterion=plan.criterion if plan.ranked else None,
        scope=plan.scope,
        axis=str(plan.axis),
        goal=plan.goal,
        pruned=tuple(unit.name for unit in plan.pruned),
        units=len(plan.units),
        removals=dict(Counter(plan.removals[site] for site in plan.gates())),
    )


def _in_words(choice: Choice) -> str:
    options = ", ".join(f"{name}: {value}" for name, value in choice.options.items())
    return f"{choice.name} ({options})" if options else choice.name


def digest(found: Any) -> str:
    """A short name for plain data or parts of a spec: the same for the same, another for another."""
    text = json.dumps(found, sort_keys=True, default=lambda part: part.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
