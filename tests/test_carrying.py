"""The plan a model's config carries, and where its weights lie."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from f3core_diffusers.wan import WanAdapter
from safetensors.torch import load_file, save_file
from tiny_wan import transformer
from torch import nn

from f3core.carrying import ALIGNMENT, aligned_, apply_carried_, carried
from f3core.contract import example_plan
from f3core.errors import ModelError, PlanError
from f3core.sites import AttentionKind, Removal
from f3core.surgery import Pruned

ADAPTER = WanAdapter()


@pytest.mark.parametrize("adapter", [None, ADAPTER], ids=["named", "given"])
def test_a_carried_plan_prunes_as_it_did(adapter: WanAdapter | None) -> None:
    sites = ADAPTER.sites(transformer(), "transformer")
    plan = example_plan(ADAPTER.name, sites, (AttentionKind.TEMPORAL, Removal.SELF_ONLY))
    found = json.loads(json.dumps(carried(plan, "transformer")))
    model = transformer()
    apply_carried_(model, found, where="here", adapter=adapter)
    assert isinstance(model, Pruned)
    assert model.f3_plan == plan


@pytest.mark.parametrize("found", [{}, [], None, {"plan": None}, {"plan": {}, "component": "transformer"}, 3], ids=str)
def test_damage_is_named_with_its_place(found: object) -> None:
    with pytest.raises(ModelError, match=r"the plan in model/config\.json is damaged"):
        apply_carried_(transformer(), found, where="model/config.json")


def test_a_plan_of_another_model_is_refused() -> None:
    sites = ADAPTER.sites(transformer(layers=3), "transformer")
    plan = example_plan(ADAPTER.name, sites, (AttentionKind.TEMPORAL, Removal.SELF_ONLY))
    with pytest.raises(PlanError, match="which this model does not have"):
        apply_carried_(transformer(layers=2), carried(plan, "transformer"), where="here")


def test_unaligned_tensors_are_copied_and_others_stay(tmp_path: Path) -> None:
    memory = torch.arange(128.0)
    odd, even = memory[1:5], memory[(-memory.data_ptr() // 4) % 16 :][:4]
    model = nn.Module()
    model.odd, model.even = nn.Parameter(odd), nn.Parameter(even)
    model.register_buffer("odd_buffer", odd)
    model.register_buffer("nowhere", torch.empty(3, device="meta"))
    aligned_(model)
    assert torch.equal(model.odd, odd)
    assert torch.equal(model.odd_buffer, odd)
    assert model.odd.data_ptr() % ALIGNMENT == model.odd_buffer.data_ptr() % ALIGNMENT == 0
    assert model.even.data_ptr() == even.data_ptr()
    save_file({"a": torch.ones(3), "weight": torch.ones(5, 7)}, tmp_path / "file")
    line = nn.Linear(7, 5, bias=False)
    line.load_state_dict({"weight": load_file(tmp_path / "file")["weight"]}, assign=True)
    aligned_(line)
    assert line.weight.data_ptr() % ALIGNMENT == 0
