"""Parameters and MACs of full-size models with whole blocks out, counted on the meta device.

    python benchmarks/vdmini_counts.py [--json FILE] [--markdown FILE]

U-Nets lose what VDMini's rule takes (method ``vdmini``); transformers every fifth of their blocks (``listed``): which
ones go does not matter to a count where they are alike, and where there are two kinds each loses its share.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from blocks import published
from f3core_f3.criteria import Late
from f3core_vdmini.methods import Listed, VDMini

from f3core.adapter import Adapter, Sketch
from f3core.block import Block
from f3core.environment import machine, now
from f3core.flops import costs
from f3core.measure import count_pruned
from f3core.meta import meta_copy
from f3core.method import PlanRequest
from f3core.plan import PruningPlan
from f3core.report_text import markdown_table
from f3core.scores import Scores
from f3core.sites import FORWARD, PruningAxis, Removal, Structure
from f3core.surgery import apply_plan_, parameter_count

MODELS = {
    "Stable Video Diffusion": "rule",
    "ModelScope 1.7B": "rule",
    "AnimateDiff v2, SD 1.5": "rule",
    "Wan 2.1 14B": "fifth",
    "HunyuanVideo 13B": "fifth",
}
LIKE = {"ModelScope 1.7B": ("VideoCrafter2-shaped", "16 frames, 320 × 512", (16, 40, 64))}
"""Published models that stand for another of the same shape, with its name, clip and latent size. VideoCrafter2's U-Net
has 320 to 1280 channels in four levels of two pairs, text of 1024 channels, temporal convolutions and transformers, as
ModelScope's; its linear projections and its embedding of the frame rate are not in diffusers' class."""


def plan_of(adapter: Adapter, sketch: Sketch, how: str) -> tuple[PruningPlan, Any]:
    """The plan, and what everything costs."""
    prices = costs(adapter, sketch.denoisers, sketch.inputs, [Structure.BLOCK])
    blocks = tuple(block for name, one in sketch.denoisers.items() for block in adapter.blocks(one, name))
    scores = Scores.unscored(
        blocks,
        adapter=adapter.name,
        levels=sketch.levels,
        passes=sketch.rows,
        unconditional=sketch.unconditional,
        drift_target=Structure.BLOCK,
    )
    method = VDMini() if how == "rule" else Listed(fifths(blocks))
    request = PlanRequest(
        adapter=adapter.name,
        sites=blocks,
        scores=scores,
        costs=prices,
        target=Structure.BLOCK,
        axis=PruningAxis.LAYER,
        removals={block.fqn: Removal.DROP for block in blocks if not block.fixed},
        criterion=Late(),
        ratio=0.5,
    )
    return method.plan(request), prices


def fifths(blocks: tuple[Block, ...]) -> list[str]:
    """Every fifth block of each list."""
    lists: dict[str, list[str]] = {}
    for block in blocks:
        lists.setdefault(block.fqn.rpartition(".")[0], []).append(block.fqn)
    return [fqn for found in lists.values() for fqn in found[2::5]]


def count(name: str, how: str) -> dict[str, Any]:
    """Of one model."""
    began = time.perf_counter()
    adapter, model = published(name)
    sketch, called, clip = model.sketch(), name, model.clip
    if name in LIKE:
        called, clip, (frames, height, width) = LIKE[name]
        ((part, denoiser),) = sketch.denoisers.items()
        with torch.device("meta"):
            inputs = adapter.example_inputs(denoiser, frames=frames, height=height, width=width)
        sketch = replace(sketch, inputs={part: {FORWARD: inputs}})
    plan, prices = plan_of(adapter, sketch, how)
    students = {part: meta_copy(denoiser) for part, denoiser in sketch.denoisers.items()}
    before = sum(map(parameter_count, sketch.denoisers.values()))
    for part, denoiser in students.items():
        apply_plan_(denoiser, plan, adapter, part)
    change = count_pruned(adapter, students, plan, prices, sketch.inputs)[1]
    return {
        "model": called,
        "clip": clip,
        "method": plan.method,
        "blocks": len(plan.units),
        "gone": [unit.name for unit in plan.pruned],
        "class": [type(denoiser).__name__ for denoiser in students.values()],
        "parameters": [before, sum(map(parameter_count, students.values()))],
        "macs": [change.before.total, change.counted.total],
        "predicted": change.predicted.total,
        "seconds": round(time.perf_counter() - began, 1),
    }


def table(found: list[dict[str, Any]]) -> str:
    head = ["model", "clip", "method", "blocks out", "parameters, M", "MACs of a generation, T", "left is a"]
    rows = []
    for one in found:
        (p, q), (m, n) = one["parameters"], one["macs"]
        rows.append(
            [
                one["model"],
                one["clip"],
                f"`{one['method']}`",
                f"{len(one['gone'])} of {one['blocks']}",
                f"{p / 1e6:,.1f} → {q / 1e6:,.1f} (−{100 * (1 - q / p):.1f} %)",
                f"{m / 1e12:,.0f} → {n / 1e12:,.0f} (−{100 * (1 - n / m):.1f} %)",
                ", ".join(f"`{name}`" for name in one["class"]),
            ]
        )
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    asked = parser.parse_args()
    found = [count(name, how) for name, how in MODELS.items()]
    text = table(found)
    print(text)
    if asked.json:
        told = {"date": now(), "machine": machine().model_dump(mode="json"), "models": found}
        asked.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    if asked.markdown:
        notes = (
            f"Counted on the meta device, {now()[:10]}: `python benchmarks/vdmini_counts.py`. Exact numbers and "
            "the blocks that went are in the JSON beside it. VideoCrafter2's shape is that of ModelScope's U-Net.\n"
        )
        asked.markdown.write_text(f"# Whole blocks out, full size\n\n{text}\n\n{notes}", encoding="utf-8")


if __name__ == "__main__":
    main()
