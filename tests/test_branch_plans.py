"""Plans that prune one branch of guidance: where its units are, what they save, and what is refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_cogvideo
import tiny_wan
from f3core_cogvideo.adapter import CogVideoAdapter
from f3core_diffusers.wan import WanAdapter
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guidance import ADAPTER, TA, plan_of
from test_plan import LEVELS, PASSES, request
from test_scores import make_scores
from torch import nn

import f3core
from f3core import engine
from f3core.candidates import Candidates
from f3core.capture import capture_inputs
from f3core.contract import example_plan
from f3core.errors import F3Error, PlanError, SpecError
from f3core.flops import costs
from f3core.measure import count_pruned
from f3core.meta import meta_copy
from f3core.plan import PruningPlan, split_steps
from f3core.scores import Scores
from f3core.sites import GuidanceBranch, PruningAxis, Removal
from f3core.spec import load_spec
from f3core.surgery import apply_plan_


def test_a_plan_of_one_branch_is_never_everywhere() -> None:
    plan, both = plan_of("layer"), plan_of("layer", alone=False)
    site = plan.pruned[0].sites[0]
    assert (plan.always(site), plan.gated(), plan.scope) == (False, True, "TA of the unconditional branch")
    assert (both.always(site), both.gated(), both.scope) == (True, False, "TA")
    assert PruningPlan.model_validate_json(plan.model_dump_json()) == plan
    with pytest.raises(ValueError, match="does not say which passes"):
        PruningPlan.model_validate(plan.model_dump() | {"unconditional": {}})


@functools.cache
def priced() -> tuple[nn.Module, Any, Any]:
    pipe = tiny_wan.pipeline(3)
    inputs = capture_inputs(ADAPTER, pipe, "a cat", tiny_wan.CALL)
    return pipe.transformer, inputs, costs(ADAPTER, {"transformer": pipe.transformer}, inputs)


@settings(deadline=None, max_examples=5)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=3, max_size=3),
    st.sets(st.integers(0, 8)),
    st.sampled_from([Removal.SELF_ONLY, Removal.DROP]),
)
def test_macs_are_predicted_exactly(rows: list[tuple[int, int]], chosen: set[int], removal: Removal) -> None:
    model, inputs, prices = priced()
    plan = example_plan(
        "wan",
        ADAPTER.sites(model, "transformer"),
        (TA, removal),
        axis=PruningAxis.CELL,
        ranges=split_steps([900.0, 500.0, 100.0], 3),
        chosen=chosen,
        prices=prices,
        passes={"transformer": {"forward": tuple(a + b for a, b in rows)}},
        unconditional={"transformer": {"forward": tuple(a for a, _ in rows)}},
    )
    copy = meta_copy(model)
    apply_plan_(copy, plan, ADAPTER, "transformer")
    _, generation = count_pruned(ADAPTER, {"transformer": copy}, plan, prices, inputs)
    assert generation.counted.total == generation.predicted.total
    saved = {unit.name: unit.macs_saved for unit in plan.units}
    for i, (a, _) in enumerate(rows):
        assert all((saved[name] > 0) == (a > 0) for name in saved if name.endswith(f"steps[{i}]"))


def halved() -> Scores:
    """Scores of two components of which the first alone is guided, at its first two steps."""
    half = {"transformer": {"forward": (1, 1, 0, 0, 0, 0)}, "transformer_2": {"forward": (0,) * 6}}
    return make_scores([site.fqn for site in request().sites], LEVELS, passes=PASSES, unconditional=half)


def test_units_are_where_the_branch_runs() -> None:
    found = Candidates.of(
        request(PruningAxis.CELL, scores=halved(), branch=GuidanceBranch.UNCONDITIONAL), split_steps(LEVELS, 3)
    )
    assert {unit.sites[0].partition(".")[0] for unit in found.units} == {"transformer"}
    assert {unit.ranges for unit in found.units} == {(0, 1, 2)}
    whole = Candidates.of(request(PruningAxis.CELL, scores=halved()), split_steps(LEVELS, 3))
    first = [unit.sites[0].startswith("transformer.") for unit in whole.units]
    assert sum(found.savings) * 3 == sum(itertools.compress(whole.savings, first))


def test_a_generation_that_tells_no_branch_is_refused() -> None:
    with pytest.raises(PlanError, match=r"unguided, or adapter 'synthetic' cannot tell the branches apart"):
        Candidates.of(request(branch=GuidanceBranch.UNCONDITIONAL), split_steps(LEVELS, 1))


def test_an_adapter_that_cannot_tell_is_refused() -> None:
    class Mute(WanAdapter):
        tells_branches = False

    with pytest.raises(PlanError, match="adapter 'wan' cannot tell them apart"):
        apply_plan_(tiny_wan.transformer(3), plan_of("layer"), Mute(), "transformer")


# --- from a spec ----------------------------------------------------------------------------------------------------

Write = Callable[..., Path]


def test_a_spec_prunes_one_branch(tiny_spec: Write) -> None:
    spec = tiny_spec(axis="cell", criterion="propagated_drift", step_ranges=2, branch="unconditional")
    result = f3core.apply(spec)
    generation = result.report.generation
    assert generation.predicted.total == generation.counted.total < generation.before.total
    assert result.plan.branch is GuidanceBranch.UNCONDITIONAL
    both = engine.plan_only(load_spec(spec, ["prune.branch=both"]), scores=result.scores)
    halves = zip(result.plan.units, both.units, strict=True)
    assert all(alone.macs_saved * 2 == unit.macs_saved for alone, unit in halves)
    assert [unit.score for unit in both.units] != [unit.score for unit in result.plan.units]
    text = (result.folder / "report.md").read_text()
    assert "TA of the unconditional branch pruned in 4 of 8 cells" in text
    assert "Sites keep their weights, which the other forwards need" in text


@pytest.mark.parametrize(
    ("branch", "call", "message"),
    [
        ("unconditional", ["model.call.guidance_scale=1.0"], r"spec\.yaml:4.*unguided and has no unconditional branch"),
        ("conditional", [], r"unknown 'conditional': "),
    ],
)
def test_specs_that_make_no_sense_are_refused(branch: str, call: list[str], message: str, tiny_spec: Write) -> None:
    with pytest.raises(SpecError, match=message):
        f3core.apply(tiny_spec(branch=branch), overrides=call)


def test_a_model_whose_adapter_cannot_tell_is_refused_before_it_is_scored(tiny_spec: Write, tmp_path: Path) -> None:
    assert not CogVideoAdapter.tells_branches
    pipe = tiny_cogvideo.pipeline()
    spec = tiny_spec(branch="unconditional")
    with pytest.raises(F3Error, match=r"adapter 'cogvideo' cannot tell the branches of guidance .* apart; prune both"):
        f3core.apply(spec, pipeline=pipe, overrides=["model.adapter=cogvideo"])
