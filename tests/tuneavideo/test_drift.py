"""Drift is how far a site's output moves when it is pruned, also where pruning gives it keys that it did not have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from tiny_tuneavideo import unet
from torch import nn

from f3core.clock import Clock, Gate
from f3core.meta import share_copy
from f3core.probe import Probe
from f3core.sites import AttentionKind, Removal

TA, ADAPTER = AttentionKind.TEMPORAL, TuneAVideoAdapter()


@pytest.mark.parametrize("prompts", [1, 2])
def test_drift_equals_the_pruned_sites_distance(prompts: int) -> None:
    model = unet().eval().requires_grad_(False)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    inputs = ADAPTER.example_inputs(model, frames=3, height=8, width=8, batch=2 * prompts, text=5)
    sites = ADAPTER.sites(model, "unet")
    probe = Probe(ADAPTER, model, dict(enumerate(sites)), prompts=prompts)
    seen: dict[str, Any] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any, out: torch.Tensor, path: str) -> None:
        seen[path] = args, kwargs, out

    for site in sites:
        module = model.get_submodule(site.path)
        module.register_forward_hook(lambda *given, path=site.path: keep(*given, path=path), with_kwargs=True)
    with probe.watching(), torch.no_grad():
        model(**inputs)
    for index, site in enumerate(sites):
        if TA not in site.kinds:
            continue
        copied = share_copy(model.get_submodule(site.path))
        copied._forward_hooks.clear()
        pruned = ADAPTER.restrict(copied, site, TA, Removal.SELF_ONLY, Gate(Clock()))
        args, kwargs, out = seen[site.path]
        delta = (out - pruned(*args, **kwargs)).double().square()
        rows = delta.flatten(1).sum(1).reshape(2, prompts, -1).sum((0, 2))  # guidance outermost, then prompts
        cell = probe.cells[index, 0]
        assert torch.allclose(cell.drifts, rows, rtol=1e-4), site.fqn
        assert cell.drift_queries == delta.shape[0] * delta.shape[1] / prompts
        assert float(cell.drift) > 0
