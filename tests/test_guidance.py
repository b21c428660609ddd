"""Pruning one branch of guidance: rows apart and together, and each branch as if it ran alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_wan
import torch
from diffusers.utils import BaseOutput
from f3core_diffusers.wan import WanAdapter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from f3core.contract import example_plan
from f3core.errors import ModelError
from f3core.guidance import join_rows, runs, take_rows
from f3core.meta import share_copy
from f3core.plan import PruningPlan, StepRange
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import apply_plan_

TA = AttentionKind.TEMPORAL
ADAPTER = WanAdapter()
RANGES = (StepRange(low=800.0), StepRange(high=800.0))
PLANS: dict[str, tuple[Removal, dict[str, Any]]] = {
    "layer": (Removal.SELF_ONLY, {"chosen": (0, 2)}),
    "layer-drop": (Removal.DROP, {"chosen": (1,)}),
    "early": (Removal.SELF_ONLY, {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (0,)}),
    "cell-drop": (Removal.DROP, {"axis": PruningAxis.CELL, "ranges": RANGES, "chosen": (0, 4)}),
}


def plan_of(name: str, *, alone: bool = True) -> PruningPlan:
    removal, options = PLANS[name]
    apart = {"transformer": {"forward": (1,) * len(options.get("ranges", (1,)))}}
    sites = ADAPTER.sites(tiny_wan.transformer(3), "transformer")
    return example_plan("wan", sites, (TA, removal), unconditional=apart if alone else None, **options)


def pruned(model: nn.Module, plan: PruningPlan) -> nn.Module:
    copy = share_copy(model)
    apply_plan_(copy, plan, ADAPTER, "transformer")
    return copy


@torch.no_grad()
def run(model: nn.Module, call: str | None, level: float = 900.0, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    inputs = ADAPTER.example_inputs(tiny_wan.transformer(), frames=3, height=4, width=6, text=5, batch=batch)
    inputs["timestep"] = torch.full((batch,), level)
    if call is None:
        return model(**inputs)[0]
    with model.cache_context(call):
        return model(**inputs)[0]


# --- rows -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_runs_cover_the_batch_in_order_and_tell_who_is_inside(batch: int, a: int, b: int) -> None:
    rows = range(*sorted((min(a, batch), min(b, batch))))
    found = runs(rows, batch)
    assert [i for piece, _ in found for i in piece] == list(range(batch))
    assert [i for piece, inside in found for i in piece if inside] == list(rows)
    assert len(found) <= 3


class Output(BaseOutput):
    sample: Tensor


@given(st.integers(2, 5), st.integers(0, 5))
def test_what_is_taken_apart_joins_again(batch: int, cut: int) -> None:
    whole = {
        "x": torch.randn(batch, 3),
        "nested": (torch.arange(batch), [torch.randn(batch, 1)]),
        "shared": None,
        "out": Output(sample=torch.randn(batch, 2)),
    }
    pieces = [piece for piece, _ in runs(range(min(cut, batch)), batch)]
    joined = join_rows([take_rows(whole, batch, piece) for piece in pieces], [len(piece) for piece in pieces])
    assert torch.equal(joined["x"], whole["x"])
    assert torch.equal(joined["nested"][0], whole["nested"][0])
    assert torch.equal(joined["nested"][1][0], whole["nested"][1][0])
    assert torch.equal(joined["out"].sample, whole["out"].sample)
    assert joined["shared"] is None


def test_what_has_no_rows_is_handed_on_and_what_cannot_be_joined_is_refused() -> None:
    given = {"scalar": torch.tensor(7.0), "table": torch.randn(5, 2), "words": "x"}
    assert take_rows(given, 2, range(1)) == given
    for parts in ([torch.tensor(1.0), torch.tensor(1.0)], [torch.zeros(3, 1), torch.zeros(3, 1)], [object(), object()]):
        with pytest.raises(ModelError, match="cannot be joined"):
            join_rows(parts, [1, 1])


# --- a pruned model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_a_generation_prunes_its_unconditional_forwards_alone(name: str) -> None:
    """Every forward, bit by bit: unpruned where it is conditional, pruned as by a plan for both where it is not."""
    pipe = tiny_wan.pipeline(3)
    plain, both = pipe.transformer, pruned(pipe.transformer, plan_of(name, alone=False))
    alone = pruned(plain, plan_of(name))
    assert alone.state_dict().keys() == plain.state_dict().keys()
    seen = []

    def compare(model: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        expected = {"cond": plain, "uncond": both}[model.f3_call](*args, **kwargs)
        seen.append((model.f3_call, torch.equal(out[0], expected[0]), torch.equal(out[0], plain(*args, **kwargs)[0])))

    handle = alone.register_forward_hook(compare, with_kwargs=True)
    ADAPTER.generate(
        ADAPTER.with_denoisers(pipe, {"transformer": alone}), ["a cat"], steps=4, seeds=[3], call=tiny_wan.CALL
    )
    handle.remove()
    assert [call for call, _, _ in seen] == ["cond", "uncond"] * 4
    assert all(equal for _, equal, _ in seen)
    assert all(unpruned for call, _, unpruned in seen if call == "cond")
    changed = [not unpruned for call, _, unpruned in seen if call == "uncond"]
    assert any(changed)
    assert all(changed) == (name != "early")


def test_rows_of_both_branches_run_apart_where_they_differ() -> None:
    plain = tiny_wan.transformer(3)
    alone, both = pruned(plain, plan_of("early")), pruned(plain, plan_of("early", alone=False))
    forwards: list[int] = []
    alone.register_forward_pre_hook(
        lambda _m, _args, kwargs: forwards.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    for call, level, expected, sizes in (
        ("uncond_cond", 900.0, torch.cat([run(both, None)[:1], run(plain, None)[1:]]), [1, 1]),
        ("uncond_cond", 700.0, run(plain, None, 700.0), [2]),
        ("cond", 900.0, run(plain, None), [2]),
        ("uncond", 900.0, run(both, None), [2]),
    ):
        forwards.clear()
        assert torch.allclose(run(alone, call, level), expected, atol=1e-6)
        assert forwards == sizes


def test_a_call_that_does_not_tell_its_branch_is_refused() -> None:
    alone = pruned(tiny_wan.transformer(3), plan_of("early"))
    for call in (None, "cond_uncond", "something"):
        with pytest.raises(ModelError, match=r"unconditional branch of guidance alone.*not tell.*adapter 'wan' loads"):
            run(alone, call)


def test_a_generation_without_guidance_runs_unpruned() -> None:
    pipe = tiny_wan.pipeline(3)
    other = ADAPTER.with_denoisers(pipe, {"transformer": pruned(pipe.transformer, plan_of("layer"))})
    call = {**tiny_wan.CALL, "guidance_scale": 1.0}
    one, two = (ADAPTER.generate(p, ["a cat", "a dog"], steps=2, seeds=[1, 2], call=call) for p in (pipe, other))
    assert torch.equal(one, two)


@pytest.fixture
def _dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_dynamo")
def test_compiled_in_place_once_for_each_state_of_the_gates() -> None:
    eager = pruned(tiny_wan.transformer(3), plan_of("cell-drop"))
    compiled = share_copy(eager)
    counter = CompileCounter()
    compiled.compile(backend=counter, fullgraph=True)
    for level in (950.0, 900.0, 700.0, 300.0):
        for call in ("cond", "uncond"):
            assert torch.allclose(run(compiled, call, level), run(eager, call, level), atol=1e-6)
    assert counter.frame_count == 3  # nothing, and what each of two ranges loses
