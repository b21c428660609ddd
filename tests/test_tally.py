"""A running generation costs what prices of forwards say, unless something skips work or adds it: that is seen."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from test_cell_macs import Priced, priced
from torch import Tensor, nn

from f3core.contract import example_plan
from f3core.errors import CountingError, ModelError
from f3core.flops import count
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.plan import PruningPlan, split_steps
from f3core.probe import replaced_forward
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import apply_plan_
from f3core.tally import generation_macs

CALLS: dict[str, dict[str, Any]] = {"wan": tiny_wan.CALL, "cogvideo": {}}


@functools.cache
def unpruned(model: str) -> tuple[Priced, Any]:
    """A tiny model's prices, and its pipeline."""
    one = priced(model)
    if model == "wan":
        return one, tiny_wan.pipeline()
    import tiny_cogvideo

    return one, tiny_cogvideo.pipeline(stage_2=True)


def tally(model: str, pipeline: Any, steps: int = 4) -> int:
    return generation_macs(priced(model).adapter, pipeline, "a cat", steps=steps, seed=0, call=CALLS[model])


def halved(one: Priced, axis: PruningAxis) -> PruningPlan:
    """The first of all units goes, by self-only attention."""
    sites = [site for name, denoiser in one.denoisers.items() for site in one.adapter.sites(denoiser, name)]
    able = [site for site in sites if Removal.SELF_ONLY in site.removals.get(AttentionKind.TEMPORAL, ())]
    cut = split_steps(one.levels, 1 if axis is PruningAxis.LAYER else 2)
    passes = {
        name: {
            kind: tuple(sum(n for level, n in zip(one.levels, rows, strict=True) if level in r) for r in cut)
            for kind, rows in kinds.items()
        }
        for name, kinds in one.rows.items()
    }
    change = (AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    return example_plan(
        one.adapter.name, able, change, axis=axis, ranges=cut, chosen={0}, prices=one.costs, passes=passes
    )


def test_an_unpruned_generation_costs_the_sum_of_its_forwards() -> None:
    one, pipeline = unpruned("wan")
    assert tally("wan", pipeline) == one.costs.generation(one.rows)
    assert tally("wan", pipeline, steps=2) * 2 == one.costs.generation(one.rows)


def test_a_generation_from_a_cache_costs_less_than_whole_forwards_by_what_it_never_feeds_back() -> None:
    one, pipeline = unpruned("cogvideo")
    whole = one.costs.generation(one.rows)
    assert 0.8 * whole < tally("cogvideo", pipeline) < whole


@pytest.mark.parametrize("axis", [PruningAxis.LAYER, PruningAxis.TIMESTEP])
def test_a_pruned_generation_costs_what_its_plan_predicts(axis: PruningAxis) -> None:
    one, pipeline = unpruned("wan")
    plan = halved(one, axis)
    denoisers = {name: share_copy(denoiser) for name, denoiser in one.adapter.denoisers(pipeline).items()}
    for name, denoiser in denoisers.items():
        apply_plan_(denoiser, plan, one.adapter, name)
    assert plan.macs_after < plan.macs_before
    assert tally("wan", one.adapter.with_denoisers(pipeline, denoisers)) == plan.macs_after


def forwards(one: Priced) -> int:
    return sum(sum(rows) for kinds in one.rows.values() for rows in kinds.values())


def test_what_is_skipped_is_not_counted_and_what_is_added_is() -> None:
    one, pipeline = unpruned("wan")
    whole, block = tally("wan", pipeline), pipeline.transformer.blocks[1]
    counted = count(meta_copy(pipeline.transformer), on_meta(one.inputs["transformer"]["forward"]))

    def skip(forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden

    def add(forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return forward(hidden, *args, **kwargs) + 0 * (hidden @ hidden.mT).sum()

    with replaced_forward(block, skip):
        assert whole - tally("wan", pipeline) == counted.under("blocks.1") * forwards(one)
    with replaced_forward(block, add):
        tokens, width = 3 * 4 * 8, pipeline.transformer.config.num_attention_heads * 16
        assert tally("wan", pipeline) - whole == tokens * tokens * width * forwards(one)
    assert tally("wan", pipeline) == whole


def test_it_leaves_the_pipeline_as_it_was() -> None:
    _, pipeline = unpruned("wan")
    before = generate(pipeline)
    tally("wan", pipeline)
    assert torch.equal(generate(pipeline), before)
    for module in pipeline.transformer.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def generate(pipeline: Any) -> Tensor:
    with torch.no_grad():
        return WanAdapter().generate(pipeline, ["a cat"], steps=2, seeds=[0], call=tiny_wan.CALL)


def test_a_generation_without_its_denoisers_is_refused() -> None:
    class Elsewhere(WanAdapter):
        def denoisers(self, pipeline: Any) -> dict[str, nn.Module]:
            return {"transformer": tiny_wan.transformer()}

    _, pipeline = unpruned("wan")
    with pytest.raises(ModelError, match="without running any of the denoisers"):
        generation_macs(Elsewhere(), pipeline, "a cat", steps=1, seed=0, call=tiny_wan.CALL)


def test_an_operator_without_a_formula_is_refused_by_name() -> None:
    _, pipeline = unpruned("wan")

    def hide(forward: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = hidden[0].to(torch.int8)
        return forward(hidden, *args, **kwargs) + torch._int_mm(rows, rows.mT).sum()

    with (
        replaced_forward(pipeline.transformer.blocks[0], hide),
        pytest.raises(CountingError, match=r"_int_mm.*blocks.0"),
    ):
        tally("wan", pipeline)
