"""Real pipelines of tiny components, one a family, end to end: generate, score, prune, save, load without f3core.
A plan from the pipeline's configs alone takes the noise levels and counts the MACs that scoring did.

Every ``tiny_*.py`` here with a ``pipeline()`` and a ``CALL`` is run. ``PROMPTED = False``: it takes no prompt;
``IMAGE = True``: it starts from an image; ``VIDEOS``: number of frames of every video that it is given, by argument;
``TENSORS``: shapes of the tensors that it is given, by argument;
``PRUNE``: other settings of the spec's ``prune``; ``READY``: methods to call once it is loaded, by path, such as
"vae.enable_tiling".
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import f3core
from f3core.flops import costs
from f3core.registry import installed

PROMPTS = ["a red cat runs left", "a green dog sleeps"]
FAMILIES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("tiny_*.py")
    if hasattr(importlib.import_module(path.stem), "pipeline")
)


def call_of(tiny: ModuleType, folder: Path) -> dict[str, Any]:
    """The arguments of a generation; an image, videos and tensors are made where they are needed."""
    call = dict(tiny.CALL)

    def noise() -> Image.Image:
        return Image.effect_noise((call.get("width", 32), call.get("height", 32)), 90).convert("RGB")

    if getattr(tiny, "IMAGE", False):
        noise().save(folder / "image.png")
        call["image"] = str(folder / "image.png")
    for name, frames in getattr(tiny, "VIDEOS", {}).items():
        noise().save(folder / f"{name}.gif", save_all=True, append_images=[noise() for _ in range(frames - 1)])
        call[name] = str(folder / f"{name}.gif")
    for name, shapes in getattr(tiny, "TENSORS", {}).items():
        save_file({str(i): torch.randn(shape) for i, shape in enumerate(shapes)}, folder / f"{name}.safetensors")
        call[name] = str(folder / f"{name}.safetensors")
    return call


def spec_of(folder: Path, source: Path, call: dict[str, Any], **prune: Any) -> f3core.Spec:
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    return f3core.Spec.model_validate(
        {
            "version": 1,
            "model": {"source": str(source), "call": call, "device": "cpu"},
            "calibrate": {"prompts": str(prompts), "num_prompts": 2, "batch_size": 2, "steps": 2},
            "prune": {"axis": "layer", "ratio": 0.5, **prune},
            "evaluate": {"num_clips": 2, "timing_pairs": 0},
            "output": str(folder / "run"),
        }
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_and_loaded_by_diffusers_alone(
    family: str, tmp_path: Path, loaded_elsewhere: Callable[..., torch.Tensor]
) -> None:
    tiny = importlib.import_module(family)
    pipe = tiny.pipeline()
    pipe.save_pretrained(tmp_path / "source")
    call = call_of(tiny, tmp_path)
    result = f3core.apply(spec_of(tmp_path, tmp_path / "source", call, **getattr(tiny, "PRUNE", {})))
    macs = result.report.generation
    assert macs.counted.total == macs.predicted.total < macs.before.total
    adapter = installed().make("adapter", result.plan.adapter)
    sketch = adapter.sketch(str(tmp_path / "source"), steps=2, call=call)
    assert sketch.levels == result.scores.header.levels, "a plan from configs alone takes other noise levels"
    from_configs = costs(adapter, sketch.denoisers, sketch.inputs).generation(sketch.rows)
    assert from_configs == result.plan.macs_before, "a plan from configs alone counts other MACs"
    assert result.report.damage > 0, "pruning does not show"
    clip = adapter.generate(result.pipeline, PROMPTS[:1], steps=2, seeds=[3], call=call)
    pair = adapter.generate(result.pipeline, PROMPTS, steps=2, seeds=[3, 4], call=call)
    assert torch.allclose(pair[:1], clip, atol=5e-3), "a clip depends on the others of its batch"
    model = tmp_path / "run" / "model"
    asked = {**call, "num_inference_steps": 2}
    if getattr(tiny, "PROMPTED", True):
        asked["prompt"] = PROMPTS[:1]
    needs = {"ready": getattr(tiny, "READY", ()), "videos": tuple(getattr(tiny, "VIDEOS", ()))}
    alone = adapter.one_by_one(result.pipeline)
    assert torch.equal(loaded_elsewhere(model, [3], asked, alone=alone, **needs), clip)
    assert not list(model.rglob("*.bin")), "weights are safetensors only"
    for name, denoiser in adapter.denoisers(result.pipeline).items():
        files = list((model / name).glob("*.safetensors"))
        keys = {key for file in files for key in load_file(file)}
        assert keys == set(denoiser.state_dict())
        assert json.loads((model / "model_index.json").read_text())[name][1].startswith("Pruned")
