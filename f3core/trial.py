"""A `Trial`: what every pipeline that is compared meets, the same prompts and noise, metrics and timing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from f3core import evaluate
from f3core.adapter import Model
from f3core.errors import F3Error
from f3core.job import Job
from f3core.metric import Metric, Reference

if TYPE_CHECKING:
    import torch


def metrics_of(job: Job) -> list[Metric]:
    """The metrics that a job asks for. Raises `SpecError` for one that does not take its options."""
    made = list[Metric]()
    for i, metric in enumerate(job.file.spec.evaluate.metrics if job.file.spec.evaluate else ()):
        try:
            made.append(job.registry.make("metric", metric.name, metric.options))
        except F3Error as error:
            raise job.file.error(("evaluate", "metrics", i), str(error)) from error
    return made


@dataclass(frozen=True)
class Trial:
    """The same prompts and noise for every pipeline that is compared: those of a job's evaluate section."""

    job: Job
    model: Model
    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    metrics: Sequence[Metric]
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    """the unpruned model's clips, once they are made"""

    @classmethod
    def of(cls, job: Job, model: Model) -> Trial:
        """The trial that the job's evaluate section describes, which must be there."""
        spec = job.file.spec.evaluate
        assert spec is not None
        prompts = job.prompts(spec.num_clips, spec.seed)
        return cls(
            job,
            model,
            prompts,
            evaluate.noise_seeds(spec.seed, len(prompts)),
            spec.steps or job.file.spec.calibrate.steps,
            metrics_of(job),
        )

    def clips(self, pipeline: Any, progress: evaluate.Progress | None = None) -> torch.Tensor:
        """Clips [B, F, 3, H, W] in [0, 1] of a pipeline. Raises `ModelError` as `evaluate.generate` does."""
        spec = self.job.file.spec.evaluate
        assert spec is not None
        return evaluate.generate(
            self.model.adapter,
            pipeline,
            self.prompts,
            steps=self.steps,
            seeds=self.seeds,
            call=self.model.call,
            batch_size=spec.batch_size,
            progress=progress,
        ).clips

    def unpruned(self, progress: evaluate.Progress | None = None) -> torch.Tensor:
        """Clips of the model as it is, made once."""
        if "unpruned" not in self.kept:
            self.kept["unpruned"] = self.clips(self.model.pipeline, progress)
        return self.kept["unpruned"]

    def quality(self, clips: torch.Tensor, metrics: Sequence[Metric] | None = None) -> dict[str, dict[str, float]]:
        """Figures of every metric (or of some), by metric. Raises `PluginError` when a metric fails."""
        metrics = self.metrics if metrics is None else metrics
        compared = any(metric.reference is not Reference.NONE for metric in metrics)
        return evaluate.quality(metrics, clips, self.prompts, self.unpruned() if compared else None)

    def timing(
        self,
        pruned: Any,
        progress: evaluate.Progress | None = None,
        during: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> evaluate.PairedTiming | None:
        """Interleaved pairs of the model and a pruned pipeline, which runs in a context of its own (``during``), as the
        spec asks for; None when it asks for none."""
        spec = self.job.file.spec.evaluate
        assert spec is not None
        if not spec.timing_pairs:
            return None
        return evaluate.paired_timing(
            self.model.adapter,
            self.model.pipeline,
            pruned,
            [self.prompts[i % len(self.prompts)] for i in range(spec.timing_batch)],
            steps=self.steps,
            seeds=[self.seeds[0] + i for i in range(spec.timing_batch)],
            call=self.model.call,
            pairs=spec.timing_pairs,
            progress=progress,
            during=during,
        )
