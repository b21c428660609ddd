"""Applying plans: refused whole or done whole, once, and only to what they name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from f3core.attention import ZeroBranch
from f3core.contract import example_plan
from f3core.errors import PlanError
from f3core.meta import meta_copy, share_copy
from f3core.plan import PruningPlan, StepRange
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import apply_plan_, parameter_count, pruned_class, restrict_all_

CA, SA, TA = AttentionKind.CROSS, AttentionKind.SELF, AttentionKind.TEMPORAL
ADAPTER = WanAdapter()
RANGES = (StepRange(low=500.0), StepRange(high=500.0))
CHANGES = [(TA, Removal.SELF_ONLY), (TA, Removal.DROP), (SA, Removal.MASK), (CA, Removal.DROP)]


def plan_of(change: tuple[AttentionKind, Removal], layers: int = 3, **options: Any) -> PruningPlan:
    return example_plan("wan", ADAPTER.sites(tiny_wan.transformer(layers), "transformer"), change, **options)


@torch.no_grad()
def run(model: nn.Module, level: float = 500.0) -> Tensor:
    torch.manual_seed(1)
    inputs = ADAPTER.example_inputs(tiny_wan.transformer(), frames=3, height=4, width=6, text=5)
    return model(**{**inputs, "timestep": torch.tensor([level])})[0]


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    modules = [(name, type(module), id(module)) for name, module in model.named_modules()]
    return modules, list(model.state_dict()), [k for k in vars(model) if k.startswith("f3")], dict(model.config)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c[0]}-{c[1]}")
def test_only_the_named_sites_change_and_are_reported(change: tuple[AttentionKind, Removal]) -> None:
    plan = plan_of(change, chosen=(0, 2))
    model, plain = tiny_wan.transformer(3), tiny_wan.transformer(3)
    before = parameter_count(model)
    surgery = apply_plan_(model, plan, ADAPTER, "transformer")
    which = "attn2" if change[0] is CA else "attn1"
    assert surgery.sites == tuple(f"transformer.blocks.{i}.{which}" for i in (0, 2))
    assert (surgery.parameters_before, surgery.parameters_after) == (before, parameter_count(model))
    assert surgery.masked == (surgery.sites if change[1] is Removal.MASK else ())
    assert surgery.gated == ()
    gone = set(plain.state_dict()) - set(model.state_dict())
    if change[1] is Removal.DROP:
        companion = "norm2" if change[0] is CA else "norm1"
        heads = tuple(f"blocks.{i}.{part}." for i in (0, 2) for part in (which, companion))
        assert gone == {key for key in plain.state_dict() if key.startswith(heads)}
        assert before - parameter_count(model) == sum(plain.state_dict()[key].numel() for key in gone)
        assert isinstance(model.blocks[2].get_submodule(which), ZeroBranch)
    else:
        assert not gone
        assert parameter_count(model) == before
    assert type(model.blocks[1].attn1) is type(plain.blocks[1].attn1)
    assert not torch.equal(run(model), run(plain))


@pytest.mark.parametrize("removal", [Removal.SELF_ONLY, Removal.DROP])
def test_what_only_some_steps_lose_stays(removal: Removal) -> None:
    plan = plan_of((TA, removal), axis=PruningAxis.CELL, ranges=RANGES, chosen=(0, 1, 4))
    model = tiny_wan.transformer(3)
    surgery = apply_plan_(model, plan, ADAPTER, "transformer")
    assert surgery.gated == ("transformer.blocks.0.attn1",)
    assert surgery.sites == ("transformer.blocks.0.attn1", "transformer.blocks.1.attn1")
    keys = set(model.state_dict())
    assert any(key.startswith("blocks.0.attn1") for key in keys)
    assert any(key.startswith("blocks.1.attn1") for key in keys) == (removal is Removal.SELF_ONLY)


def refused(what: str) -> tuple[PruningPlan, str]:
    plan = plan_of((TA, Removal.SELF_ONLY))
    if what == "adapter":
        return plan.model_copy(update={"adapter": "other"}), "made for adapter 'other', the model's is 'wan'"
    if what == "site":
        return plan_of(
            (TA, Removal.SELF_ONLY), layers=4
        ), r"site 'transformer\.blocks\.3\.attn1', which .* did you mean"
    removals = {**plan.removals, "transformer.blocks.2.attn1": Removal.MASK}
    return plan.model_copy(update={"removals": removals}), r"blocks\.2\.attn1 cannot lose TA by mask; .*self_only"


@pytest.mark.parametrize("what", ["adapter", "site", "removal"])
def test_a_plan_that_does_not_fit_is_refused_with_nothing_altered(what: str) -> None:
    plan, message = refused(what)
    model = tiny_wan.transformer(3)
    before, output = fingerprint(model), run(model)
    with pytest.raises(PlanError, match=message):
        apply_plan_(model, plan, ADAPTER, "transformer")
    assert fingerprint(model) == before
    assert torch.equal(run(model), output)


def test_a_plan_for_other_components_or_for_nothing_is_no_work() -> None:
    model = tiny_wan.transformer(3)
    before = fingerprint(model)
    for plan, component in (
        (plan_of((TA, Removal.DROP)), "transformer_2"),
        (plan_of((TA, Removal.DROP), chosen=()), "transformer"),
    ):
        surgery = apply_plan_(model, plan, ADAPTER, component)
        assert surgery.sites == ()
        assert surgery.parameters_before == surgery.parameters_after == parameter_count(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c[0]}-{c[1]}")
def test_twice_is_once_and_another_plan_is_refused(change: tuple[AttentionKind, Removal]) -> None:
    plan = plan_of(change, chosen=(1,))
    model = tiny_wan.transformer(3)
    apply_plan_(model, plan, ADAPTER, "transformer")
    before, output = fingerprint(model), run(model)
    again = apply_plan_(model, PruningPlan.model_validate_json(plan.model_dump_json()), ADAPTER, "transformer")
    assert again.parameters_before == again.parameters_after
    assert fingerprint(model) == before
    with pytest.raises(PlanError, match="pruned already, by another plan"):
        apply_plan_(model, plan_of(change, chosen=(0, 1)), ADAPTER, "transformer")
    assert fingerprint(model) == before
    assert torch.equal(run(model), output)


@pytest.mark.parametrize("copied", [copy.deepcopy, share_copy])
def test_a_copy_keeps_its_own_time(copied: Any) -> None:
    """A clock must not be shared: what one model does is nothing to the other."""
    plan = plan_of((TA, Removal.DROP), axis=PruningAxis.TIMESTEP, ranges=RANGES, chosen=(0,))
    model = tiny_wan.transformer(3)
    apply_plan_(model, plan, ADAPTER, "transformer")
    twin = copied(model)
    early, late = run(model, 900.0), run(model, 100.0)
    assert not torch.equal(early, late)
    assert twin.f3_clock is not model.f3_clock
    gates = [module.f3_gate for module in twin.modules() if hasattr(module, "f3_gate")]
    assert gates
    assert all(gate.clock is twin.f3_clock for gate in gates)
    with model.f3_clock.hold(0):
        assert torch.equal(run(twin, 100.0), late)
        assert torch.equal(run(twin, 900.0), early)
        assert torch.equal(run(model, 100.0), run(tiny_early(), 100.0))


def tiny_early() -> nn.Module:
    model = tiny_wan.transformer(3)
    apply_plan_(model, plan_of((TA, Removal.DROP)), ADAPTER, "transformer")
    return model


def test_a_copy_has_its_own_weights() -> None:
    model = tiny_wan.transformer(3)
    apply_plan_(model, plan_of((TA, Removal.SELF_ONLY), chosen=(0,)), ADAPTER, "transformer")
    before, twin = run(model), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(0.5)
    assert torch.equal(run(model), before)
    assert not torch.equal(run(twin), before)


def test_sharing_copies_leave_the_original_whole() -> None:
    model = tiny_wan.transformer(3)
    before, output = fingerprint(model), run(model)
    pruned = share_copy(model)
    apply_plan_(pruned, plan_of((TA, Removal.DROP)), ADAPTER, "transformer")
    assert fingerprint(model) == before
    assert torch.equal(run(model), output)
    ours = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in ours for parameter in pruned.parameters())


@settings(max_examples=15, deadline=None)
@given(st.sets(st.integers(0, 2)), st.sets(st.integers(0, 2)), st.sampled_from(CHANGES[:2]))
def test_more_pruning_leaves_fewer_parameters(a: set[int], b: set[int], change: tuple[AttentionKind, Removal]) -> None:
    fewer, more = (meta_copy(tiny_wan.transformer(3)) for _ in range(2))
    apply_plan_(fewer, plan_of(change, chosen=a), ADAPTER, "transformer")
    apply_plan_(more, plan_of(change, chosen=a | b), ADAPTER, "transformer")
    assert set(more.state_dict()) <= set(fewer.state_dict())
    assert all(parameter.is_meta for parameter in more.parameters())


def test_one_removal_everywhere() -> None:
    model, planned = tiny_wan.transformer(3), tiny_wan.transformer(3)
    restrict_all_(model, ADAPTER, "transformer", TA, Removal.SELF_ONLY)
    apply_plan_(planned, plan_of((TA, Removal.SELF_ONLY)), ADAPTER, "transformer")
    assert torch.equal(run(model), run(planned))
    plain = tiny_wan.transformer(3)
    restrict_all_(plain, ADAPTER, "transformer", CA, Removal.MASK)  # which no site lists
    assert torch.equal(run(plain), run(tiny_wan.transformer(3)))


def test_pruned_classes_are_made_once() -> None:
    assert pruned_class(nn.Linear) is pruned_class(nn.Linear)
    assert pruned_class(nn.Linear).__name__ == "PrunedLinear"
    assert issubclass(pruned_class(nn.Linear), nn.Linear)
    model = tiny_wan.transformer(3)
    apply_plan_(model, plan_of((TA, Removal.SELF_ONLY)), ADAPTER, "transformer")
    assert type(model).__name__ == "PrunedWanTransformer3DModel"
    assert isinstance(model, type(tiny_wan.transformer()))
    assert list(model.state_dict()) == list(tiny_wan.transformer(3).state_dict())
