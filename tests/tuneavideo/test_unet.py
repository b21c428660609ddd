"""`TuneAVideoUNet`: parity with the published code, parameters and MACs at the published size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tuneavideo as tiny
import torch
from f3core_tuneavideo import TuneAVideoUNet, load_published
from f3core_tuneavideo.adapter import TuneAVideoAdapter
from f3core_tuneavideo.attention import TextAttention
from safetensors import safe_open

from f3core.explicit import Intercept
from f3core.flops import MacCount, count

FIXTURE = Path(__file__).parent / "fixtures" / "tune_a_video_unet.safetensors"


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(str(FIXTURE), "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118


def test_equals_the_published_code(published: tuple[dict[str, torch.Tensor], dict]) -> None:
    tensors, config = published
    weights = {name.removeprefix("weights."): t for name, t in tensors.items() if name.startswith("weights.")}
    model = load_published(weights, config)
    assert set(model.state_dict()) == set(weights)
    with torch.no_grad():
        found = model(tensors["sample"], tensors["timestep"], tensors["encoder_hidden_states"])
    assert (found - tensors["expected_sample"]).abs().max() <= 1e-4


@pytest.fixture(scope="module")
def full_size() -> TuneAVideoUNet:
    with torch.device("meta"):
        return TuneAVideoUNet()


def test_has_the_parameters_of_the_paper(full_size: TuneAVideoUNet) -> None:
    assert round(sum(p.numel() for p in full_size.parameters()) / 1e6, 2) == 909.12


def counted(model: TuneAVideoUNet, frames: int) -> MacCount:
    inputs = {
        "sample": torch.empty(1, 4, frames, 64, 64, device="meta"),
        "timestep": torch.empty(1, device="meta"),
        "encoder_hidden_states": torch.empty(1, 77, 768, device="meta"),
    }
    return count(model, inputs)


def test_costs_what_the_published_code_costs(full_size: TuneAVideoUNet) -> None:
    """TMAC of one forward of 8 frames at 512 x 512, by part and in total; and of 24 frames."""
    macs = counted(full_size, 8)

    def part(name: str) -> float:
        return macs.under(*(path for path in macs.modules if path.endswith(f".{name}"))) / 1e12

    assert macs.total / 1e12 == pytest.approx(3.909, rel=1e-3)
    assert part("attn1") == pytest.approx(1.185, abs=6e-4)
    assert part("ff") == pytest.approx(0.614, abs=6e-4)
    assert part("attn_temp") == pytest.approx(0.206, abs=6e-4)
    assert part("attn2") == pytest.approx(0.128, abs=6e-4)
    assert macs.operators["conv"] / 1e12 == pytest.approx(1.776, abs=6e-4)
    assert counted(full_size, 24).total / 1e12 == pytest.approx(11.736, rel=1e-3)


def test_upcast_attention_is_honoured() -> None:
    """All three attentions run in float32; where they do anyway, nothing changes."""
    inputs = torch.randn(1, 4, 2, 4, 4), 500.0, torch.randn(1, 6, 12)
    with torch.no_grad():
        assert torch.equal(tiny.unet(upcast_attention=True)(*inputs), tiny.unet()(*inputs))
    seen: dict[str, set[torch.dtype]] = {}

    def note(site: Any, _shape: Any, call: Any, run: Any) -> torch.Tensor:
        seen.setdefault(site.path.rpartition(".")[2], set()).add(call.query.dtype)
        return run()

    model = tiny.unet(upcast_attention=True).bfloat16()
    sites = TuneAVideoAdapter().sites(model, "unet")
    with torch.no_grad(), Intercept(note).at(model, sites):
        found = model(inputs[0].bfloat16(), inputs[1], inputs[2].bfloat16())
    assert found.dtype is torch.bfloat16
    assert seen == {name: {torch.float32} for name in ("attn1", "attn2", "attn_temp")}


def test_upcast_attention_mixes_in_float32() -> None:
    torch.manual_seed(0)
    module = TextAttention(8, 2, 6, upcast=True).bfloat16()
    hidden, text = torch.randn(3, 5, 8, dtype=torch.bfloat16), torch.randn(3, 4, 6, dtype=torch.bfloat16)
    heads = [
        x.unflatten(2, (2, 4)).transpose(1, 2) for x in (module.to_q(hidden), module.to_k(text), module.to_v(text))
    ]
    query, key, value = (x.float() for x in heads)
    mixed = (query @ key.transpose(2, 3) / 2).softmax(-1) @ value
    expected = module.to_out[0](mixed.transpose(1, 2).flatten(2).bfloat16())
    assert (module(hidden, text) - expected).abs().max() <= 4e-3
