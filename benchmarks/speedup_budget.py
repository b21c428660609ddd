"""Whether a budget of speed is met: on the shipped mini, and on a stack of blocks of Wan 2.1 1.3B's size.

    python benchmarks/speedup_budget.py mini [--speedup 1.1]
    python benchmarks/speedup_budget.py blocks [--speedup 1.12]     # two blocks, 13 × 400 tokens, random weights

Runs `f3core.apply` with `prune.budget.speedup` and prints every candidate that it measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch
from blocks import WAN_1_3B
from diffusers import WanPipeline, WanTransformer3DModel

import f3core
from f3core.registry import installed

SPEC = Path(__file__).parents[1] / "specs" / "ranking" / "wan.yaml"
MINI = ("calibrate.num_prompts=8", "evaluate.timing_batch=8", "evaluate.num_clips=8", "evaluate.timing_pairs=3")
BLOCKS = (
    "calibrate.num_prompts=1",
    "calibrate.steps=2",
    "calibrate.batch_size=1",
    "model.call={num_frames: 25, height: 80, width: 80, guidance_scale: 1.0, max_sequence_length: 16}",
    "prune.criterion=drift",
    "prune.step_ranges=2",
    "evaluate={num_clips: 1, timing_pairs: 1}",
)


def blocks() -> WanPipeline:
    """The mini's pipeline around blocks of another model's width."""
    pipe = WanPipeline.from_pretrained(installed().entry("source", "zoo:digits-wan").folder)
    own = {key: pipe.transformer.config[key] for key in ("in_channels", "out_channels", "text_dim", "freq_dim")}
    torch.manual_seed(0)
    pipe.transformer = WanTransformer3DModel(**(WAN_1_3B | own | {"num_layers": 2})).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("mini", "blocks"))
    parser.add_argument("--speedup", type=float, default=1.1)
    parser.add_argument("--json")
    options = parser.parse_args()
    sets = [*(MINI if options.what == "mini" else BLOCKS), f"prune.budget={{speedup: {options.speedup}}}"]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = blocks() if options.what == "blocks" else None
        found = f3core.apply(SPEC, pipeline=pipeline, output=Path(folder) / "run", overrides=sets).report
    for tried in found.tried:
        print(f"{tried.units} units go, {100 * tried.macs:.1f} % of MACs stay: {tried.measured}, {tried.verdict}")
    timing = found.timing.denoiser
    print(f"asked {options.speedup:g}×; the report's own timing afterwards: {timing.speedup:.3f}×")
    if options.json:
        kept = {"date": found.date, "machine": found.machine.model_dump(), "asked": options.speedup}
        kept |= {"tried": [one.model_dump() for one in found.tried], "timing": timing.model_dump()}
        Path(options.json).write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
