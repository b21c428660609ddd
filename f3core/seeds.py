"""What studies over seeds share: a spec under another seed, and finished seeds that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from f3core.adapter import Model
from f3core.engine import load
from f3core.errors import OutputError
from f3core.identity import calibration_identity
from f3core.job import Job, resolve
from f3core.measure import Listener
from f3core.registry import installed
from f3core.spec import SpecFile, parse_spec
from f3core.workspace import written


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


def each_seed(
    jobs: Mapping[int, Job], scratch: Path, listener: Listener, one: Callable[[Job, Model, int], Any]
) -> list[Any]:
    """``one(job, model, seed)`` of every seed, in order, as JSON values.

    Finished seeds are kept in ``scratch`` and read, not run again; the model is loaded once, if there is a seed to run.
    Raises `OutputError` when a kept seed is of another model or other prompts than the rest.
    """
    files = {seed: scratch / f"seed-{seed}.json" for seed in jobs}
    kept = {seed: json.loads(file.read_text(encoding="utf-8")) for seed, file in files.items() if file.exists()}
    missing = [seed for seed in jobs if seed not in kept]
    if not missing:
        first, *others = kept
        for seed in others:
            _same({"model": kept[first]["identity"]["model"]}, kept[seed], seed, scratch)
    else:
        model = load(jobs[missing[0]], listener=listener)
        for seed, part in kept.items():
            _same(_identity(jobs[seed], model), part, seed, scratch)
        for seed in missing:
            kept[seed] = {"identity": _identity(jobs[seed], model), "result": one(jobs[seed], model, seed)}
            with written(files[seed]) as file:
                file.write_text(json.dumps(kept[seed]), encoding="utf-8")
    return [kept[seed]["result"] for seed in jobs]


def _identity(job: Job, model: Model) -> dict[str, Any]:
    """What must agree between what was kept of a seed and what would be made of it now."""
    spec = job.file.spec
    prompts = job.prompts(spec.calibrate.num_prompts, spec.calibrate.seed)
    if spec.evaluate is not None:
        prompts = [*prompts, *job.prompts(spec.evaluate.num_clips, spec.evaluate.seed)]
    return calibration_identity(job, model, prompts)


def _same(wanted: Mapping[str, Any], part: Mapping[str, Any], seed: int, scratch: Path) -> None:
    found = part["identity"]
    differing = sorted(key for key in wanted if found.get(key) != wanted[key])
    if differing:
        raise OutputError(
            f"the unfinished run in {scratch.parent} did seed {seed} with other settings than it would now (another "
            f"{', '.join(differing)}); remove the folder to begin again, or give another --output"
        )
