"""I3D files are called as their repositories call them; VideoMAE sees what its checkpoint asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_networks
import torch
import torch.nn.functional as F
from f3core_metrics.networks import I3D, VideoMAE

from f3core.errors import ModelError, PluginError
from f3core.registry import installed


def some(count: int, frames: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny() -> tiny_networks.TinyI3D:
    torch.manual_seed(0)
    return tiny_networks.TinyI3D().eval()


@pytest.fixture
def script(tiny: tiny_networks.TinyI3D, tmp_path: Path) -> Path:
    return tiny_networks.save_script(tiny, tmp_path / "i3d_torchscript.pt")


@pytest.fixture(scope="module")
def mae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_networks.video_mae(tmp_path_factory.mktemp("mae") / "videomae")


def test_i3d_gets_8_bit_video_and_all_three_flags(tiny: tiny_networks.TinyI3D, script: Path) -> None:
    clips = some(3, 9, 20, 28)
    found = installed().make("feature network", "i3d", {"path": str(script), "batch_size": 2})(clips)
    video = (clips * 255).round().permute(0, 2, 1, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(found, tiny(video, rescale=True, resize=True, return_features=True))
        assert not torch.allclose(found, tiny(video, rescale=True, resize=True), atol=1e-3)
        assert not torch.allclose(found, tiny(video, resize=True, return_features=True), atol=1e-3)
    assert found.shape == (3, 6)


def test_a_plain_file_gets_what_the_flags_would_have_done(tmp_path: Path, tiny: tiny_networks.TinyI3D) -> None:
    plain = tiny_networks.PlainI3D()
    plain.whole.load_state_dict(tiny.state_dict())
    path = tiny_networks.save_script(plain, tmp_path / "plain.pt")
    clips = some(2, 10, 20, 28)
    video = (clips * 255).round().permute(0, 2, 1, 3, 4)
    with torch.no_grad():
        wanted = tiny(video, rescale=True, resize=True, return_features=True)
    torch.testing.assert_close(I3D(str(path))(clips), wanted, rtol=1e-4, atol=1e-5)


def test_i3d_needs_nine_frames(tiny: tiny_networks.TinyI3D, script: Path) -> None:
    with pytest.raises(RuntimeError, match="smaller than"):  # the arithmetic of time that asks for nine
        tiny(torch.zeros(1, 3, 8, 224, 224))
    tiny(torch.zeros(1, 3, I3D.MIN_FRAMES, 224, 224))
    with pytest.raises(ModelError, match="9 frames or more, got 8"):
        I3D(str(script))(some(1, 8, 16, 16))
    with pytest.raises(ModelError, match=r"clips \[B, F, 3, H, W\]"):
        I3D(str(script))(torch.zeros(9, 3, 16, 16))


def test_i3d_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no such file: .*missing\.pt; give `path`"):
        I3D(str(tmp_path / "missing.pt"))
    with pytest.raises(ModelError, match="option `path` is missing"):
        installed().make("feature network", "i3d")
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ModelError, match="is no TorchScript file"):
        I3D(str(tmp_path / "text.pt"))(some(1, 9, 16, 16))
    narrow = tiny_networks.save_script(torch.nn.Conv3d(4, 1, 1), tmp_path / "narrow.pt")
    with pytest.raises(ModelError, match=r"narrow\.pt\) failed on clips \[1, 9, 3, 16, 16\]: .*channels"):
        I3D(str(narrow))(some(1, 9, 16, 16))
    summed = tiny_networks.save_script(Summed(), tmp_path / "summed.pt")
    with pytest.raises(ModelError, match="a row for each of 2 clips"):
        I3D(str(summed))(some(2, 9, 16, 16))
    with pytest.raises(PluginError, match="does not take"):
        installed().make("feature network", "i3d", {"file": "x"})


class Summed(torch.nn.Module):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video.sum()


def test_video_mae_averages_the_last_hidden_state_over_tokens(mae: Path) -> None:
    from transformers import VideoMAEModel

    clips = some(3, 4, 16, 16)
    shown = (clips - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        wanted = VideoMAEModel.from_pretrained(mae).eval()(shown).last_hidden_state.mean(1)
    found = installed().make("feature network", "videomae", {"model": str(mae), "batch_size": 2})(clips)
    torch.testing.assert_close(found, wanted)


def test_video_mae_takes_frames_evenly_and_resizes_them(mae: Path) -> None:
    network = VideoMAE(str(mae))
    clips = some(2, 10, 24, 40)
    frames = clips[:, [0, 3, 6, 9]]
    smaller = F.interpolate(frames.flatten(0, 1), (16, 16), mode="bilinear", antialias=True).view(2, 4, 3, 16, 16)
    torch.testing.assert_close(network(clips), network(smaller))
    torch.testing.assert_close(network(clips[:, :1]), network(clips[:, :1].repeat(1, 4, 1, 1, 1)))
    with pytest.raises(ModelError, match="one frame or more"):
        network(clips[:, :0])


def test_video_mae_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="needs option `model`"):
        VideoMAE()
    with pytest.raises(ModelError, match=r"cannot load '.*nowhere'.*give option `model`: a folder"):
        VideoMAE(str(tmp_path / "nowhere"))(some(1, 4, 16, 16))
    other = tiny_networks.clip(tmp_path / "clip")
    with pytest.raises(ModelError, match=r"lacks \d+ weights of VideoMAEModel.*a VideoMAE checkpoint"):
        VideoMAE(str(other))(some(1, 4, 16, 16))
