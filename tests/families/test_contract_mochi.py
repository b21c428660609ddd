"""The Mochi adapter under the contract, rows with text of several lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import tiny_mochi
import torch
from f3core_diffusers.mochi import MochiAdapter
from torch import nn

from f3core.contract import example_plan
from f3core.meta import share_copy
from f3core.probe import Probe
from f3core.surgery import apply_plan_
from f3core.testing import AdapterContract


class TestMochi(AdapterContract):
    adapter = MochiAdapter()

    def build(self) -> nn.Module:
        return tiny_mochi.transformer()

    def at_level(self, denoiser: nn.Module, inputs: Mapping[str, Any], level: float) -> dict[str, Any]:
        return super().at_level(denoiser, inputs, 1000 - level)

    @pytest.mark.slow
    def test_compiles_wherever_the_unpruned_model_does(self) -> None:
        super().test_compiles_wherever_the_unpruned_model_does()


def test_levels_are_noisy_first_whichever_way_timesteps_run() -> None:
    adapter, scheduler = MochiAdapter(), tiny_mochi.pipeline().scheduler
    levels = adapter.levels(scheduler, 4, {}, (3, 4, 6))
    assert levels[0] == 1000 > levels[-1] > 0
    assert list(levels) == sorted(levels, reverse=True)
    assert [adapter.noise_level((), {"timestep": torch.full((2,), 1000 - level)}) for level in levels] == list(levels)


def test_a_row_without_text_is_frames_alone() -> None:
    """As the pipeline gives an empty prompt with ``force_zeros_for_empty_prompt``."""
    denoiser, adapter = tiny_mochi.transformer(), MochiAdapter()
    inputs = adapter.example_inputs(denoiser, frames=3, height=4, width=6, batch=2, text=5)
    inputs["encoder_attention_mask"][0] = False
    sites = adapter.sites(denoiser, "transformer")
    probe = Probe(adapter, denoiser, dict(enumerate(sites)), prompts=2)
    with probe.watching(), torch.no_grad():
        denoiser(**inputs)
    for cell in probe.cells.values():
        assert float(cell.maps[0, ..., -1].sum()) == 0 < float(cell.maps[1, ..., -1].sum())
        assert torch.allclose(cell.maps.sum((2, 3)), torch.tensor(cell.queries, dtype=torch.float64))
    for target, removals in sites[0].removals.items():
        pruned = share_copy(denoiser)
        apply_plan_(pruned, example_plan("mochi", sites, (target, removals[0])), adapter, "transformer")
        with torch.no_grad():
            assert torch.isfinite(pruned(**inputs)[0]).all()
