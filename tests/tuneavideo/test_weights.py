"""`inflate` and `load_published`: weights from a 2-D U-Net, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from f3core_tuneavideo import TuneAVideoUNet, inflate, load_published


def flat(**changes: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**{**config, **changes}).eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_head_dim": (2, 4), "use_linear_projection": True}, {"layers_per_block": 2}],
    ids=["sd1", "sd2", "deep"],
)
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)], ids=str)
def test_equal_frames_come_out_as_the_2d_model_has_them(changes: dict[str, Any], size: tuple[int, int]) -> None:
    plain = flat(**changes)
    model = inflate(plain).eval()
    frame, text = torch.randn(2, 4, *size), torch.randn(2, 5, 12)
    times = torch.tensor([900, 3])
    with torch.no_grad():
        expected = plain(frame, times, text).sample
        found = model(frame[:, :, None].expand(-1, -1, 3, -1, -1), times, text)
    assert found.shape == (2, 4, 3, *size)
    assert (found - expected[:, :, None]).abs().max() <= 1e-5


def test_a_step_may_be_a_number_and_the_result_an_object() -> None:
    model = inflate(flat()).eval()
    clip, text = torch.randn(1, 4, 2, 8, 8), torch.randn(1, 5, 12)
    with torch.no_grad():
        expected = model(clip, torch.tensor([7]), text)
        assert torch.equal(model(clip, 7, text), expected)
        assert torch.equal(model(clip, torch.tensor(7), text, return_dict=True).sample, expected)
        assert torch.equal(model(clip, 7, encoder_hidden_states=text, return_dict=False)[0], expected)


def test_an_inflated_model_saves_and_loads(tmp_path: Any) -> None:
    model = inflate(flat())
    model.save_pretrained(tmp_path)
    loaded = TuneAVideoUNet.from_pretrained(tmp_path)
    assert loaded.config.block_out_channels == [16, 32]
    assert all(torch.equal(t, loaded.state_dict()[name]) for name, t in model.state_dict().items())


def test_published_weights_must_be_complete() -> None:
    model = inflate(flat())
    config = {"unet": {**model.config, "_class_name": "UNet3DConditionModel", "_diffusers_version": "0.11.1"}}
    weights = dict(model.state_dict())
    again = load_published(weights, config)
    assert all(torch.equal(t, weights[name]) for name, t in again.state_dict().items())
    weights.pop("conv_in.bias")
    with pytest.raises(RuntimeError, match=r"conv_in\.bias"):
        load_published(weights, config)


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match="addition_embed_type"):
        inflate(flat(addition_embed_type="text"))
    with pytest.raises(ValueError, match="block type"):
        TuneAVideoUNet(block_out_channels=(32,), down_block_types=("AttnDownBlock3D",), up_block_types=("UpBlock3D",))
    with pytest.raises(ValueError, match="dual_cross_attention"):
        TuneAVideoUNet(dual_cross_attention=True)
