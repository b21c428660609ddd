"""The specs that ship: all are valid, and those of the paper's two systems run, shortened, on the trained minis."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import f3core
from f3core.attention_study import attention
from f3core.errors import SpecError
from f3core.job import resolve
from f3core.registry import installed
from f3core.sites import PruningAxis, Removal
from f3core.spec import SpecFile, load_spec
from f3core.sweep import sweep

SPECS = Path(__file__).resolve().parents[2] / "specs"
SHORT = ("calibrate.num_prompts=2", "calibrate.batch_size=2", "calibrate.steps=3")
CLIPS = ("evaluate.num_clips=2", "evaluate.batch_size=2", "evaluate.timing_pairs=0")
SYSTEMS = ("cogvideo", "tune_a_video")
PROMPTS = ["a blue seven moving up", "a red two moving left"]

FRESH = """
import json, sys, torch
from safetensors.torch import save_file
import f3core.registry
adapter = f3core.registry.installed().make("adapter", sys.argv[1])
pipeline = adapter.load(sys.argv[2], dtype=None, device=torch.device("cpu"))
call = json.load(open(sys.argv[2] + "/f3core.json"))["call"]
made = adapter.generate(pipeline, sys.argv[4:], steps=3, seeds=[3, 4], call=call)
save_file({"clips": made.contiguous()}, sys.argv[3])
"""


@pytest.mark.parametrize("path", sorted(SPECS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_spec_is_valid(path: Path) -> None:
    """But for models that another spec makes."""
    problems: list[str] = []
    try:
        resolve(load_spec(path), installed(), check_output=False)
    except SpecError as error:
        problems = list(error.problems)
    made = {f"{load_spec(other).spec.output}/model" for other in SPECS.rglob("*.yaml")}
    missing = [re.search(r"'(.+?)' is no folder here", problem) for problem in problems]
    assert all(found and found[1] in made for found in missing), problems


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_pruned_minis_of_both_systems_come_back_bit_for_bit(system: str, tmp_path: Path) -> None:
    result = f3core.apply(SPECS / f"{system}.yaml", output=tmp_path / "run", overrides=(*SHORT, *CLIPS))
    report = result.report
    assert report.generation.predicted.total == report.generation.counted.total < report.generation.before.total
    assert result.plan.axis is {"cogvideo": PruningAxis.LAYER, "tune_a_video": PruningAxis.TIMESTEP}[system]
    assert set(result.plan.removals.values()) == {Removal.SELF_ONLY}
    model, file = str(result.folder / "model"), tmp_path / "clips.safetensors"
    command = [sys.executable, "-c", FRESH, result.plan.adapter, model, str(file), *PROMPTS]
    subprocess.run(command, check=True, capture_output=True)
    adapter = installed().make("adapter", result.plan.adapter)
    made = adapter.generate(result.pipeline, PROMPTS, steps=3, seeds=[3, 4], call=result.call)
    assert torch.equal(load_file(file)["clips"], made)


@pytest.mark.slow
def test_the_budget_is_met_and_its_neighbours_would_not_do(tmp_path: Path) -> None:
    result = f3core.apply(SPECS / "budget.yaml", output=tmp_path / "run", overrides=(*SHORT, *CLIPS))
    plan, macs = result.plan, result.report.generation
    assert plan.axis is PruningAxis.CELL
    assert macs.counted.total == macs.predicted.total <= 0.9 * macs.before.total
    lightest = min(unit.macs_saved for unit in plan.pruned)
    assert macs.counted.total + lightest > 0.9 * macs.before.total


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_papers_tables_and_figure_run(system: str, tmp_path: Path) -> None:
    def spec(name: str) -> SpecFile:
        clips = () if name == "figure3" else CLIPS
        return load_spec(SPECS / "paper" / f"{name}_{system}.yaml", (*SHORT, *clips, "sweep.seeds=[0]"))

    kinds = sweep(spec("table3"), output=tmp_path / "table3")
    assert [str(row.target) for row in kinds.rows if row.target] == ["CA", "SA", "TA"]
    ratios = sweep(spec("table4"), output=tmp_path / "table4")
    assert [row.ratio for row in ratios.rows] == [0, 0.25, 0.5, 0.75, 1]
    macs = [row.macs_counted for row in ratios.rows]
    assert macs == sorted(macs, reverse=True)
    assert (tmp_path / "table4" / "curve.png").stat().st_size > 10_000
    shown = attention(spec("figure3"), output=tmp_path / "figure3")
    assert shown.statements
    assert (tmp_path / "figure3" / "attention.png").stat().st_size > 10_000
