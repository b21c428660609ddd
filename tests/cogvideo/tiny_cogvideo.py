"""Tiny CogVideo models with random weights, for tests."""

from __future__ import annotations

from typing import Any

import torch
from f3core_cogvideo.config import CogVideoConfig
from f3core_cogvideo.model import CogVideoTransformer
from torch import nn


def config(**changes: Any) -> CogVideoConfig:
    """Three layers, 5 text tokens, 5 frames of 3 x 3 tokens, whatever ``changes`` says otherwise."""
    text, tokens, frames = (changes.pop(k, d) for k, d in (("text", 5), ("tokens", 9), ("frames", 5)))
    sizes = {
        "layers": 3,
        "vocab": 30,
        "image_vocab": 20,
        "hidden": 32,
        "heads": 4,
        "layout": (text, text + tokens, text + frames * tokens),
        "positions": 512 + tokens,
        "additional": max(1, frames - 1) * tokens,
    }
    return CogVideoConfig(**{**sizes, **changes})


def transformer(std: float = 0.3, **changes: Any) -> CogVideoTransformer:
    """With weights so large that everything shows in the logits."""
    model = CogVideoTransformer(config(**changes))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=float("layernorm.weight" in name), std=std)
    return model.eval()


def sequence(model: CogVideoTransformer, batch: int = 2, frames: int | None = None) -> dict[str, torch.Tensor]:
    """Arguments of a forward over whole frames; the second row's text begins with two tokens of padding."""
    sizes = model.config
    length = sizes.text + (sizes.frames if frames is None else frames) * sizes.tokens
    mask = torch.ones(batch, 1, 1, sizes.text)
    mask[1:2, ..., : min(2, sizes.text - 1)] = 0
    return {
        "input_ids": torch.randint(sizes.image_vocab, (batch, length)),
        "position_ids": model.usual_positions(batch, length),
        "text_mask": mask,
    }
