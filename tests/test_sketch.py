"""Plans from configs alone say what plans from scores say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from f3core import engine
from f3core.errors import ModelError, PlanError
from f3core.spec import load_spec

Write = Callable[..., Path]
RATIOS = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture
def bare_spec(tiny_spec: Write, tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """The tiny spec on a copy of the tiny pipeline that holds no weights."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    return lambda **prune: load_spec(
        tiny_spec(**{"criterion": "late", "axis": "layer"} | prune), [f"model.source={bare}"]
    )


@pytest.mark.parametrize("axis", ["layer", "timestep", "cell"])
def test_plans_without_weights_cost_what_plans_from_scores_cost(
    axis: str, bare_spec: Callable[..., Any], tiny_spec: Write
) -> None:
    scored = engine.plan_only(load_spec(tiny_spec(criterion="late", axis=axis)))
    [(plan, macs)] = engine.plan_without_weights(bare_spec(axis=axis))
    assert plan == scored
    assert macs.counted.total == macs.predicted.total == plan.macs_after < plan.macs_before == macs.before.total


def test_macs_fall_with_the_ratio_and_only_the_targets_maps_shrink(bare_spec: Callable[..., Any]) -> None:
    plans = engine.plan_without_weights(bare_spec(), RATIOS)
    totals = [macs.counted.total for _, macs in plans]
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) == len(RATIOS)
    for ratio, (plan, macs) in zip(RATIOS, plans, strict=True):
        assert plan.ratio == ratio
        assert [str(kind) for kind in macs.before.kinds if macs.before.kinds[kind] != macs.counted.kinds[kind]] == (
            ["TA"] if ratio else []
        )


def test_what_needs_scores_says_so(bare_spec: Callable[..., Any]) -> None:
    with pytest.raises(PlanError, match=r"'aas' ranks by scores: give --scores, .* \(late, measured, random\)"):
        engine.plan_without_weights(bare_spec(criterion="aas"))


def test_broken_configs_are_named(bare_spec: Callable[..., Any], tmp_path: Path) -> None:
    file = bare_spec()
    (tmp_path / "bare" / "transformer" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"bare: its configs could not be read"):
        engine.plan_without_weights(file)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("{hieght: 32}", r"WanPipeline has no argument 'hieght' \(model.call\); did you mean 'height'"),
        (
            "{height: 40}",
            "WanPipeline would refuse to generate: height must be a multiple of 16, not 40",
        ),
        ("{width: 0}", "width must be a multiple of 16, not 0"),
        ("{width: wide}", "WanPipeline would refuse to generate"),
        ("{num_inference_steps: 9}", "must not set num_inference_steps: the spec's own keys decide that"),
    ],
)
def test_a_call_that_the_pipeline_would_refuse_is_refused(call: str, said: str, bare_spec: Callable[..., Any]) -> None:
    file = bare_spec()
    with pytest.raises(ModelError, match=said):
        engine.plan_without_weights(load_spec(file.name, [*file.overrides, f"model.call={call}"]))


@pytest.mark.parametrize("frames", [4, 5, 6, 7])
def test_numbers_of_frames_are_rounded_as_the_pipeline_does(
    frames: int, bare_spec: Callable[..., Any], tiny_spec: Write
) -> None:
    sets = [f"model.call={{num_frames: {frames}}}", "calibrate.num_prompts=1"]
    file = bare_spec()
    [(plan, _)] = engine.plan_without_weights(load_spec(file.name, [*file.overrides, *sets]))
    scored = engine.plan_only(load_spec(tiny_spec(criterion="late", axis="layer"), sets))
    assert plan.macs_before == scored.macs_before


def test_a_pruned_folder_is_refused(bare_spec: Callable[..., Any], tiny_spec: Write, tmp_path: Path) -> None:
    engine.apply(tiny_spec("null", criterion="late", axis="layer"))
    file = bare_spec()
    with pytest.raises(ModelError, match="its transformer is pruned already; start from the unpruned model"):
        engine.plan_without_weights(load_spec(file.name, [f"model.source={tmp_path / 'run' / 'model'}"]))


def test_a_component_that_never_runs_is_left_out(bare_spec: Callable[..., Any], tmp_path: Path) -> None:
    """As in a two-stage model whose steps all lie on one side of the boundary."""
    file = bare_spec()
    bare = tmp_path / "bare"
    shutil.copytree(bare / "transformer", bare / "transformer_2")
    index = json.loads((bare / "model_index.json").read_text())
    index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.001}
    (bare / "model_index.json").write_text(json.dumps(index))
    [(plan, macs)] = engine.plan_without_weights(file)
    assert {name: any(rows["forward"]) for name, rows in plan.passes.items()} == {
        "transformer": True,
        "transformer_2": False,
    }
    assert macs.counted.total == macs.predicted.total < macs.before.total


def test_the_command_compares_ratios(f3core_cli: Any, bare_spec: Callable[..., Any], tmp_path: Path) -> None:
    file = bare_spec()
    code, out, _ = f3core_cli("plan", file.name, "--set", file.overrides[0], "--ratios", "0.25,0.5", "--json")
    assert code == 0
    assert [plan["ratio"] for plan in json.loads(out)] == [0.25, 0.5]
    code, out, _ = f3core_cli("plan", file.name, "--set", file.overrides[0], "--ratios", "0.25,0.5")
    assert "TA maps" in out
    code, _, err = f3core_cli(
        "plan", file.name, "--set", file.overrides[0], "--ratios", "0.25,0.5", "-o", tmp_path / "p"
    )
    assert (code, "--output holds one plan" in err) == (2, True)
    code, _, err = f3core_cli("plan", file.name, "--set", file.overrides[0], "--ratios", ",")
    assert (code, "--ratios ,: write numbers with commas between them" in err) == (2, True)
    code, out, _ = f3core_cli("plan", file.name, "--set", file.overrides[0], "-o", tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["criterion"] == "late"
    assert "prune" in out
