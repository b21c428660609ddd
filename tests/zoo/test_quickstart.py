"""The spec that the README runs, shortened: prune the trained mini, and load it back in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import f3core

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("calibrate.num_prompts=2", "calibrate.batch_size=2", "calibrate.steps=3", "evaluate.num_clips=2")
PROMPT = "a blue seven moving up"

FRESH = """
import json, sys, torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
call = json.load(open(sys.argv[1] + "/f3core.json"))["call"]
made = pipe(sys.argv[2], num_inference_steps=3, generator=torch.Generator().manual_seed(3), output_type="pt", **call)
save_file({"clip": made.frames.contiguous()}, sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["layer", "cell"])
def test_the_pruned_mini_comes_back_bit_for_bit(axis: str, tmp_path: Path) -> None:
    overrides = (*SHORT, "evaluate.timing_pairs=1", f"prune.axis={axis}")
    result = f3core.apply(ROOT / "specs" / "quickstart.yaml", output=tmp_path / "run", overrides=overrides)
    report = result.report
    assert report.generation.predicted.total == report.generation.counted.total < report.generation.before.total
    assert report.timing is not None
    assert report.timing.denoiser.before > 0
    assert set(report.quality) == {"text_accuracy", "frechet_video"}
    assert report.damage is not None
    assert 0 < report.damage < 0.2
    maps = report.generation.before.kinds
    assert sum(maps.values()) >= 0.2 * report.generation.before.total  # attention is a real share of the mini's work

    model, file = str(result.folder / "model"), tmp_path / "clip.safetensors"
    subprocess.run([sys.executable, "-c", FRESH, model, PROMPT, str(file)], check=True, capture_output=True)
    generator = torch.Generator().manual_seed(3)
    made = result.pipeline(PROMPT, num_inference_steps=3, generator=generator, output_type="pt", **result.call)
    assert torch.equal(load_file(file)["clip"], made.frames)
