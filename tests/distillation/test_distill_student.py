"""The student: weights of its own, and blocks found again where they have moved to."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from unet_pruning import block_plan

from f3core.adapter import Model
from f3core.distillation.student import make_student, matched, only_denoiser, tagged
from f3core.errors import ModelError
from f3core.plan import PruningPlan, StepRange, Verdict
from f3core.sites import AttentionKind, PruningAxis, Removal

LAYERS = 5


@functools.cache
def model() -> Model:
    pipeline, adapter = tiny_wan.pipeline(layers=LAYERS), WanAdapter()
    sites = tuple(adapter.sites(pipeline.transformer, "transformer"))
    return Model(adapter, pipeline, {"transformer": pipeline.transformer}, sites, tiny_wan.CALL)


def without(gone: set[int]) -> PruningPlan:
    adapter, denoiser = model().adapter, model().denoisers["transformer"]
    return block_plan(adapter, adapter.blocks(denoiser, "transformer"), {f"blocks.{i}" for i in gone})


def attention(ranges: tuple[int, ...] = (0,)) -> PruningPlan:
    """TA of the first layer goes, in some of two step ranges, or always."""
    fqn = model().sites[0].fqn
    unit = Verdict(name=fqn, sites=(fqn,), ranges=ranges, score=0.0, pruned=True, macs_saved=0)
    steps = (StepRange(low=500.0), StepRange(high=500.0)) if ranges != (0,) else (StepRange(),)
    return PruningPlan(
        adapter="wan",
        method="f3",
        criterion="aas",
        target=AttentionKind.TEMPORAL,
        axis=PruningAxis.CELL,
        ratio=1.0,
        step_ranges=steps,
        removals={fqn: Removal.DROP},
        units=(unit,),
        passes={},
        macs_before=0,
        macs_after=0,
    )


@given(st.sets(st.integers(0, LAYERS - 1), max_size=LAYERS - 1))
@settings(max_examples=12, deadline=None)
def test_blocks_that_stay_are_found_where_they_are_now_in_order(gone: set[int]) -> None:
    student = make_student(model(), without(gone))
    stay = [i for i in range(LAYERS) if i not in gone]
    assert student.matched == tuple((f"blocks.{old}", f"blocks.{new}") for new, old in enumerate(stay))
    teacher = model().denoisers["transformer"]
    for old, new in student.matched:
        ours, theirs = (m.get_submodule(p).state_dict() for m, p in ((student.denoiser, new), (teacher, old)))
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())


@pytest.mark.parametrize("plan", [without({1}), without(set()), attention()], ids=["blocks", "nothing", "attention"])
def test_no_weight_is_shared_and_all_want_a_gradient(plan: PruningPlan) -> None:
    student, teacher = make_student(model(), plan), model().denoisers["transformer"]
    held = {tensor.data_ptr() for tensor in (*teacher.parameters(), *teacher.buffers())}
    assert not held & {tensor.data_ptr() for tensor in (*student.denoiser.parameters(), *student.denoiser.buffers())}
    assert all(parameter.requires_grad for parameter in student.denoiser.parameters())
    assert student.pipeline.transformer is student.denoiser
    assert student.pipeline.vae is model().pipeline.vae
    assert student.device == torch.device("cpu")


def test_attention_that_went_leaves_its_block_matched() -> None:
    student = make_student(model(), attention())
    assert [old for old, _ in student.matched] == [new for _, new in student.matched]
    assert len(student.matched) == LAYERS


def test_a_plan_of_some_steps_is_refused() -> None:
    with pytest.raises(ModelError, match="some forwards only"):
        make_student(model(), attention(ranges=(1,)))


def test_no_tag_is_left_behind() -> None:
    make_student(model(), without({0}))
    assert matched(model().denoisers["transformer"]) == ()

    tree: Any = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with pytest.raises(ZeroDivisionError), tagged(tree, ["1", "0"]):
        raise ZeroDivisionError
    assert matched(tree) == ()
    with tagged(tree, ["1", "0"]):
        assert matched(tree) == (("1", "1"), ("0", "0")), "in the order in which the teacher runs them"
    assert matched(tree) == ()


def test_models_of_several_denoisers_are_refused() -> None:
    one = model().denoisers["transformer"]
    several = Model(model().adapter, None, {"transformer": one, "transformer_2": one}, (), {})
    with pytest.raises(ModelError, match=r"2 denoisers \(transformer, transformer_2\)"):
        only_denoiser(several)
