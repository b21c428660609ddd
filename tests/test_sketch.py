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
    with pytest.raises(PlanError, match=r"'aas' ranks by scores: give --scores, .* \(late, random\)"):
        engine.plan_without_weights(bare_spec(criterion="aas"))


def test_broken_configs_are_named(bare_spec: Callable[..., Any], tmp_path: Path) -> None:
    file = bare_spec()
    (tmp_path / "bare" / "transformer" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"bare: its configs could not be read"):
        engine.plan_without_weights(file)


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
    code, out, _ = f3core_cli("plan", file.name, "--set", file.overrides[0], "-o", tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text())["criterion"] == "late"
    assert "prune" in out
