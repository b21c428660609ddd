"""`Yardstick`: what teacher and student are measured by, before and after training, on the same prompts and noise."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from safetensors.torch import load_file, save_file

from f3core import evaluate
from f3core.adapter import Model
from f3core.distillation.distill_report import Variant
from f3core.footprint import model_size
from f3core.identity import digest
from f3core.job import Job
from f3core.measure import Listener
from f3core.metric import Metric, Reference
from f3core.tally import generation_macs
from f3core.trial import Trial
from f3core.workspace import written

if TYPE_CHECKING:
    import torch

B = TypeVar("B", bound=BaseModel)


def kept(file: Path, kind: type[B], make: Callable[[], B]) -> B:
    """What ``make`` gives, read from ``file`` where an interrupted run has left it there."""
    if not file.exists():
        made = make()
        with written(file) as unfinished:
            unfinished.write_text(made.model_dump_json(), encoding="utf-8")
    return kind.model_validate_json(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Yardstick:
    """Measures the teacher (``model``) and students. What it found before training is kept in ``scratch`` under names
    that hang on ``identity`` and the evaluate section, so that a resumed run takes up no other model's."""

    job: Job
    model: Model
    scratch: Path
    identity: Mapping[str, Any]
    listener: Listener

    @functools.cached_property
    def trial(self) -> Trial | None:
        """The prompts, noise and metrics; None where the spec evaluates nothing."""
        return Trial.of(self.job, self.model) if self.job.file.spec.evaluate is not None else None

    @property
    def steps(self) -> int:
        """Denoising steps of a generation."""
        return self.job.file.spec.calibrate.steps if self.trial is None else self.trial.steps

    def before(self, pipeline: Any) -> tuple[Variant, Variant]:
        """The teacher, and the student as surgery left it; measured before training, and kept."""
        teacher = kept(self._file("teacher"), Variant, lambda: self._measured("teacher", self.model.pipeline))
        return teacher, kept(self._file("untrained"), Variant, lambda: self._measured("untrained student", pipeline))

    def trained(self, pipeline: Any) -> Variant:
        """The student as training left it, which costs what it cost before."""
        untrained = self.before(pipeline)[1]
        return self._judged(untrained, "trained student", pipeline)

    def timing(self, pipeline: Any) -> evaluate.PairedTiming | None:
        """Interleaved runs of teacher and student; None where the spec asks for none."""
        if self.trial is None:
            return None
        return self.trial.timing(pipeline, lambda done, total: self.listener("Timing pairs", done, total))

    def _measured(self, name: str, pipeline: Any) -> Variant:
        adapter, calibrate = self.model.adapter, self.job.file.spec.calibrate
        prompt = self.job.prompts(1, calibrate.seed)[0]
        seed = evaluate.noise_seeds(calibrate.seed, 1)[0]
        found = Variant(
            parameters=model_size(adapter, pipeline),
            macs=generation_macs(adapter, pipeline, prompt, steps=self.steps, seed=seed, call=self.model.call),
        )
        return self._judged(found, name, pipeline)

    def _judged(self, found: Variant, name: str, pipeline: Any) -> Variant:
        """With the quality and damage of the pipeline's clips as they are now."""
        if self.trial is None:
            return found
        own = pipeline is self.model.pipeline
        reference = self._reference()
        clips = reference if own else self.trial.clips(pipeline, self._heard(f"Generating: {name}"))
        quality = self.trial.quality(clips, self._telling(own))
        damage = None if own else evaluate.damage(reference, clips)
        return found.model_copy(update={"quality": quality, "damage": damage})

    def _telling(self, own: bool) -> Sequence[Metric]:
        """The metrics that say something: no clip is compared with itself."""
        assert self.trial is not None
        return [m for m in self.trial.metrics if not own or m.reference is not Reference.CLIP]

    def _reference(self) -> torch.Tensor:
        """The teacher's clips, made once."""
        assert self.trial is not None
        if "unpruned" not in self.trial.kept:
            file = self._file("teacher").with_suffix(".safetensors")
            if not file.exists():
                clips = self.trial.clips(self.model.pipeline, self._heard("Generating: teacher"))
                with written(file) as unfinished:
                    save_file({"clips": clips.contiguous()}, unfinished)
            self.trial.kept["unpruned"] = load_file(file)["clips"]
        return self.trial.kept["unpruned"]

    def _heard(self, task: str) -> evaluate.Progress:
        assert self.trial is not None
        self.listener(task, 0, len(self.trial.prompts))
        return lambda done, total: self.listener(task, done, total)

    def _file(self, name: str) -> Path:
        evaluate_section = self.job.file.spec.evaluate
        prompts = [] if self.trial is None else self.trial.prompts
        return self.scratch / f"{name}-{digest([self.identity, evaluate_section, prompts])}.json"
