"""Plans of whole blocks: what they cost, where they come from, and how they are carried out, once or after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_wan
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st

import f3core
from f3core import flops
from f3core.block import Block, Stage
from f3core.carrying import apply_carried_, carried
from f3core.contract import example_plan
from f3core.contract_blocks import BLOCK, units
from f3core.errors import PlanError, SpecError
from f3core.meta import meta_copy, on_meta, share_copy
from f3core.plan import PruningPlan, StepRange
from f3core.planning import scored_sites
from f3core.scores import Scores, ScoresHeader
from f3core.sites import FORWARD, AttentionKind, PruningAxis, Structure
from f3core.surgery import Pruned, apply_plan_, parameter_count, restrict_

ADAPTER = WanAdapter()
LAYERS = 4
RANGES = (StepRange(low=5.0), StepRange(high=5.0))
Write = Callable[..., Path]


class Unsayable(WanAdapter):
    """As if no config could say what is left."""

    def smaller(self, denoiser: Any, left: Any) -> None:
        return None


def blocks(denoiser: Any = None) -> list[Block]:
    return ADAPTER.blocks(denoiser or tiny_wan.transformer(LAYERS), "transformer")


def plan_of(*chosen: int, denoiser: Any = None, **options: Any) -> PruningPlan:
    return example_plan("wan", blocks(denoiser), BLOCK, chosen=chosen, **options)


def inputs(denoiser: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    return ADAPTER.example_inputs(denoiser, frames=3, height=4, width=6, text=5)


# --- costs ----------------------------------------------------------------------------------------------------------


def test_a_plan_of_a_larger_model_is_refused() -> None:
    """The numbers of its blocks mean others in what is left."""
    student, plan = tiny_wan.transformer(LAYERS), plan_of(1)
    apply_plan_(student, plan, ADAPTER, "transformer")
    vars(student).pop("f3_plan")  # as it is once saved and loaded
    with pytest.raises(PlanError, match=r"of another model, one that has transformer\.blocks\.3"):
        apply_plan_(student, plan, ADAPTER, "transformer")


def test_costs_tell_what_each_block_saves_and_frees() -> None:
    denoiser = tiny_wan.transformer(LAYERS)
    whole = flops.count(denoiser, inputs(denoiser))
    given = {"transformer": {FORWARD: inputs(denoiser)}}
    costs = flops.costs(ADAPTER, {"transformer": denoiser}, given, [Structure.BLOCK])
    for block in blocks(denoiser):
        size = parameter_count(denoiser.get_submodule(block.path))
        assert costs.saved(block.fqn, *BLOCK, FORWARD) == whole.under(block.path) > 0
        assert costs.parameters_saved(block.fqn, *BLOCK) == size > 0
        assert costs.occurs(block.fqn, Structure.BLOCK, {"transformer": {FORWARD: (0, 1)}}, 1)
        assert not costs.occurs(block.fqn, Structure.BLOCK, {"transformer": {FORWARD: (0, 1)}}, 0)
    assert costs.parameters == {"transformer": parameter_count(denoiser)}
    attention = flops.costs(ADAPTER, {"transformer": denoiser}, given)
    assert not {block.fqn for block in blocks()} & attention.sites.keys()


@settings(max_examples=5, deadline=None)
@given(gone=st.sets(st.integers(0, LAYERS - 1)))
def test_what_goes_is_what_is_predicted(gone: set[int]) -> None:
    whole = meta_copy(tiny_wan.transformer(LAYERS))
    given = on_meta(inputs(whole))
    prices = flops.costs(ADAPTER, {"transformer": whole}, {"transformer": {FORWARD: given}}, [Structure.BLOCK])
    plan = example_plan("wan", blocks(whole), BLOCK, chosen=gone, prices=prices)
    left = share_copy(whole)
    surgery = apply_plan_(left, plan, ADAPTER, "transformer")
    freed = sum(prices.parameters_saved(site, *BLOCK) for site in surgery.sites)
    assert surgery.parameters_before - surgery.parameters_after == freed
    assert flops.count(left, given).total == plan.macs_after
    assert len(left.blocks) == left.config.num_layers == LAYERS - len(gone)


# --- scores carry them ----------------------------------------------------------------------------------------------

places = st.builds(
    Block,
    component=st.sampled_from(["transformer", "unet"]),
    path=st.sampled_from(["blocks.3", "mid_block", "up_blocks.0.pairs.1"]),
    index=st.integers(0, 9),
    parts=st.just(()),
    stage=st.sampled_from(Stage),
    level=st.integers(0, 4),
    number=st.integers(0, 40),
    needs=st.lists(st.sampled_from(["blocks.1", "blocks.2"]), unique=True).map(tuple),
    fixed=st.none() | st.just("it holds the rest"),
)


@given(block=places)
def test_scores_tell_plans_all_they_need_of_blocks(block: Block) -> None:
    header = ScoresHeader.of_sites(
        [block], adapter="wan", heads=(0,), levels=(1.0,), passes={}, drift_target=Structure.BLOCK
    )
    again = ScoresHeader.from_json(header.to_json())
    assert again == header
    assert scored_sites(again) == (block,)
    assert again.drift_target is Structure.BLOCK


def test_scores_of_blocks_and_of_attention_are_told_apart() -> None:
    denoiser = tiny_wan.transformer()
    every = [*ADAPTER.sites(denoiser, "transformer"), *blocks(denoiser)]
    scores = Scores.unscored(every, adapter="wan", levels=(1.0,), passes={}, drift_target=AttentionKind.TEMPORAL)
    assert [isinstance(site, Block) for site in scored_sites(scores.header)] == [False] * 4 + [True] * 2


# --- carried out ----------------------------------------------------------------------------------------------------


def test_a_plan_of_blocks_leaves_an_unpruned_smaller_model() -> None:
    left = tiny_wan.transformer(LAYERS)
    apply_plan_(left, plan_of(1, 2), ADAPTER, "transformer")
    assert type(left) is WanTransformer3DModel
    assert left.f3_plan == plan_of(1, 2)
    assert "f3core" not in left.config
    assert [site.path for site in ADAPTER.sites(left, "transformer")] == [
        f"blocks.{number}.{name}" for number in (0, 1) for name in ("attn1", "attn2")
    ]
    before = [id(module) for module in left.modules()]
    assert apply_plan_(left, plan_of(1, 2), ADAPTER, "transformer").parameters_before == parameter_count(left)
    assert [id(module) for module in left.modules()] == before, "the plan it has is not carried out again"


def test_students_of_students_are_students() -> None:
    """Numbers are those of the model that is left."""
    left = tiny_wan.transformer(LAYERS)
    kept = left.blocks[0], left.blocks[3]
    apply_plan_(left, plan_of(1), ADAPTER, "transformer")
    apply_plan_(left, plan_of(1, denoiser=left), ADAPTER, "transformer")
    assert [a is b for a, b in zip(left.blocks, kept, strict=True)] == [True, True]
    assert type(left) is WanTransformer3DModel
    assert left.config.num_layers == 2


def test_where_no_config_can_say_it_plans_are_carried_one_after_the_other() -> None:
    adapter, left = Unsayable(), tiny_wan.transformer(LAYERS)
    plans = list[PruningPlan]()
    for place in (1, 2):  # block 3 is the third of those that are left
        plans.append(example_plan("wan", adapter.blocks(left, "transformer"), BLOCK, chosen=[place]))
        apply_plan_(left, plans[-1], adapter, "transformer")
    assert isinstance(left, Pruned)
    assert len(left.blocks) == left.config.num_layers == LAYERS
    assert [block.number for block in adapter.blocks(left, "transformer")] == [0, 2]
    sites = adapter.sites(left, "transformer")
    assert [(site.path, site.index) for site in sites[::2]] == [("blocks.0.attn1", 0), ("blocks.2.attn1", 1)]
    attention = example_plan("wan", sites, (AttentionKind.TEMPORAL, sites[0].removals[AttentionKind.TEMPORAL][0]))
    apply_plan_(left, attention, adapter, "transformer")
    assert left.f3_before == tuple(plans)
    again = tiny_wan.transformer(LAYERS)
    apply_carried_(again, carried(attention, "transformer", left.f3_before), where="here", adapter=adapter)
    again.load_state_dict(left.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs(left))[0], left(**inputs(left))[0])
    with pytest.raises(PlanError, match="is pruned already, by another plan"):
        apply_plan_(left, plan_of(0), adapter, "transformer")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (plan_of(0, axis=PruningAxis.CELL, ranges=RANGES), "axis: layer"),
        (plan_of(LAYERS - 1), "which this model does not have"),
        (plan_of(0).model_copy(update={"adapter": "ltx"}), "was made for adapter 'ltx'"),
    ],
    ids=["some steps", "another model", "another adapter"],
)
def test_plans_that_cannot_be_carried_out_are_refused_whole(plan: PruningPlan, message: str) -> None:
    model = tiny_wan.transformer(2)
    held = list(model.blocks)
    with pytest.raises(PlanError, match=message):
        apply_plan_(model, plan, ADAPTER, "transformer")
    assert [a is b for a, b in zip(model.blocks, held, strict=True)] == [True, True]
    assert not [name for name in vars(model) if name.startswith("f3")]


def test_blocks_are_not_skipped_in_some_step_ranges() -> None:
    model = tiny_wan.transformer(2)
    gates = {blocks(model)[0].fqn: frozenset({0})}
    with pytest.raises(PlanError, match="at every step or at none"):
        restrict_(model, ADAPTER, blocks(model), BLOCK[0], dict.fromkeys(gates, BLOCK[1]), gates, RANGES)


def test_blocks_that_go_together_are_one_unit() -> None:
    first, second, third, *_ = blocks()
    one = replace(second, index=first.index)
    two = replace(third, needs=(second.path,))
    assert units([first, second, third]) == [[first], [second], [third]]
    assert units([first, one, third]) == [[first, one], [third]]
    assert units([first, second, two]) == [[first], [second], [second, two]]
    assert units([replace(first, fixed="no"), second, two]) == [[second], [second, two]]
    assert units([first, replace(second, fixed="no"), two]) == [[first]]


# --- the whole line -------------------------------------------------------------------------------------------------


def test_apply_takes_blocks_out_and_then_attention(tiny_spec: Write, tmp_path: Path) -> None:
    first = f3core.apply(tiny_spec(target="block", criterion="propagated_drift", ratio=0.5))
    report = first.report
    assert report.generation.predicted.total == report.generation.counted.total < report.generation.before.total
    assert report.parameters.after < report.parameters.before
    loaded = DiffusionPipeline.from_pretrained(first.folder / "model")
    assert type(loaded.transformer) is WanTransformer3DModel
    assert loaded.transformer.config.num_layers == 2
    overrides = [f"model.source={first.folder / 'model'}", f"output={tmp_path / 'second'}"]
    second = f3core.apply(tiny_spec(ratio=0.5), overrides=overrides)
    assert second.report.generation.counted.total < report.generation.counted.total
    loaded = DiffusionPipeline.from_pretrained(second.folder / "model")
    assert isinstance(loaded.transformer, Pruned)
    assert loaded.transformer.f3_before == ()
    with torch.no_grad():
        made, again = (pipe.transformer(**inputs(loaded.transformer))[0] for pipe in (second.pipeline, loaded))
    assert torch.equal(made, again)


def test_attention_scores_do_not_rank_blocks(tiny_spec: Write) -> None:
    with pytest.raises(SpecError, match="scores attention; blocks take one of"):
        f3core.apply(tiny_spec(target="block", criterion="aas"))
