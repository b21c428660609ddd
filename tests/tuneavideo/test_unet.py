"""`TuneAVideoUNet`: parity with the published code, parameters and MACs at the published size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from f3core_tuneavideo import TuneAVideoUNet, load_published
from safetensors import safe_open

from f3core.flops import MacCount, count

FIXTURE = Path("/work/shared/fixtures/tune_a_video_unet.safetensors")


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, torch.Tensor], dict]:
    if not FIXTURE.is_file():
        pytest.skip("no parity fixture on this machine")
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
