"""What studies share: a spec under another seed, clips of that seed's noise, and seeds that are kept."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from f3core import evaluate
from f3core.adapter import Model
from f3core.engine import load
from f3core.job import Job, resolve
from f3core.measure import Listener
from f3core.method import Metric
from f3core.registry import installed
from f3core.spec import SpecFile, parse_spec

if TYPE_CHECKING:
    import torch


def seeded(file: SpecFile, seed: int, output: str | Path | None = None) -> Job:
    """The spec with another seed everywhere, so that noise, prompts and random criteria differ between seeds.

    Raises `SpecError` as `resolve` does.
    """
    sets = (f"calibrate.seed={seed}", f"prune.seed={seed}", f"evaluate.seed={seed + 1}")
    return resolve(parse_spec(file.text, file.name, (*file.overrides, *sets)), installed(), output=output)


def changed(job: Job, *overrides: str) -> Job:
    """The job of the same spec with more overrides, such as ``prune.criterion=drift``. Raises `SpecError`."""
    file = parse_spec(job.file.text, job.file.name, (*job.file.overrides, *overrides))
    return resolve(file, job.registry, check_output=False)


def command(name: str, file: SpecFile) -> str:
    """What reproduces a study of this spec, as it is typed."""
    return " ".join([f"f3core {name}", file.name, *(f"--set {shlex.quote(o)}" for o in file.overrides)])


@dataclass(frozen=True)
class Trial:
    """The same prompts and noise for every pipeline that is compared: those of a job's evaluate section."""

    job: Job
    model: Model
    prompts: Sequence[str]
    seeds: Sequence[int]
    steps: int
    metrics: Sequence[Metric]

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
            [job.registry.make("metric", name) for name in spec.metrics],
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

    def quality(self, clips: torch.Tensor) -> dict[str, dict[str, float]]:
        """Figures of every metric, by metric. Raises `PluginError` when a metric fails."""
        return evaluate.quality(self.metrics, clips, self.prompts)

    def timing(self, pruned: Any, progress: evaluate.Progress | None = None) -> evaluate.PairedTiming | None:
        """Interleaved pairs of the model and a pruned pipeline, as the spec asks for; None when it asks for none."""
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
        )


def each_seed(
    jobs: Mapping[int, Job], scratch: Path, listener: Listener, one: Callable[[Job, Model, int], Any]
) -> list[Any]:
    """``one(job, model, seed)`` of every seed, in order, as JSON values.

    Finished seeds are kept in ``scratch`` and read, not run again; the model is loaded once, if there is a seed to run.
    """
    model: Model | None = None
    parts = []
    for seed, job in jobs.items():
        done = scratch / f"seed-{seed}.json"
        if not done.exists():
            model = model or load(job, listener=listener)
            unfinished = done.with_suffix(".tmp")
            unfinished.write_text(json.dumps(one(job, model, seed)), encoding="utf-8")
            os.replace(unfinished, done)
        parts.append(json.loads(done.read_text(encoding="utf-8")))
    return parts
