"""Pruned pipelines in bfloat16 and in shards come back with diffusers alone, whatever their kind of denoiser."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from f3core.contract import example_plan
from f3core.meta import share_copy
from f3core.registry import installed
from f3core.sites import AttentionKind, Removal
from f3core.surgery import apply_plan_

PROMPT = "a red cat runs left"


@pytest.mark.parametrize("family", ["tiny_cogvideox", "tiny_hunyuan_video", "tiny_animatediff"])
def test_shards_in_bfloat16_come_back(
    family: str, tmp_path: Path, loaded_elsewhere: Callable[..., torch.Tensor]
) -> None:
    tiny, known = importlib.import_module(family), installed()
    tiny.pipeline().save_pretrained(tmp_path / "source")
    ((name, model_class),) = known.denoiser_classes(str(tmp_path / "source")).items()
    adapter = known.make("adapter", known.match_adapter([model_class]).name)
    plain = adapter.load(str(tmp_path / "source"), dtype=torch.bfloat16, device=torch.device("cpu"))
    denoiser = share_copy(adapter.denoisers(plain)[name])
    change = (AttentionKind.TEMPORAL, Removal.SELF_ONLY)
    plan = example_plan(adapter.name, adapter.sites(denoiser, name), change, chosen=(0,))
    apply_plan_(denoiser, plan, adapter, name)
    pruned = adapter.with_denoisers(plain, {name: denoiser})
    pruned.save_pretrained(tmp_path / "model", max_shard_size="40KB")
    assert len(list((tmp_path / "model" / name).glob("*.safetensors"))) > 1
    clip = adapter.generate(pruned, [PROMPT], steps=2, seeds=[3], call=tiny.CALL)
    asked = {**tiny.CALL, "num_inference_steps": 2, "prompt": [PROMPT]}
    assert torch.equal(loaded_elsewhere(tmp_path / "model", [3], asked, dtype="bfloat16"), clip)
