"""The forwards of a generation without the generation: which there are, and how many, does not depend on the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from f3core_cogvideo.generation import Run, Sampling, Text, stretches
from f3core_cogvideo.model import CogVideoTransformer


@torch.no_grad()
def rehearse(transformers: Mapping[str, CogVideoTransformer], call: Mapping[str, Any]) -> None:
    """Replay a clip of one prompt as `CogVideoPipeline` with ``call`` makes it, through transformers on meta."""
    sampling = Sampling(**{f.name: call[f.name] for f in fields(Sampling) if f.name in call})
    model = transformers["transformer"]
    frames, size = model.config.frames, model.config.tokens

    def clip(count: int) -> torch.Tensor:
        return torch.zeros(1, count, size, dtype=torch.long, device=model.device)

    _run(model, sampling, sampling.first_guidance_scale).replay(clip(frames), temporal=False)
    if frames > 1:
        _run(model, sampling, sampling.guidance_scale).replay(clip(frames))
    if "transformer_2" not in transformers:
        return
    rounds = call.get("interpolations")
    run = _run(transformers["transformer_2"], sampling, sampling.guidance_scale)
    for _ in range(1 if rounds is None else rounds):
        for start, end in stretches(run.model.config, frames):
            run.replay(clip(2 * (end - start) + 1))
        frames = 2 * frames - 1


def _run(model: CogVideoTransformer, sampling: Sampling, scale: float) -> Run:
    ids = torch.zeros(1, model.config.text, dtype=torch.long, device=model.device)
    text = Text(ids, torch.ones_like(ids))
    return Run(model, text, text, sampling, scale)
