"""From spec to report on a tiny Tune-A-Video, and plans from its configs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
from f3core_tuneavideo.adapter import TuneAVideoAdapter

import f3core
from f3core import engine
from f3core.spec import load_spec

ADAPTER = TuneAVideoAdapter()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tiny") / "tune-a-video"
    tiny.pipeline().save_pretrained(made)
    (made / "f3core.json").write_text(json.dumps({"call": tiny.CALL}))
    return made


def spec(source: Path, place: Path, **prune: Any) -> Path:
    (place / "prompts.txt").write_text("a red cat runs\na dog\na cat\n")
    written = place / "spec.yaml"
    sections = {
        "version": 1,
        "model": {"source": str(source)},
        "calibrate": {"prompts": str(place / "prompts.txt"), "num_prompts": 3, "steps": 4},
        "prune": prune,
        "evaluate": {"num_clips": 2, "timing_pairs": 0},
        "output": str(place / "run"),
    }
    written.write_text(json.dumps(sections))
    return written


@pytest.mark.parametrize(
    "prune",
    [
        {},
        {"criterion": "drift", "axis": "cell", "removal": "drop", "step_ranges": 2},
        {"target": "CA", "axis": "layer"},
    ],
    ids=["paper", "cells", "text"],
)
def test_apply_predicts_what_it_counts_and_saves_what_it_holds(
    prune: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    result = f3core.apply(spec(folder, tmp_path, **prune))
    generation = result.report.generation
    assert generation.predicted.total == generation.counted.total < generation.before.total
    assert not any("counted" in warning for warning in result.report.warnings)
    if not prune:
        assert result.plan.axis == "timestep"
    loaded = ADAPTER.load(str(result.folder / "model"), dtype=None, device=torch.device("cpu"))
    clips = [ADAPTER.generate(p, ["a dog"], steps=3, seeds=[5], call=tiny.CALL) for p in (loaded, result.pipeline)]
    assert torch.equal(*clips)


def test_plans_without_weights_cost_what_plans_from_scores_cost(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    scored = engine.plan_only(_read(folder, tmp_path))
    [(plan, macs)] = engine.plan_without_weights(_read(bare, tmp_path))
    assert plan == scored
    assert macs.counted.total == macs.predicted.total < macs.before.total


def _read(source: Path, place: Path) -> Any:
    return load_spec(spec(source, place, criterion="late"), [])
