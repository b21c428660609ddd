"""Runs by methods that reduce keys: what is saved comes back, what makes no sense is refused where the spec says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import f3core
from f3core.errors import SpecError
from f3core.sites import Removal


def test_a_run_by_a_reducing_method(tiny_spec: Callable[..., Path], tmp_path: Path, tiny_folder: Path) -> None:
    result = f3core.apply(tiny_spec(method="tome", ratio=0.5))
    assert not result.scores.prompts
    assert not (result.folder / "scores.safetensors").exists()
    assert set(result.plan.removals.values()) == {Removal.REDUCE}
    report = json.loads((result.folder / "report.json").read_text())
    assert report["generation"]["counted"]["total"] == report["generation"]["predicted"]["total"]
    assert report["parameters"]["before"] == report["parameters"]["after"]
    from diffusers import DiffusionPipeline

    loaded = DiffusionPipeline.from_pretrained(result.folder / "model")
    call = {**result.call, "num_inference_steps": 2, "output_type": "pt"}
    clips = [
        pipe("a red cat runs left", generator=torch.Generator().manual_seed(0), **call).frames
        for pipe in (result.pipeline, loaded)
    ]
    assert torch.equal(*clips)


@pytest.mark.parametrize(
    ("prune", "message"),
    [
        ({"method": "tome", "target": "CA"}, "does nothing to CA"),
        ({"method": "tome", "removal": "drop"}, "a way of its own"),
        ({"method": "tomesd", "target": "SA"}, "no site of this model bears merge"),
        ({"method": "tome", "axis": "timestep"}, "at every step"),
        ({"method": "tome", "branch": "unconditional"}, "in both branches"),
        ({"method": "tome", "ratio": None, "budget": {"macs": 0.9}}, "cannot meet a budget"),
        ({"method": "f3", "removal": "reduce"}, "by reduce"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny_spec: Callable[..., Path], prune: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        f3core.apply(tiny_spec(**prune))


def test_studies_of_rankings_refuse_methods_that_rank_nothing(
    tiny_spec: Callable[..., Path], f3core_cli: Callable[..., Any]
) -> None:
    spec = tiny_spec(method="tome")
    for command in (["score", spec], ["rank-study", spec, "--seeds", "0"]):
        code, _, told = f3core_cli(*command)
        assert code == 2
        assert "ranks nothing" in told


def test_a_plan_that_ranks_nothing_names_no_criterion_and_draws_no_curve(
    tiny_spec: Callable[..., Path], f3core_cli: Callable[..., Any], tmp_path: Path
) -> None:
    spec = tiny_spec(method="tome", ratio=0.5)
    code, out, _ = f3core_cli("plan", spec)
    assert code == 0
    assert "tome: TA by reduce, axis layer" in out
    assert not any(word in out for word in ("aas", "damage"))
    assert "curve" not in json.loads(f3core_cli("plan", spec, "--json")[1])
    code, _, told = f3core_cli("plan", spec, "--curve", tmp_path / "c.png")
    assert (code, "no curve" in told) == (2, True)
