"""What makes scores those of one calibration: the model's weights, how it was called, and on what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from f3core.adapter import Model
from f3core.errors import ScoresError
from f3core.job import Job
from f3core.scores import Scores

if TYPE_CHECKING:
    from torch import nn


def calibration_identity(job: Job, model: Model, prompts: Sequence[str]) -> dict[str, Any]:
    """What must agree for scores to be of one calibration."""
    spec = job.file.spec
    return {
        "model": {name: fingerprint(denoiser) for name, denoiser in model.denoisers.items()},
        "call": json.dumps(dict(job.call), sort_keys=True, default=str),
        "steps": spec.calibrate.steps,
        "seed": spec.calibrate.seed,
        "query_stride": spec.calibrate.query_stride,
        "batch_size": spec.calibrate.batch_size,
        "prompts": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
    }


def fingerprint(module: nn.Module) -> str:
    """A hash over names, shapes, dtypes and the first values of every tensor: cheap, and other for other weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().flatten()[:8].double().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_scores(job: Job, model: Model, scores: Scores) -> None:
    """Raises `ScoresError` for scores of another model, call or calibration, or of a part of the prompts; those of
    blocks are of none."""
    spec = job.file.spec.calibrate
    wanted = calibration_identity(job, model, job.prompts(spec.num_prompts, spec.seed))
    given = scores.header.identity
    differing = sorted(key for key in wanted if given.get(key) != wanted[key])
    if differing:
        raise ScoresError(f"the scores given are of another calibration, which differs in: {', '.join(differing)}")
    missing = set() if scores.header.blocks else set(range(spec.num_prompts)) - scores.prompts.keys()
    if missing:
        raise ScoresError(f"the scores given lack {len(missing)} of {spec.num_prompts} prompts; give every shard's")


def digest(found: Any) -> str:
    """A short name for plain data or parts of a spec: the same for the same, another for another."""
    text = json.dumps(found, sort_keys=True, default=lambda part: part.model_dump(mode="json"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
