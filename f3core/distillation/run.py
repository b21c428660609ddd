"""`Run`: one distillation under way, and what it leaves in its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from f3core import environment
from f3core.adapter import Model
from f3core.clip_folder import write_clips
from f3core.distillation import distill_figure, distill_text, training_log
from f3core.distillation.choices import section_of
from f3core.distillation.dataset import Dataset
from f3core.distillation.distill_report import FILE, Distillation, LossTold, Training, averaged, ends
from f3core.distillation.launch import Launch
from f3core.distillation.loss import Loss
from f3core.distillation.measuring import Yardstick
from f3core.distillation.student import Student
from f3core.engine import PLAN, SPEC, carry_call, command
from f3core.evaluate import generate, noise_seeds
from f3core.job import Job
from f3core.plan import PruningPlan
from f3core.report import PlanSummary
from f3core.workspace import Workspace

if TYPE_CHECKING:
    from f3core.distillation.trainer import Trained

MODEL, SAMPLES = "model", "samples"
TOTAL = "total"
"""figure of a training's log: the sum of its losses by their weights"""


@dataclass(frozen=True)
class Run:
    """What a distillation has to hand once its student is made. Only the main process calls what is here."""

    job: Job
    model: Model
    plan: PruningPlan
    student: Student
    losses: list[Loss]
    dataset: Dataset
    launch: Launch
    work: Workspace
    yardstick: Yardstick

    @property
    def training(self) -> Path:
        """Where the training keeps its checkpoint and its log."""
        return self.work.scratch / "training"

    def sample(self, _: nn.Module, step: int) -> None:
        """Clips of the student as it is, with their captions, always of the same prompts and noise. Those that a killed
        run made at this step are replaced."""
        section, spec = section_of(self.job), self.job.file.spec
        seed = spec.calibrate.seed if spec.evaluate is None else spec.evaluate.seed
        prompts = self.job.prompts(section.samples, seed)
        clips = generate(
            self.model.adapter,
            self.student.pipeline,
            prompts,
            steps=self.yardstick.steps,
            seeds=noise_seeds(seed, len(prompts)),
            call=self.model.call,
            batch_size=1 if spec.evaluate is None else spec.evaluate.batch_size,
        ).clips
        folder = self.work.scratch / SAMPLES / f"step-{step:06}"
        unfinished = folder.with_name("unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_clips(clips, prompts, unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)

    def finish(self, trained: Trained) -> Distillation:
        """Save the student, measure it, and move all that was made to the output folder, with the report."""
        folder = self.work.folder
        self.model.adapter.save(self.student.pipeline, folder / MODEL)
        carry_call(self.model, folder / MODEL)
        self.plan.save(folder / PLAN)
        (folder / SPEC).write_text(self.job.file.text, encoding="utf-8")
        for place in (self.training / training_log.FILE, self.training / training_log.BOARD, self._samples):
            if place.is_dir():
                shutil.copytree(place, folder / place.name)
            elif place.is_file():
                shutil.copy(place, folder / place.name)
        found = self._report(trained)
        distill_figure.draw(_curves(trained), f"Training of {found.source}", folder / distill_text.FIGURE)
        (folder / FILE).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / "distill.md").write_text(distill_text.to_markdown(found), encoding="utf-8")
        self.work.finish()
        return found

    @property
    def _samples(self) -> Path:
        place = self.work.scratch / SAMPLES
        shutil.rmtree(place / "unfinished", ignore_errors=True)
        return place

    def _report(self, trained: Trained) -> Distillation:
        spec, yardstick, folder = self.job.file.spec, self.yardstick, self.work.folder
        teacher, untrained = yardstick.before(self.student.pipeline)
        trial = yardstick.trial
        return Distillation(
            date=environment.now(),
            machine=environment.machine(),
            versions=environment.library_versions(),
            command=command("distill", self.job.file),
            spec=self.job.file.name,
            source=spec.model.source,
            seeds=(section_of(self.job).seed,),
            plan=PlanSummary.of(self.plan),
            training=self._training(trained),
            teacher=teacher,
            untrained=untrained,
            trained=yardstick.trained(self.student.pipeline),
            higher_is_better={} if trial is None else {m.name: m.higher_is_better for m in trial.metrics},
            clips=0 if trial is None else len(trial.prompts),
            generation_steps=yardstick.steps,
            timing=yardstick.timing(self.student.pipeline),
            samples=tuple(path.relative_to(folder).as_posix() for path in sorted((folder / SAMPLES).rglob("*.mp4"))),
        )

    def _training(self, trained: Trained) -> Training:
        section, curves = section_of(self.job), _curves(trained)
        options = {loss.name: {**loss.options(), "weight": loss.weight} for loss in self.losses}
        told = []
        for name, curve in curves.items():
            first, last = ends([value for _, value in curve])
            given = options.get(name, {})
            told.append(LossTold(name=name, weight=given.pop("weight", None), options=given, first=first, last=last))
        return Training(
            data=section.data.name,
            clips=len(self.dataset),
            losses=tuple(told),
            over=averaged(trained.steps),
            steps=trained.steps,
            batch_size=section.batch_size,
            seen=trained.steps * section.batch_size,
            seconds=sum(record.seconds for record in trained.history),
            processes=self.launch.count,
            precision=section.mixed_precision,
            dtype=str(next(self.student.denoiser.parameters()).dtype).removeprefix("torch."),
            device=self.student.device.type,
            ema=section.ema,
            learning_rate=max(record.learning_rate for record in trained.history),
            matched=len(self.student.matched),
        )


def _curves(trained: Trained) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every loss, of what was trained against the student, and of their sum by weights."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in trained.history:
        for name, value in (*record.losses.items(), (TOTAL, record.figures.get(TOTAL, float("nan")))):
            found.setdefault(name, []).append((record.step, value))
    return found
