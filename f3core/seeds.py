"""What studies over seeds share: a spec under another seed, what reproduces them, and finished seeds that are kept."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from f3core.adapter import Model
from f3core.engine import load
from f3core.job import Job, resolve
from f3core.measure import Listener
from f3core.registry import installed
from f3core.spec import SpecFile, parse_spec


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
