"""MACs of every family's tiny denoiser equal what torch's own counter says, halved (it counts two per MAC).

``TRACED = False`` in a ``tiny_*.py``: ``torch.jit.trace``, by which fvcore counts, cannot trace its denoiser, or leaves
out what it computes and does not use.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from f3core.flops import count, count_by_tracing
from f3core.meta import again, meta_copy, on_meta
from f3core.registry import installed

DENOISERS = ("transformer", "unet")
FAMILIES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("tiny_*.py")
    if any(hasattr(importlib.import_module(path.stem), name) for name in DENOISERS)
)


@pytest.mark.parametrize("family", FAMILIES)
def test_macs_are_half_of_torchs_flops(family: str) -> None:
    tiny = importlib.import_module(family)
    denoiser = next(getattr(tiny, name) for name in DENOISERS if hasattr(tiny, name))()
    known = installed()
    adapter = known.make("adapter", known.match_adapter([type(denoiser).__name__]).name)
    inputs = adapter.example_inputs(denoiser, frames=3, height=8, width=16)
    # torch has no formula for the CPU's fused kernel
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as torchs:
        denoiser(**again(inputs))
    counted = count(meta_copy(denoiser), on_meta(inputs))
    assert 2 * counted.total == torchs.get_total_flops() > 0
    if getattr(tiny, "TRACED", True):
        assert count_by_tracing(denoiser, inputs).total == counted.total, "fvcore's own tracing counts otherwise"
