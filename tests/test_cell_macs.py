"""The MACs of any plan of cells, on every model: what is predicted is what is counted."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny_cogvideo
import tiny_tuneavideo
import tiny_wan
import torch
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_diffusers.wan import WanAdapter
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from f3core.adapter import Adapter
from f3core.capture import capture_inputs, watch_forwards
from f3core.contract import Change, example_plan
from f3core.costs import Costs
from f3core.flops import costs
from f3core.measure import count_pruned
from f3core.meta import meta_copy
from f3core.plan import split_steps
from f3core.sites import PruningAxis
from f3core.surgery import apply_plan_


class Priced:
    """A tiny pipeline's denoisers, and what its forwards at their levels cost."""

    def __init__(self, adapter: Adapter, pipeline: Any, call: dict[str, Any]) -> None:
        self.adapter = adapter
        self.denoisers = adapter.denoisers(pipeline)
        self.inputs = capture_inputs(adapter, pipeline, "a cat", call)
        with adapter.observable(pipeline), watch_forwards(adapter, self.denoisers) as seen:
            adapter.generate(pipeline, ["a cat"], steps=4, seeds=[0], call=call)
        self.levels = sorted({level for each in seen.values() for level in each.levels}, reverse=True)
        self.rows = {name: each.rows(self.levels) for name, each in seen.items()}
        self.costs: Costs = costs(adapter, self.denoisers, self.inputs)

    @property
    def changes(self) -> list[Change]:
        """What its sites can lose at some steps only."""
        sites = [site for name, denoiser in self.denoisers.items() for site in self.adapter.sites(denoiser, name)]
        return sorted({(t, r) for site in sites for t in site.removals for r in site.gated(t)})

    def pruned(self, change: Change, ranges: int, chosen: Any) -> tuple[int, int]:
        """MACs predicted and counted once the cells ``chosen`` (numbers, modulo how many there are) go."""
        sites = [site for name, denoiser in self.denoisers.items() for site in self.adapter.sites(denoiser, name)]
        able = [site for site in sites if change[1] in site.gated(change[0])]
        cut = split_steps(self.levels, min(ranges, len(self.levels)))
        passes = {
            name: {
                kind: tuple(sum(n for level, n in zip(self.levels, rows, strict=True) if level in r) for r in cut)
                for kind, rows in kinds.items()
            }
            for name, kinds in self.rows.items()
        }
        plan = example_plan(
            self.adapter.name,
            able,
            change,
            axis=PruningAxis.CELL,
            ranges=cut,
            chosen={number % (len(able) * len(cut)) for number in chosen},
            prices=self.costs,
            passes=passes,
        )
        pruned: dict[str, nn.Module] = {}
        for name, denoiser in self.denoisers.items():
            pruned[name] = meta_copy(denoiser)
            apply_plan_(pruned[name], plan, self.adapter, name)
        return plan.macs_after, count_pruned(self.adapter, pruned, plan, self.costs, self.inputs)[1].counted.total


@functools.cache
def priced(model: str) -> Priced:
    torch.manual_seed(0)
    if model == "cogvideo":
        return Priced(CogVideoAdapter(), tiny_cogvideo.pipeline(stage_2=True), {})
    if model == "tune-a-video":
        return Priced(TuneAVideoAdapter(), tiny_tuneavideo.pipeline(), tiny_tuneavideo.CALL)
    return Priced(WanAdapter(), tiny_wan.pipeline(), tiny_wan.CALL)


@pytest.mark.parametrize("model", ["cogvideo", "tune-a-video", "wan"])
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_any_plan_of_cells_costs_what_is_predicted(model: str, data: st.DataObject) -> None:
    one = priced(model)
    change = data.draw(st.sampled_from(one.changes))
    predicted, counted = one.pruned(change, data.draw(st.integers(1, 4)), data.draw(st.sets(st.integers(0, 99))))
    assert predicted == counted
