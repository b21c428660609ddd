"""The published model, by the fixtures that its own code made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from f3core_cogvideo import CogVideoConfig, CogVideoTransformer, load_published
from safetensors import safe_open
from torch import Tensor

from f3core.errors import ModelError

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("cogvideo_stage1_full", "cogvideo_stage2_window")


def fixture(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """Sizes, published weights, and the other tensors."""
    with safe_open(FIXTURES / f"{name}.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return sizes, weights, {k: v for k, v in tensors.items() if not k.startswith("weights.")}


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_published_code(name: str) -> None:
    sizes, weights, given = fixture(name)
    model = load_published(weights, sizes)
    with torch.no_grad():
        logits = model(given["input_ids"], given["position_ids"], given["text_mask"])
    assert (logits - given["expected_logits"]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_published_names_come_back(name: str) -> None:
    sizes, weights, _ = fixture(name)
    back = load_published(weights, sizes).published_state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)


@pytest.mark.parametrize("name", NAMES)
def test_usual_positions_are_the_published_ones(name: str) -> None:
    sizes, weights, given = fixture(name)
    positions = load_published(weights, sizes).usual_positions(*given["input_ids"].shape)
    assert torch.equal(positions, given["position_ids"])


def test_unknown_size_is_named() -> None:
    sizes, weights, _ = fixture(NAMES[0])
    with pytest.raises(ModelError, match=r"unknown size 'layer'.*did you mean 'layers'"):
        load_published(weights, {**sizes, "layer": 3})


def test_published_vocabulary_brings_its_start_of_image() -> None:
    sizes = {"layers": 0, "hidden": 2, "heads": 1, "positions": 1, "additional": 1}
    weights = CogVideoTransformer(CogVideoConfig(**sizes)).published_state_dict()
    assert load_published(weights, sizes).config.start_of_image == 150_000
    assert load_published(weights, {**sizes, "start_of_image": None}).config.start_of_image is None
    sizes, weights, _ = fixture(NAMES[0])
    assert load_published(weights, sizes).config.start_of_image is None


def test_missing_weight_is_named() -> None:
    sizes, weights, _ = fixture(NAMES[0])
    weights.pop("mixins.attention_plus.dense.1.bias")
    with pytest.raises(ModelError, match=r"attention_plus\.dense\.bias"):
        load_published(weights, sizes)


def test_importing_the_package_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import sys, f3core_cogvideo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": "plugins"}).returncode == 0
