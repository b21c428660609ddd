"""The shipped minis pruned in guidance's unconditional branch alone: the whole line, and clips that it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import f3core


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-wan", "digits-tune-a-video"])
def test_a_mini_is_pruned_in_one_branch(name: str, tmp_path: Path) -> None:
    spec = {
        "version": 1,
        "model": {"source": f"zoo:{name}"},
        "calibrate": {"prompts": "zoo:digits", "num_prompts": 1, "steps": 2},
        "prune": {"axis": "cell", "step_ranges": 2, "criterion": "aas", "branch": "unconditional"},
        "evaluate": {"num_clips": 1, "timing_pairs": 0},
        "output": str(tmp_path / "run"),
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    result = f3core.apply(tmp_path / "spec.yaml")
    generation = result.report.generation
    assert generation.predicted.total == generation.counted.total < generation.before.total
    assert result.report.damage > 0

    def clip(call: dict[str, object]) -> torch.Tensor:
        seed = torch.Generator().manual_seed(1)
        return result.pipeline(
            "a red three moving left", num_inference_steps=2, generator=seed, output_type="pt", **call
        ).frames

    assert torch.isfinite(clip(dict(result.call))).all()
