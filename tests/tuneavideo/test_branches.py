"""Tune-A-Video pruned in guidance's unconditional branch alone: stacked rows, told by its own pipeline."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
from diffusers import DiffusionPipeline
from f3core_tuneavideo import TuneAVideoPipeline
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from f3core.contract import example_plan
from f3core.errors import ModelError
from f3core.meta import share_copy
from f3core.plan import PruningPlan, StepRange
from f3core.sites import AttentionKind, PruningAxis, Removal
from f3core.surgery import Pruned, apply_plan_

TA = AttentionKind.TEMPORAL
ADAPTER = TuneAVideoAdapter()
RANGES = (StepRange(low=500.0), StepRange(high=500.0))


def plan(removal: Removal = Removal.SELF_ONLY, *, alone: bool = True, **options: Any) -> PruningPlan:
    options = {"axis": PruningAxis.TIMESTEP, "ranges": RANGES, "chosen": (0,)} | options
    apart = {"unet": {"forward": (1,) * len(options["ranges"])}} if alone else None
    return example_plan(ADAPTER.name, ADAPTER.sites(tiny.unet(), "unet"), (TA, removal), unconditional=apart, **options)


def pruned(whole: TuneAVideoPipeline, chosen: PruningPlan) -> TuneAVideoPipeline:
    unet = share_copy(whole.unet)
    apply_plan_(unet, chosen, ADAPTER, "unet")
    return ADAPTER.with_denoisers(whole, {"unet": unet})


def latents(pipe: Any, scale: float = 3.0) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    seeds = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    call = {"height": 8, "width": 12, "num_inference_steps": 4, "output_type": "latent", "video_length": 3}
    return pipe(prompt=["a red cat runs", "a dog"], generator=seeds, guidance_scale=scale, **call).frames


@pytest.mark.parametrize(
    ("removal", "options"),
    [
        (Removal.SELF_ONLY, {}),
        (Removal.SELF_ONLY, {"axis": PruningAxis.CELL, "chosen": (0, 1, 5, 7)}),
        (Removal.DROP, {"axis": PruningAxis.LAYER, "ranges": (StepRange(),), "chosen": (0, 2)}),
    ],
    ids=["timestep", "cell", "layer-drop"],
)
def test_each_call_equals_its_branches_run_apart(
    removal: Removal, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny.pipeline()
    both = pruned(whole, plan(removal, alone=False, **options)).unet
    alone = pruned(whole, plan(removal, **options))
    calls: list[bool] = []
    real = Pruned.__call__

    def compared(model: nn.Module, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        out = real(model, sample, timestep, text)
        if model is alone.unet:
            first, second = (slice(0, 2), slice(2, 4))
            expected = torch.cat(
                [real(both, sample[first], timestep, text[first]), whole.unet(sample[second], timestep, text[second])]
            )
            calls.append(torch.equal(out, expected) or torch.equal(out, whole.unet(sample, timestep, text)))
        return out

    monkeypatch.setattr(Pruned, "__call__", compared)
    found = latents(alone)
    assert calls == [True] * 4
    assert not torch.equal(found, latents(whole))


def test_prompts_without_guidance_are_no_branches() -> None:
    whole = tiny.pipeline()
    assert torch.equal(latents(pruned(whole, plan()), scale=1.0), latents(whole, scale=1.0))


def test_inversion_is_conditional() -> None:
    whole = tiny.pipeline()
    video = torch.rand(1, 3, 3, 8, 12)
    one, two = (pipe.invert(video, num_inference_steps=2) for pipe in (whole, pruned(whole, plan())))
    assert torch.equal(one, two)


FRESH = f"""
import sys, torch
from typing import Any
from f3core_tuneavideo import load_pipeline
from safetensors.torch import save_file
from torch import Tensor

{inspect.getsource(latents)}
save_file({{"latents": latents(load_pipeline(sys.argv[1])).contiguous()}}, sys.argv[2])
"""


def test_a_saved_folder_comes_back_the_same(tmp_path: Path) -> None:
    pipe = pruned(tiny.pipeline(), plan())
    ADAPTER.save(pipe, tmp_path / "model")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(tmp_path / "found.safetensors")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert torch.equal(load_file(tmp_path / "found.safetensors")["latents"], latents(pipe))
    stock = DiffusionPipeline.from_pretrained(tmp_path / "model")  # diffusers' own, which does not tell
    stock.set_progress_bar_config(disable=True)
    with pytest.raises(ModelError, match=r"does not tell.*adapter 'tune-a-video' loads"):
        stock("a dog", num_inference_steps=1, num_frames=3, height=8, width=16, output_type="latent")


@pytest.fixture
def _dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_dynamo")
def test_compiled_in_place_once_for_each_state_of_the_gates() -> None:
    eager = pruned(tiny.pipeline(), plan(axis=PruningAxis.LAYER, ranges=(StepRange(),), chosen=(0, 2)))
    counter = CompileCounter()
    compiled = share_copy(eager.unet)
    compiled.compile(backend=counter, fullgraph=True)
    found = latents(ADAPTER.with_denoisers(eager, {"unet": compiled}))
    assert torch.allclose(found, latents(eager), atol=1e-4)
    assert counter.frame_count == 2
