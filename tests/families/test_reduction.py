"""Every method of token reduction runs on models of every kind, by the segments that their adapters tell."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from test_counts import DENOISERS

from f3core.meta import again, share_copy
from f3core.reducing import Reduction
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import restrict_all_

KNOWN = installed()
METHODS = ("tome", "tomesd", "token_pruning", "evit", "tps")
TA = AttentionKind.TEMPORAL


@torch.no_grad()
def prediction(denoiser: Any, inputs: dict[str, Any]) -> torch.Tensor:
    out = denoiser(**again(inputs))
    return out if isinstance(out, torch.Tensor) else out[0]


def family(name: str) -> tuple[Any, Any, dict[str, Any]]:
    tiny = importlib.import_module(name)
    denoiser = next(getattr(tiny, each) for each in DENOISERS if hasattr(tiny, each))()
    adapter = KNOWN.make("adapter", KNOWN.match_adapter([type(denoiser).__name__]).name)
    return denoiser, adapter, adapter.example_inputs(denoiser, frames=3, height=8, width=16)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["tiny_wan_t2v", "tiny_cogvideox", "tiny_animatediff"])
def test_every_method_runs_through_segments_alone(name: str, method: str) -> None:
    denoiser, adapter, inputs = family(name)
    whole = prediction(denoiser, inputs)
    reduced = share_copy(denoiser)
    restrict_all_(reduced, adapter, "denoiser", TA, Removal.REDUCE, Reduction(KNOWN.make("method", method), 0.4))
    half = prediction(reduced, inputs)
    assert half.shape == whole.shape
    assert torch.isfinite(half).all()
    assert not torch.allclose(half, whole)
