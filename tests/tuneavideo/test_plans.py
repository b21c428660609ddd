"""Plans over denoising steps: the same noise levels at any number of steps, and folders that come back pruned."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
from diffusers import DDIMScheduler
from f3core_tuneavideo import TuneAVideoPipeline, load_pipeline
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from safetensors.torch import load_file
from torch import Tensor

from f3core.contract import example_plan
from f3core.explicit import Intercept
from f3core.meta import share_copy
from f3core.plan import PruningPlan, StepRange, split_steps
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import apply_plan_

TA = AttentionKind.TEMPORAL
ADAPTER = TuneAVideoAdapter()
RANGES = (StepRange(low=500.0), StepRange(high=500.0))


def pruned(plan: PruningPlan) -> TuneAVideoPipeline:
    whole = tiny.pipeline()
    unet = share_copy(whole.unet)
    apply_plan_(unet, plan, ADAPTER, "unet")
    return ADAPTER.with_denoisers(whole, {"unet": unet})


def levels(steps: int) -> list[float]:
    scheduler = DDIMScheduler(**tiny.SCHEDULE)
    scheduler.set_timesteps(steps)
    return [float(t) for t in scheduler.timesteps]


def test_a_plan_made_at_50_steps_prunes_the_same_noise_levels_at_20_and_30() -> None:
    ranges = split_steps(levels(50), 5)
    sites = ADAPTER.sites(tiny.unet(), "unet")
    axis = PruningAxis.TIMESTEP
    plan = example_plan(ADAPTER.name, sites, (TA, Removal.SELF_ONLY), axis=axis, ranges=ranges, chosen=(1, 3, 4))
    pipe = pruned(plan)
    spatial = [site for site in sites if site.path.endswith("attn1")]
    for steps in (50, 20, 30):
        seen: list[float] = []
        went: dict[float, set[bool]] = {}
        hook = pipe.unet.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(float(args[1])))

        def note(_site: Any, shape: Any, _call: Any, run: Any, seen: Any = seen, went: Any = went) -> Tensor:
            went.setdefault(seen[-1], set()).add(shape.keys == shape.queries)
            return run()

        with Intercept(note).at(pipe.unet, spatial):
            pipe("a dog", num_inference_steps=steps, output_type="latent", **tiny.CALL)
        hook.remove()
        assert seen == levels(steps)
        bounds = [ranges[1].high, ranges[1].low, ranges[3].high]
        for level, pruned_here in went.items():
            assert pruned_here == {bounds[1] < level <= bounds[0] or level <= bounds[2]}
        assert sum(map(sum, went.values())) == pytest.approx(0.6 * steps, abs=1)


CASES: dict[str, tuple[Removal, dict[str, Any]]] = {
    "layer": (Removal.SELF_ONLY, {"chosen": (0, 1, 3)}),
    "layer-drop": (Removal.DROP, {"chosen": (0, 2)}),
    "timestep": (Removal.SELF_ONLY, {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (1,)}),
    "every-step": (Removal.SELF_ONLY, {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (0, 1)}),
    "cell": (Removal.SELF_ONLY, {"axis": PruningAxis.CELL, "ranges": RANGES, "chosen": (0, 1, 5, 7)}),
}


def latents(pipe: Any, **size: int) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    call = {"height": 8, "width": 16, "guidance_scale": 3.0, "num_inference_steps": 4, "output_type": "latent"}
    return pipe(prompt=["a red cat runs", "a dog"], generator=seeds, **call, **size).frames


FRESH = f"""
import json, sys, torch
from typing import Any
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

{inspect.getsource(latents)}
folder, found = sys.argv[1], {{}}
assert not any(name.startswith("f3core") for name in sys.modules)
for name in json.loads(sys.argv[2]):
    pipe = DiffusionPipeline.from_pretrained(f"{{folder}}/{{name}}")
    assert type(pipe.unet).__name__ == "PrunedTuneAVideoUNet"
    found[name] = latents(pipe, num_frames=3).contiguous()
    found |= {{f"{{name}}/{{key}}": value.contiguous() for key, value in pipe.unet.state_dict().items()}}
save_file(found, f"{{folder}}/found.safetensors")
"""


def test_pruned_folders_come_back_the_same_in_a_fresh_process(tmp_path: Path) -> None:
    """By diffusers alone, to its own pipeline; and here, to ours."""
    made = {}
    for name, (removal, chosen) in CASES.items():
        sites = ADAPTER.sites(tiny.unet(), "unet")
        made[name] = pruned(example_plan(ADAPTER.name, sites, (TA, removal), **chosen))
        ADAPTER.save(made[name], tmp_path / name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FRESH, str(tmp_path), json.dumps(list(CASES))]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = load_file(tmp_path / "found.safetensors")
    for name, pipe in made.items():
        state = pipe.unet.state_dict()
        assert {key for key in found if key.startswith(f"{name}/")} == {f"{name}/{key}" for key in state}
        assert all(torch.equal(found[f"{name}/{key}"], tensor) for key, tensor in state.items())
        expected = latents(pipe, video_length=3)
        assert torch.equal(found[name], expected), name
        loaded = ADAPTER.load(str(tmp_path / name), dtype=None, device=torch.device("cpu"))
        assert type(loaded) is type(load_pipeline(tmp_path / name)) is TuneAVideoPipeline
        assert torch.equal(latents(loaded, video_length=3), expected), name
        (skeleton,) = ADAPTER.skeletons(str(tmp_path / name)).values()
        assert list(skeleton.state_dict()) == list(state)
