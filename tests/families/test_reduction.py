"""Token reduction in every family that has temporal attention, by the segments that its adapter tells."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from test_counts import DENOISERS, FAMILIES

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


def restricted(denoiser: Any, adapter: Any, removal: Removal, method: str, keep: float) -> Any:
    copied = share_copy(denoiser)
    reduction = Reduction(KNOWN.make("method", method), keep)
    restrict_all_(copied, adapter, "denoiser", TA, removal, reduction)
    return copied


def family(name: str) -> tuple[Any, Any, dict[str, Any]]:
    tiny = importlib.import_module(name)
    denoiser = next(getattr(tiny, each) for each in DENOISERS if hasattr(tiny, each))()
    adapter = KNOWN.make("adapter", KNOWN.match_adapter([type(denoiser).__name__]).name)
    return denoiser, adapter, adapter.example_inputs(denoiser, frames=3, height=8, width=16)


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_of_other_frames_are_what_is_reduced(name: str) -> None:
    denoiser, adapter, inputs = family(name)
    able = [site for site in adapter.sites(denoiser, "denoiser") if site.can(TA, Removal.REDUCE)]
    if not able:
        pytest.skip("no temporal attention")
    whole = prediction(denoiser, inputs)
    assert torch.equal(prediction(restricted(denoiser, adapter, Removal.REDUCE, "tome", 1.0), inputs), whole)
    own = prediction(restricted(denoiser, adapter, Removal.SELF_ONLY, "tome", 0.0), inputs)
    none = prediction(restricted(denoiser, adapter, Removal.REDUCE, "tome", 0.0), inputs)
    torch.testing.assert_close(none, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["tiny_wan_t2v", "tiny_cogvideox", "tiny_animatediff"])
def test_every_method_runs_through_segments_alone(name: str, method: str) -> None:
    denoiser, adapter, inputs = family(name)
    whole = prediction(denoiser, inputs)
    half = prediction(restricted(denoiser, adapter, Removal.REDUCE, method, 0.4), inputs)
    assert half.shape == whole.shape
    assert torch.isfinite(half).all()
    assert not torch.allclose(half, whole)
