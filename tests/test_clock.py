"""The clock, its gates, and gated models over the steps of a generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny_wan
import torch
from f3core_diffusers.wan import WanAdapter
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from f3core.clock import Clock, Gate
from f3core.contract import example_plan
from f3core.meta import share_copy
from f3core.plan import StepRange, split_steps
from f3core.sites import AttentionKind, Layout, PruningAxis, Removal
from f3core.surgery import apply_plan_

TA = AttentionKind.TEMPORAL
ADAPTER = WanAdapter()


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=12, unique=True), st.integers(1, 12), st.floats(0, 1000))
def test_a_level_ticks_to_the_one_range_that_holds_it(levels: list[float], count: int, level: float) -> None:
    ranges = split_steps(levels, min(count, len(levels)))
    clock = Clock(ranges)
    clock.step_range = -1
    clock.tick(level)
    assert [i for i, r in enumerate(ranges) if level in r] == [clock.step_range]


def test_gates() -> None:
    clock = Clock((StepRange(low=500), StepRange(high=500)))
    always, early, never = Gate(clock), Gate(clock, frozenset({0})), Gate(clock, frozenset())
    assert [gate.always for gate in (always, early, never)] == [True, False, False]
    for level, active in ((900.0, True), (500.0, False), (1.0, False), (500.1, True)):
        clock.tick(level)
        assert [gate.active() for gate in (always, early, never)] == [True, active, False]


def test_a_forward_over_several_steps_asks_a_gate_about_each() -> None:
    clock = Clock((StepRange(low=500), StepRange(high=500)))
    always, early = Gate(clock), Gate(clock, frozenset({0}))
    clock.tick(100.0)
    assert [(always.active_at(level), early.active_at(level)) for level in (900.0, 100.0)] == [
        (True, True),
        (True, False),
    ]
    with clock.hold(0):
        assert (early.active_at(900.0), early.active_at(100.0)) == (True, True)
    with clock.hold(1):
        assert (early.active_at(900.0), early.active_at(100.0)) == (False, False)


def test_a_held_clock_stays_where_it_is_put() -> None:
    clock = Clock((StepRange(low=500), StepRange(high=500)))
    late = Gate(clock, frozenset({1}))

    def fail() -> None:
        with clock.hold(1):
            assert (clock.held, late.active()) == (True, True)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not clock.held
    clock.observe(Layout(2, 5, 7, 3))
    assert (clock.frames, clock.tokens) == (5, 7)


# --- models that change with the step -------------------------------------------------------------------------------


def gated(axis: PruningAxis, chosen: tuple[int, ...], removal: Removal = Removal.SELF_ONLY) -> nn.Module:
    denoiser = tiny_wan.transformer()
    sites = ADAPTER.sites(denoiser, "transformer")
    ranges = split_steps([900.0, 700.0, 500.0, 300.0, 100.0, 50.0], 3)
    plan = example_plan("wan", sites, (TA, removal), axis=axis, ranges=ranges, chosen=chosen)
    apply_plan_(denoiser, plan, ADAPTER, "transformer")
    return denoiser


def inputs(level: float, frames: int = 3, batch: int = 1) -> dict[str, Any]:
    torch.manual_seed(1)
    made = ADAPTER.example_inputs(tiny_wan.transformer(), frames=frames, height=4, width=6, batch=batch, text=5)
    return {**made, "timestep": torch.full((batch,), level)}


@pytest.fixture
def _dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@torch.no_grad()
def run(model: nn.Module, level: float, **size: int) -> Tensor:
    return model(**inputs(level, **size))[0]


@pytest.mark.parametrize("removal", [Removal.SELF_ONLY, Removal.DROP])
def test_each_cell_is_pruned_in_its_range_alone(removal: Removal) -> None:
    """Units of the cell axis: range 0 then 1 then 2, each with both layers."""
    model = gated(PruningAxis.CELL, (0, 3, 4, 5), removal)  # layer 0 early, layer 1 in the middle, both late
    plain = tiny_wan.transformer()
    sites = ADAPTER.sites(plain, "transformer")
    for level, layers in ((900.0, (0,)), (500.0, (1,)), (100.0, (0, 1))):
        expected = share_copy(plain)
        apply_plan_(expected, example_plan("wan", sites, (TA, removal), chosen=layers), ADAPTER, "transformer")
        assert torch.equal(run(model, level), run(expected, level))
        assert not torch.equal(run(model, level), run(plain, level))


def test_steps_may_come_in_any_order_and_sizes_may_change() -> None:
    model, plain = gated(PruningAxis.TIMESTEP, (0,)), tiny_wan.transformer()
    layer = share_copy(plain)
    sites = ADAPTER.sites(plain, "transformer")
    apply_plan_(layer, example_plan("wan", sites, (TA, Removal.SELF_ONLY)), ADAPTER, "transformer")
    for level, frames, batch in ((100.0, 3, 2), (900.0, 5, 1), (50.0, 1, 1), (800.0, 2, 3), (900.0, 3, 1)):
        expected = layer if level > 600 else plain
        assert torch.equal(
            run(model, level, frames=frames, batch=batch), run(expected, level, frames=frames, batch=batch)
        )


@pytest.mark.usefixtures("_dynamo")
def test_compiled_in_place_once_for_each_state_of_the_gates() -> None:
    """However many ranges there are: more than the eight graphs that dynamo allows a function."""
    levels = [float(level) for level in range(950, 0, -50)]
    eager = tiny_wan.transformer()
    ranges = split_steps(levels, len(levels))
    sites = ADAPTER.sites(eager, "transformer")
    plan = example_plan(
        "wan", sites, (TA, Removal.SELF_ONLY), axis=PruningAxis.TIMESTEP, ranges=ranges, chosen=(0, 1, 2, 7, 11, 12)
    )
    apply_plan_(eager, plan, ADAPTER, "transformer")
    compiled = share_copy(eager)
    counter = CompileCounter()
    compiled.compile(backend=counter, fullgraph=True)
    for level in levels:
        assert torch.allclose(run(compiled, level), run(eager, level), atol=1e-6)
    assert counter.frame_count == 2
    assert plan.graphs() == {"transformer": 2}


@pytest.mark.usefixtures("_dynamo")
def test_a_plan_without_steps_compiles_once() -> None:
    counter = CompileCounter()
    model = gated(PruningAxis.TIMESTEP, (0, 1, 2))
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for level in (900.0, 100.0, 400.0):
        assert torch.allclose(run(compiled, level), run(model, level), atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.usefixtures("_dynamo")
def test_compiling_a_gated_model_from_outside_says_what_to_do() -> None:
    compiled = torch.compile(gated(PruningAxis.TIMESTEP, (0,)), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"compile it in\s+place, model\.compile"):
        run(compiled, 900.0)


@pytest.mark.usefixtures("_dynamo")
def test_compiled_from_outside_with_graph_breaks_a_gated_model_is_still_right() -> None:
    eager, compiled = (gated(PruningAxis.TIMESTEP, (0,)) for _ in range(2))
    compiled = torch.compile(compiled, backend="eager")
    for level in (900.0, 100.0, 900.0):
        assert torch.allclose(run(compiled, level), run(eager, level), atol=1e-6)
