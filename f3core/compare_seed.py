"""A `Bench`: the rows of a comparison under one seed, each run and measured once, however often that is interrupted."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from f3core import evaluate
from f3core.adapter import Model
from f3core.capture import Inputs
from f3core.compare_models import RowModels, Weights
from f3core.compare_rows import Outcome, Pruning
from f3core.engine import prune
from f3core.environment import library_versions, machine
from f3core.errors import F3Error, PlanError
from f3core.footprint import Memory, model_size, peak_memory
from f3core.guidance import check_branch
from f3core.identity import calibration_identity, digest
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
    """What a row runs: a pipeline of the model of ``source`` (None: the spec's), the plan behind it, and the context of
    its accelerators."""

    name: str
    source: str | None
    pipeline: Any
    plan: PruningPlan | None
    accelerators: tuple[str, ...]
    entered: Entered


class Bench:
    """All rows under one seed. What is finished lies in a folder of its own, named after what it was made with, so that
    nothing made with another model or other prompts, or timed on another machine, is taken up."""

    def __init__(
        self, job: Job, model: Model, models: RowModels, seed: int, scratch: Path, listener: Listener, *, first: bool
    ) -> None:
        assert job.file.spec.compare is not None
        assert job.file.spec.evaluate is not None
        self.job, self.model, self.models, self.seed, self.listener = job, model, models, seed, listener
        self.first = first
        self.section: CompareSpec = job.file.spec.compare
        self.evaluate = job.file.spec.evaluate
        self.trial = Trial.of(job, model)
        calibrate = job.file.spec.calibrate
        prompts = [*job.prompts(calibrate.num_prompts, calibrate.seed), *self.trial.prompts]
        where = machine().model_dump(mode="json", exclude={"memory"})
        identity = {**calibration_identity(job, model, prompts), "machine": where}
        self.folder = scratch / f"seed-{seed}-{digest(identity)}"
        self.folder.mkdir(exist_ok=True)

    def check(self) -> None:
        """Refuses, before anything is run, what a row's model cannot lose or bear. A model that rows bring is looked at
        under the first seed that this process runs, and let go of again."""
        for i, row in sorted(enumerate(self.section.rows), key=lambda each: each[1].source or ""):
            if row.source is None or i not in self.models.looked:
                self._check(i, row)
                self.models.looked.add(i)
        self.models.release()

    def run(self) -> dict[str, Any]:
        """Outcomes of the unpruned model and every row, as JSON, and what else of the comparison they tell."""
        task, total = f"Seed {self.seed}: rows", 1 + len(self.section.rows)
        self.listener(task, 0, total)
        outcomes = list[dict[str, Any]]()
        for place, told in enumerate(self._told()):
            file = self.folder / f"row-{digest(told)}.json"
            if not file.exists():
                outcome = self._outcome(self._row(place), outcomes[0]["macs"] if outcomes else None)
                with written(file) as unfinished:
                    unfinished.write_text(outcome.model_dump_json(), encoding="utf-8")
            outcomes.append(json.loads(file.read_text(encoding="utf-8")))
            self.listener(task, place + 1, total)
        self.models.release()
        return {
            "folder": self.folder.name,
            "machine": machine().model_dump(mode="json"),
            "versions": library_versions(),
            "clips": len(self.trial.prompts),
            "steps": self.trial.steps,
            "higher_is_better": {metric.name: metric.higher_is_better for metric in self.trial.metrics},
            "sources": {row.source: self.models.weights[row.source] for row in self.section.rows if row.source},
            "outcomes": outcomes,
        }

    # --- rows -----------------------------------------------------------------------------------------------------

    def _told(self) -> Iterator[Any]:
        """What every row is known by: how it is written, and the weights of the model that it brings."""
        yield UNPRUNED
        for row in self.section.rows:
            yield row if row.source is None else {"row": row, "model": self.models.weights[row.source]}

    def _model(self, job: Job, row: CompareRow) -> Model:
        """The model of a row."""
        return self.model if row.source is None else self.models.of(job, self.model, pruned=row.prune is not None)

    def _check(self, index: int, row: CompareRow) -> None:
        """Refuses, before anything is run, what the model cannot lose or bear."""
        job = self.job.of_row(index)
        model = self._model(job, row)
        if row.prune is not None:
            chosen_removals(job, model.places(row.prune.target))
            check_branch(job, model.adapter, model.pipeline)
        try:
            entered = self._entered(row.accelerate, model.pipeline)
        except F3Error as error:
            raise self.job.file.error(("compare", "rows", index, "accelerate"), str(error)) from error
        with entered():
            pass

    def _row(self, place: int) -> _Row:
        if not place:
            return _Row(UNPRUNED, None, self.model.pipeline, None, (), self._entered((), self.model.pipeline))
        row, job = self.section.rows[place - 1], self.job.of_row(place - 1)
        self.models.release(keep=row.source)
        model = self._model(job, row)
        pipeline, plan = model.pipeline, None
        if row.prune is not None:
            ranked = self.job.registry.classes("method")[row.prune.method.name].needs_scores
            try:
                plan = make_plan(job, self._scores(job, model, row.source, ranked))
                if plan.budget is not None and plan.budget.measured:
                    plan, _ = meet(job, model, plan, prune, self.listener)
            except PlanError as error:
                raise PlanError(f"row {row.name!r} of seed {self.seed}: {error}") from error
            pipeline = prune(model, plan)
        names = tuple(map(_in_words, row.accelerate))
        return _Row(row.name, row.source, pipeline, plan, names, self._entered(row.accelerate, pipeline))

    def _entered(self, chosen: Sequence[Choice], pipeline: Any) -> Entered:
        made = [self.job.registry.make("accelerator", choice.name, choice.options) for choice in chosen]
        return functools.partial(_accelerated, made, self.model, pipeline, self.trial.steps)

    @functools.cached_property
    def _inputs(self) -> Inputs:
        return inputs_of(self.job, self.model)

    def _scores(self, job: Job, model: Model, source: str | None, ranked: bool) -> Scores:
        """Scores of a row: an earlier one's that needs the same of its model, or of an interrupted run, if any."""

        def inputs() -> Inputs:
            return self._inputs if source is None else inputs_of(job, model)

        if not ranked:
            return scored(job, model, inputs(), self.listener)
        need = needed_scores(job)
        folder = self.folder if source is None else scores_of(self.folder, self.models.weights[source])
        file = folder / f"scores-{need}.safetensors"
        if not file.exists():
            # prompts that were scored for one need serve every other of the same target
            found = scored(job, model, inputs(), self.listener, folder=folder / job.file.spec.prune.target)
            with written(file) as unfinished:
                found.save(unfinished)
        return Scores.load(file)

    # --- measuring ------------------------------------------------------------------------------------------------

    def _outcome(self, row: _Row, unpruned: int | None) -> Outcome:
        """What a row is found to be; ``unpruned``: MACs of the unpruned model, None for itself."""
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
            source=row.source,
            pruning=Pruning.of(row.plan) if row.plan else None,
            accelerators=row.accelerators,
            macs=macs,
            predicted=_predicted(row, unpruned) if foreseen else None,
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


def _predicted(row: _Row, unpruned: int | None) -> float | None:
    """The share of the unpruned model's MACs that a row's plan leaves: where the plan is of another model, it does not
    know them, and those that were counted stand for it."""
    if row.plan is None or row.source is None or not unpruned:
        return row.plan.macs_share if row.plan else None
    return row.plan.macs_after / unpruned


def needed_scores(job: Job) -> str:
    """A name for what a prune section needs to be known of the model; sections of one seed that need the same share it.

    What is tried out depends on how sites are pruned, what attention is watched for on the target alone.
    """
    prune = job.file.spec.prune
    if not job.registry.classes("criterion")[prune.criterion.name].needs_impact:
        return str(prune.target)
    return f"{prune.target}-impact-{prune.removal or 'usual'}-{prune.step_ranges or 'usual'}"


def _in_words(choice: Choice) -> str:
    options = ", ".join(f"{name}: {value}" for name, value in choice.options.items())
    return f"{choice.name} ({options})" if options else choice.name


def scores_of(folder: Path, weights: Weights) -> Path:
    """Where scores of a model that a row brings lie in the folder of a seed."""
    return folder / f"model-{digest(weights)}"
